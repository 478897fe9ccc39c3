"""Set-ups about what receives gradients: inputs, raw tensors, parametrizations, sparse and complex parameters."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.balancing.problems import TURNS, Net
from tests.balancing.set_ups.outputs import EVERY, errors, separate
from tests.balancing.set_ups.table import FEW, KINDS, SetUp, batch, measures, set_up


def freeze(net, x):
    """Freeze a layer of the trunk after the forward pass; the arguments of ``backward`` are none."""
    net.trunk[0].requires_grad_(False)
    return {}


def thawed(net, x):
    net.trunk[0].requires_grad_(True)
    return separate(net, x)


def frozen(net, x):
    net.trunk[0].requires_grad_(False)
    return separate(net, x)


@set_up(*KINDS)
def frozen_between():
    return SetUp(Net(), thawed, frozen, arguments=freeze)


@set_up(*KINDS)
def frozen_between_and_listed():
    def arguments(net, x):
        freeze(net, x)
        return {"parameters": list(net.parameters())}

    return SetUp(Net(), thawed, frozen, arguments=arguments)


@set_up(*EVERY)
def input_requires_grad():
    """Adversarial training: gradients are not measured at the input, and a measuring method leaves no ``.grad`` there.

    A method that takes one backward leaves one, as torch does.
    """

    def losses(net, x):
        x.requires_grad_()
        return separate(net, x)

    def after(net, reference, x, report):
        assert x.grad is None or report.gramian is None

    return SetUp(Net(), losses, separate, after=after)


@set_up(*FEW)
def input_asked_for():
    """The caller lists the input: it is a parameter like others, and receives its gradient."""
    net = Net()
    net.x = nn.Parameter(batch(0))

    def losses(model, x):
        return separate(model, model.x + x)

    return SetUp(net, losses, arguments=lambda model, x: {"parameters": [*model.parameters()]})


def residuals(net, points):
    """A thin domain, scaled inside the network: derivatives at the points are large."""
    xt = points[:, :2] * 1e-3
    xt.requires_grad_()
    out = net(xt / 1e-3)
    u, v = out[:, :1], out[:, 1:]
    du, dv = (torch.autograd.grad(f.sum(), xt, create_graph=True)[0] for f in (u, v))
    return {
        "momentum": (1e-3 * du[:, 1:] + 1e-3 * u * du[:, :1]).square().mean(),
        "continuity": (1e-3 * du[:, :1] + 1e-3 * dv[:, 1:] - 1).square().mean(),
        "data": 10 * (u - points[:, :1].sin()).square().mean(),
    }


@set_up(*EVERY)
def pinn():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    # float32 cancels in second derivatives: rows themselves are right to 1e-6 at best
    return SetUp(net, residuals, objectives=("momentum", "continuity", "data"), precisions=(torch.float64,))


class Raw(nn.Module):
    """Weights that are plain tensors, as in functional code."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tensors = {"trunk": torch.randn(6, 5, dtype=torch.float64)}
        self.tensors |= {name: torch.randn(2, 6, dtype=torch.float64) for name in "abc"}
        for tensor in self.tensors.values():
            tensor.requires_grad_()

    def to(self, dtype):
        self.tensors = {key: t.detach().to(dtype).requires_grad_() for key, t in self.tensors.items()}
        return self

    def double(self):
        return self.to(torch.float64)

    def zero_grad(self, set_to_none=True):
        for tensor in self.tensors.values():
            tensor.grad = None


@set_up(*KINDS)
def raw_tensors():
    def losses(net, x):
        z = F.linear(x, net.tensors["trunk"]).tanh()
        return errors([F.linear(z, net.tensors[name]) for name in "abc"], x)

    return SetUp(Raw(), losses, leaves=lambda net: net.tensors)


@set_up(*FEW)
def raw_tensors_listed():
    def losses(net, x):
        z = F.linear(x, net.tensors["trunk"]).tanh()
        return errors([F.linear(z, net.tensors[name]) for name in "abc"], x)

    def arguments(net, x):
        return {"shared": [net.tensors["trunk"]], "parameters": [*net.tensors.values()]}

    return SetUp(Raw(), losses, leaves=lambda net: net.tensors, arguments=arguments)


@set_up(*KINDS)
def weight_norm():
    net = Net()
    for module in (net.trunk[0], net.head["a"]):
        parametrizations.weight_norm(module)
    return SetUp(net, separate)


@set_up(*KINDS)
def spectral_norm():
    net = Net()
    for module in (net.trunk[2], net.head["b"]):
        parametrizations.spectral_norm(module)

    def after(model, reference, x, report):
        for mine, wanted in zip(model.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(mine.double(), wanted, rtol=1e-4, atol=1e-5)  # a power iteration per step

    return SetUp(net, separate, after=after)


@set_up(*KINDS)
def functional_call():
    def losses(net, x):
        values = {key: p * 1 for key, p in net.named_parameters()}
        trunk = {key.removeprefix("trunk."): v for key, v in values.items() if key.startswith("trunk")}
        z = torch.func.functional_call(net.trunk, trunk, x)
        heads = [F.linear(z, values[f"head.{name}.weight"], values[f"head.{name}.bias"]) for name in "abc"]
        return errors(heads, x)

    return SetUp(Net(), losses, separate)


class Spectral(nn.Module):
    """A trunk, or heads, with complex weights."""

    def __init__(self, shared):
        super().__init__()
        torch.manual_seed(0)
        complex_layer = nn.Parameter(torch.randn(6, 5, dtype=torch.complex128))
        self.trunk = nn.ParameterList([complex_layer if shared else nn.Parameter(torch.randn(6, 5).double())])
        kind = torch.float64 if shared else torch.complex128
        self.head = nn.ParameterDict({name: nn.Parameter(torch.randn(2, 6, dtype=kind)) for name in "abc"})

    def losses(self, x):
        z = (x.to(self.trunk[0].dtype) @ self.trunk[0].T).abs()
        return errors([(z.to(self.head[name].dtype) @ self.head[name].T).abs() for name in "abc"], x)


def as_it_is(model):
    """A model whose precision a cell does not change."""
    model.to = lambda dtype: model
    return model


@set_up(*KINDS, refused=(measures, r"complex.*view_as_real"))
def complex_shared_parameter():
    return SetUp(as_it_is(Spectral(shared=True)), lambda net, x: net.losses(x), precisions=(torch.float64,))


@set_up(*KINDS)
def complex_head():
    return SetUp(as_it_is(Spectral(shared=False)), lambda net, x: net.losses(x), precisions=(torch.float64,))


class Words(nn.Module):
    """Bags of words; the table of embeddings is shared or belongs to a head."""

    def __init__(self, sparse_trunk, sparse_head):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(9, 6, sparse=sparse_trunk)
        self.side = nn.Embedding(9, 6, sparse=sparse_head)
        self.head = nn.ModuleDict({name: nn.Linear(6, 2) for name in "abc"})
        self.double()

    def losses(self, x):
        tokens = (x.abs() * 3).long().clamp(max=8)
        z = self.words(tokens).mean(1).tanh()
        outputs = [self.head["a"](z), self.head["b"](z), self.head["c"](z + self.side(tokens).mean(1))]
        return errors(outputs, x)


@set_up(*KINDS)
def embedding():
    return SetUp(Words(False, False), lambda net, x: net.losses(x))


@set_up(*KINDS)
def sparse_head():
    return SetUp(Words(False, True), lambda net, x: net.losses(x), lambda net, x: dense(net).losses(x))


@set_up(*KINDS, refused=(measures, r"sparse=False"))
def sparse_shared():
    return SetUp(Words(True, False), lambda net, x: net.losses(x), lambda net, x: dense(net).losses(x))


def dense(net):
    """The model with ordinary gradients of its embeddings."""
    net.words.sparse = net.side.sparse = False
    return net


@set_up(*KINDS)
def mixed_precisions():
    """A layer in float64 among float32 ones; rows of different precision."""
    net = Net(dtype=torch.float32)
    net.trunk[0].double()
    net.head["b"].double()

    def losses(model, x):
        z = model.trunk[1:](model.trunk[0](x.double()).to(model.trunk[2].weight.dtype))
        outputs = [model.head[name](z.to(model.head[name].weight.dtype)) for name in "abc"]
        return errors(outputs, x)

    return SetUp(as_it_is(net), losses, separate, precisions=(torch.float32,))


class Spare(Net):
    """A layer that is skipped at some steps, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(6, 6, dtype=torch.float64)
        self.unused = nn.Linear(6, 6, dtype=torch.float64)

    def skipping(self, x):
        """The layer is skipped for batches whose first number is positive: the second and the third of four."""
        z = self.features(x)
        if float(x.detach()[0, 0]) < 0:
            z = z + self.extra(z).tanh()
        return errors([self.head[name](z) for name in "abc"], x)


def skips(step):
    """Batches for :meth:`Spare.skipping`."""
    x = batch(step)
    x[0, 0] = x[0, 0].abs() * (1 if step in (1, 2) else -1)
    return x


SHARED = [f"trunk.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
EXTRA = ["extra.weight", "extra.bias"]


@set_up(*EVERY)
def layer_drop():
    model = Spare()
    memory = [*SHARED, *EXTRA]
    return SetUp(model, lambda net, x: net.skipping(x), shared=memory, batch=skips, steps=4)


@set_up(*KINDS)
def layer_drop_shared_given():
    def arguments(net, x):
        return {"shared": [*net.trunk.parameters(), *net.extra.parameters()]}

    return SetUp(
        Spare(), lambda net, x: net.skipping(x), shared=[*SHARED, *EXTRA], batch=skips, steps=4, arguments=arguments
    )


@set_up(*KINDS)
def superfluous_shared():
    """``shared=`` names a layer that no loss reaches, and one twice."""

    def arguments(net, x):
        return {"shared": [*net.trunk.parameters(), *net.unused.parameters(), net.trunk[0].weight]}

    return SetUp(Spare(), separate, arguments=arguments, merged=True)


class Experts(Net):
    """Every batch goes through one of three experts."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(6, 6, dtype=torch.float64) for _ in range(3))

    def routed(self, x):
        """The first number of a batch names its expert."""
        z = self.features(x)
        z = self.experts[int(x.detach()[0, 0])](z).tanh()
        return errors([self.head[name](z) for name in "abc"], x)


def routes(step):
    """Batches for :meth:`Experts.routed`."""
    x = batch(step)
    x[0, 0] = (0, 2, 1, 0)[step]
    return x


@set_up(*KINDS)
def experts():
    names = [*SHARED, *(f"experts.{i}.{kind}" for i in range(3) for kind in ("weight", "bias"))]
    return SetUp(Experts(), lambda net, x: net.routed(x), shared=names, batch=routes, steps=4)


@set_up(*(name for name in KINDS if name not in TURNS))
def parameters_subset():
    """A phase of a GAN: only some networks are trained."""
    chosen = {*SHARED[:2], "head.a.weight", "head.a.bias"}

    def arguments(net, x):
        return {"parameters": [p for key, p in net.named_parameters() if key in chosen]}

    return SetUp(
        Net(),
        separate,
        arguments=arguments,
        leaves=lambda net: {k: p for k, p in net.named_parameters() if k in chosen},
    )


@set_up(*KINDS)
def channels_last():
    class Pictures(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.trunk = nn.Sequential(
                nn.Conv2d(5, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 6, 3, padding=1), nn.Tanh()
            )
            self.head = nn.ModuleDict({name: nn.Conv2d(6, 2, 1) for name in "abc"})
            self.double().to(memory_format=torch.channels_last)

    def losses(net, x):
        maps = torch.stack([x * (i + 1) for i in range(16)], -1).view(len(x), 5, 4, 4).sin()
        z = net.trunk(maps.to(memory_format=torch.channels_last))
        return errors([net.head[name](z).mean((2, 3)) for name in "abc"], x)

    def plain(net, x):
        return losses(net.to(memory_format=torch.contiguous_format), x)

    return SetUp(Pictures(), losses, plain)
