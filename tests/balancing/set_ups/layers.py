"""Set-ups about layers, and about what is wrapped around a model: checkpoints, compilers, scripts."""

import functools
import os
import subprocess
import sys
import tempfile
import warnings

import torch
import torch._functorch.config
from torch import _functorch as functorch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute

from tests.balancing.problems import Net
from tests.balancing.set_ups.outputs import errors, separate
from tests.balancing.set_ups.table import FEW, KINDS, SetUp, cell, measures, set_up


class Layers(nn.Module):
    """Any trunk from (N, 5) to (N, 6), and heads."""

    def __init__(self, *trunk, head=lambda: nn.Linear(6, 2)):
        super().__init__()
        self.trunk = nn.Sequential(*trunk)
        self.head = nn.ModuleDict({name: head() for name in "abc"})
        self.double()

    def features(self, x):
        return self.trunk(x)

    def losses(self, x):
        return separate_by(self, self.features(x), x)


def separate_by(net, z, x):
    return errors([net.head[name](z) for name in "abc"], x)


def same_statistics(model, reference, x, report):
    """Running means and counts moved as in one forward pass."""
    for mine, wanted in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(mine.to(wanted.dtype), wanted, rtol=1e-6, atol=1e-7)


def normalized():
    torch.manual_seed(0)
    return Layers(
        *(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh()),
        *(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh()),
    )


@set_up(*KINDS)
def batch_norm():
    return SetUp(normalized(), lambda net, x: net.losses(x), after=same_statistics)


@set_up(*KINDS)
def dropout():
    torch.manual_seed(0)
    net = Layers(
        nn.Linear(5, 8), Mask(0.3), nn.Tanh(), nn.Linear(8, 6), head=lambda: nn.Sequential(Mask(0.2), nn.Linear(6, 2))
    )
    return SetUp(net, lambda net, x: net.losses(x))


class Mask(nn.Module):
    """Dropout with the same mask in every precision."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        kept = torch.rand(x.shape, dtype=torch.float64) > self.rate
        return x * kept / (1 - self.rate)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(1, 6, batch_first=True)

    def forward(self, x):
        return self.cells(x[:, :, None])[0][:, -1]


@set_up(*KINDS)
def lstm():
    torch.manual_seed(0)
    return SetUp(Layers(Recurrent()), lambda net, x: net.losses(x))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 6)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.encoder(self.embed(x[:, :, None])).mean(1)


@set_up(*KINDS)
def transformer():
    torch.manual_seed(0)
    return SetUp(Layers(Tokens()), lambda net, x: net.losses(x))


# ---- recomputation -------------------------------------------------------------------------------------------------


@set_up(*KINDS)
def checkpoint():
    def losses(net, x):
        return separate_by(net, recompute(net.trunk, x, use_reentrant=False), x)

    return SetUp(Net(), losses, separate)


@set_up(*KINDS)
def checkpoint_batch_norm():
    def losses(net, x):
        return separate_by(net, recompute(net.trunk, x, use_reentrant=False), x)

    return SetUp(normalized(), losses, lambda net, x: net.losses(x), after=same_statistics)


@set_up(*FEW)
def checkpoint_dropout():
    torch.manual_seed(0)
    net = Layers(nn.Linear(5, 8), Mask(0.3), nn.Tanh(), nn.Linear(8, 6))

    def losses(net, x):
        return separate_by(net, recompute(net.trunk, x, use_reentrant=False), x)

    return SetUp(net, losses, lambda net, x: net.losses(x))


def reentrant(net, x):
    return separate_by(net, recompute(net.trunk, x.requires_grad_(), use_reentrant=True), x.detach())


@set_up(*KINDS, refused=(measures, r"(?i)checkpoint|reentrant"))
def checkpoint_reentrant():
    return SetUp(Net(), reentrant, separate)


@set_up(*KINDS, refused=(lambda method: True, r"(?i)checkpoint|reentrant"))
def checkpoint_reentrant_parameters():
    return SetUp(Net(), reentrant, separate, arguments=lambda net, x: {"parameters": list(net.parameters())})


# ---- compilers -----------------------------------------------------------------------------------------------------


class Compiled(nn.Module):
    """A model whose losses come from a compiled graph; the reference has its own, uncompiled copy."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def losses(self, x):
        return compiled_losses()(dict(self.net.named_parameters()), x)


@functools.cache
def compiled_losses():
    functorch.config.donated_buffer = False
    return torch.compile(written_out, backend="aot_eager")


def written_out(p, x):
    """The losses of :class:`Net` as a function of its parameters, so that one compiled graph serves all cells."""
    z = F.linear(F.linear(x, p["trunk.0.weight"], p["trunk.0.bias"]).tanh(), p["trunk.2.weight"], p["trunk.2.bias"])
    z = z.tanh()
    return errors([F.linear(z, p[f"head.{name}.weight"], p[f"head.{name}.bias"]) for name in "abc"], x)


@set_up(*KINDS)
def compiled_shared_given():
    return SetUp(
        Compiled(),
        lambda model, x: model.losses(x),
        lambda model, x: separate(model.net, x),
        arguments=lambda model, x: {"shared": model.net.shared()},
        merged=True,
        precisions=(torch.float64,),
    )


@set_up(*KINDS)
def compiled():
    return SetUp(
        Compiled(),
        lambda model, x: model.losses(x),
        lambda model, x: separate(model.net, x),
        merged=True,
        precisions=(torch.float64,),
    )


class Scripted(nn.Module):
    """Heads and trunk in one TorchScript function, whose graph is one node after it was profiled."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(5, 6)
        self.a, self.b, self.c = (nn.Linear(6, 2) for _ in "abc")
        self.double()

    def forward(self, x):
        z = torch.tanh(self.trunk(x))
        return self.a(z), self.b(z), self.c(z)


class Written(nn.Module):
    """A scripted model; a copy of it is not scripted."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)

    def __deepcopy__(self, memo):
        copied = Scripted().to(next(self.parameters()).dtype)
        copied.load_state_dict(self.network.state_dict())
        return Written(copied)


@set_up(*KINDS)
def torchscript():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Written(torch.jit.script(Scripted()))
    return SetUp(model, lambda net, x: errors(net(x), x), merged=True, steps=4)


# ---- functions of one's own ----------------------------------------------------------------------------------------


class Scale(torch.autograd.Function):
    """Twice its input; it keeps a tensor under the name that a leaf's own node has."""

    @staticmethod
    def forward(ctx, x):
        ctx.variable = torch.full_like(x, 2.0)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.variable


@set_up(*KINDS)
def function_with_variable():
    def losses(net, x):
        return separate_by(net, Scale.apply(net.features(x)), x)

    return SetUp(Net(), losses, lambda net, x: separate_by(net, 2 * net.features(x), x))


class ScaleParameter(torch.autograd.Function):
    """A product with a parameter, which it keeps under the name that a leaf's own node has."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x)
        ctx.variable = weight
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * ctx.variable, (gradient * x).sum(0)


@set_up(*KINDS)
def function_with_parameter_as_variable():
    def build():
        net = Net()
        net.gain = nn.Parameter(torch.linspace(0.5, 2, 6, dtype=torch.float64))
        return net

    def losses(net, x):
        return separate_by(net, ScaleParameter.apply(net.features(x), net.gain), x)

    return SetUp(build(), losses, lambda net, x: separate_by(net, net.features(x) * net.gain, x))


class Top(torch.autograd.Function):
    """The larger of neighbours, and which it was; the second output has no gradient."""

    @staticmethod
    def forward(ctx, x):
        values, places = x.view(len(x), -1, 2).max(-1)
        ctx.mark_non_differentiable(places)
        ctx.save_for_backward(places)
        return values, places

    @staticmethod
    def backward(ctx, gradient, _):
        (places,) = ctx.saved_tensors
        return F.one_hot(places, 2).to(gradient).mul(gradient[..., None]).flatten(1)


@set_up(*KINDS)
def function_with_marked_output():
    def pad(z, values):
        return torch.cat([values, z[:, :3]], 1)

    def losses(net, x):
        z = net.features(x)
        values, places = Top.apply(z)
        return separate_by(net, pad(z, values + 0 * places), x)

    def plain(net, x):
        z = net.features(x)
        return separate_by(net, pad(z, z.view(len(z), -1, 2).amax(-1)), x)

    return SetUp(Net(), losses, plain)


INDUCTOR = """
import sys, torch
import torch._functorch.config
from balancing import BalancingError, create_balancer
from tests.balancing.problems import Net
from tests.balancing.set_ups.outputs import separate
from tests.balancing.set_ups.table import batch

mode, flag = sys.argv[1:]
if flag == "flag":
    torch._functorch.config.donated_buffer = False
net = Net(dtype=torch.float32)
compiled = torch.compile(lambda x: separate(net, x))
x = batch(0).float()
if mode == "plain":
    sum(compiled(x).values()).backward()
    sys.exit()
names = ("a", "b", "c")
create_balancer("pcgrad", names).backward(separate(net, x))
wanted = net.gradients()
for _ in range(3):
    net.zero_grad()
    try:
        create_balancer("pcgrad", names).backward(compiled(x), shared=net.shared())
    except BalancingError as error:
        assert "donated" in str(error) or "compile" in str(error), error
        sys.exit()
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-5, atol=1e-5)
"""


def check_inductor(cache, *runs):
    """Processes that compile the same model one after another, with one cache on disk."""
    for run in runs:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
        environment |= {"TORCHINDUCTOR_AUTOGRAD_CACHE": "1"}
        done = subprocess.run([sys.executable, "-c", INDUCTOR, *run], env=environment, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()[-2000:]


@cell("pcgrad", slow=True)
def compiled_inductor(method):
    """A cache that a plain backward or another setting has filled does not change gradients: right, or refused."""
    for first in (("plain", "none"), ("plain", "flag"), ("balanced", "none")):
        with tempfile.TemporaryDirectory() as cache:
            check_inductor(cache, first, ("balanced", "flag"), ("balanced", "none"))
