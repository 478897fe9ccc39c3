"""Models compiled with inductor, whose backward may overwrite what it reads, and whose caches outlive a process."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._functorch.config
from torch import nn

import balancing
from balancing import BalancingError, create_balancer

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")


class ReLUs(nn.Module):
    """A trunk whose compiled backward writes over its activations if it may."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(21, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.a, self.b = nn.Linear(64, 5), nn.Linear(64, 1)

    def forward(self, x):
        z = self.trunk(x)
        return self.a(z), self.b(z)


X = torch.randn(128, 21, generator=torch.Generator().manual_seed(1))


def gradients(name, net, call, **options):
    """The gradients of a step, whose losses come from ``call``."""
    net.zero_grad()
    a, b = call(X)
    losses = {"a": (a - 1).square().mean(), "b": (b + 1).square().mean()}
    balancer = create_balancer(name, tuple("ab"), **options)
    balancer.backward(losses, shared=list(net.trunk.parameters()))
    return [p.grad for p in net.parameters()]


def check(name, net, call):
    wanted = gradients(name, net, net)
    torch.testing.assert_close(gradients(name, net, call), wanted, rtol=1e-4, atol=1e-6)


@pytest.fixture
def inductor(tmp_path, monkeypatch):
    """Inductor with a cache of its own, and torch's settings as they come."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=True), torch.compiler.config.patch(cache_key_tag=""):
        yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_backward_that_overwrites_is_refused(inductor):
    net = ReLUs()
    call = torch.compile(net)
    check("sum", net, call)  # one backward, which may overwrite
    with pytest.raises(
        BalancingError, match=r"mgda: .* call balancing.allow_several_backwards\(\) before torch.compile"
    ):
        gradients("mgda", net, call)
    check("sum", net, call)


@pytest.mark.slow
def test_a_cached_backward_that_overwrites_is_refused_and_never_made_once_asked(inductor):
    net = ReLUs()
    check("sum", net, torch.compile(net))
    torch._dynamo.reset()
    torch._functorch.config.donated_buffer = False  # the cache has the backward all the same
    with pytest.raises(BalancingError, match="mgda: the backward of a compiled function writes over"):
        gradients("mgda", net, torch.compile(net))

    torch._dynamo.reset()
    balancing.allow_several_backwards()
    balancing.allow_several_backwards()
    call = torch.compile(net)
    check("sum", net, call)
    for _ in range(2):
        check("mgda", net, call)


STEPS = """
import sys, torch
import balancing
from tests.balancing.test_compiled import BalancingError, ReLUs, check
torch.set_num_threads(1)
net = ReLUs()
for word in sys.argv[1:]:
    if word == "flag":
        torch._functorch.config.donated_buffer = False
    elif word == "allow":
        balancing.allow_several_backwards()
    elif word == "compile":
        call = torch.compile(net)
    else:
        try:
            check(word, net, call)
            print(word, "right")
        except BalancingError as error:
            print(word, "refused" if "allow_several_backwards" in str(error) else error)
"""


@pytest.mark.slow
def test_no_cache_of_an_earlier_process_changes_gradients(tmp_path):
    def run(*words):
        command = [sys.executable, "-c", STEPS, *words]
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")[:-1]

    assert run("compile", "sum", "mgda") == ["sum right", "mgda refused"]
    assert run("compile", "mgda") == ["mgda refused"]
    assert run("flag", "compile", "mgda") == ["mgda refused"]
    assert run("allow", "compile", "mgda", "sum", "mgda") == ["mgda right", "sum right", "mgda right"]
    assert run("allow", "compile", "sum", "mgda") == ["sum right", "mgda right"]


@pytest.mark.slow
def test_the_trunk_is_differentiated_once_in_features_mode(inductor):
    """So its compiled backward may overwrite what it reads."""
    net = ReLUs()
    trunk = torch.compile(net.trunk)
    for step in range(2):
        grads = []
        for function in (trunk, net.trunk):
            net.zero_grad()
            z = function(X)
            losses = {"a": (net.a(z) - 1).square().mean(), "b": (net.b(z) + 1).square().mean()}
            if step == 0:
                sum(losses.values()).backward()
            else:
                create_balancer("mgda", tuple("ab"), at="features").backward(
                    losses, features=z, shared=list(net.trunk.parameters())
                )
            grads.append([p.grad for p in net.parameters()])
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)
