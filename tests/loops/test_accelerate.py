"""docs/loop_accelerate.md: micro-batches, bf16, resumed runs, several processes."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from balancing import create_balancer
from tests.loops.pages import assert_equal, by_process, load

DRIVER = """
import os
import torch
import loop

torch.optim.Adam = lambda parameters, lr: torch.optim.SGD(parameters, lr=0.05)  # Adam makes full steps of rounding errors
found = {}
for method in ("pcgrad", "uncertainty", "sum"):
    model, balancer = loop.train("no", 2, method, 2)
    found[method] = dict(model.module.state_dict() if hasattr(model, "module") else model.state_dict())
torch.save(found, f"{os.environ['RANK']}.pt")
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """The function of the page, each call with a new Accelerator; its files go to a temporary folder."""
    loop = load("accelerate")
    from accelerate.state import AcceleratorState, GradientState

    monkeypatch.chdir(tmp_path)

    def train(*arguments, **options):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return loop.train(*arguments, **options)

    return train


def plain(method, epochs, precision=None):
    """Parameters after training without Accelerate, by whole batches."""
    loop = load("accelerate")
    torch.manual_seed(0)
    model, balancer = loop.TwoHeads(), create_balancer(method, ("kind", "size"))
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=0.01)
    loader = loop.batches(16)
    for _ in range(epochs):
        for x, kind, size in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                answers = model(x)
            losses = {"kind": cross_entropy(answers[0].float(), kind), "size": mse_loss(answers[1].float(), size)}
            balancer.backward(losses)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        balancer.next_epoch()
    return dict(model.state_dict())


@pytest.mark.parametrize("method", ["sum", "pcgrad", "mgda"])
def test_micro_batches_equal_whole_batches(method, train):
    for micro_batches in (1, 4):
        model, balancer = train("no", micro_batches, method, 2)
        assert balancer.step == 8
        torch.testing.assert_close(dict(model.state_dict()), plain(method, 2), rtol=1e-4, atol=1e-5)


def test_bf16_is_that_of_autocast(train):
    model, _ = train("bf16", 1, "pcgrad", 2)
    wanted = plain("pcgrad", 2, "bf16")
    torch.testing.assert_close(dict(model.state_dict()), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wanted["trunk.0.weight"], plain("pcgrad", 2)["trunk.0.weight"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["pcgrad", "uncertainty", "dwa", "moco"])
def test_a_resumed_run_equals_an_uninterrupted_one(method, train):
    model, balancer = train("no", 2, method, 4)
    train("no", 2, method, 2)
    resumed, again = train("no", 2, method, 4, resume="state")
    assert again.step == 16
    assert_equal(dict(resumed.state_dict()), dict(model.state_dict()))
    assert_equal(dict(again.state_dict()), dict(balancer.state_dict()))


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    (whole,) = by_process("accelerate", DRIVER, tmp_path / "one", 1)
    for rank in by_process("accelerate", DRIVER, tmp_path / "two", 2):
        torch.testing.assert_close(rank, whole, rtol=1e-4, atol=1e-5)
