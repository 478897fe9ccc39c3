"""Set-ups about how heads, outputs and losses are put together."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.balancing.problems import ALL, Net
from tests.balancing.set_ups.table import FEW, KINDS, SetUp, set_up

EVERY = (*ALL, "uncertainty>pcgrad", "realtime>moco")


def targets(x):
    """What each of three outputs should be: the second disagrees with the others."""
    return [(-1.0) ** i * (1 + x[:, :2]) for i in range(3)]


def errors(outputs, x):
    """A loss per output, of very different size."""
    pairs = zip("abc", outputs, targets(x), strict=False)
    return {name: 4.0**i * (y - t).square().mean() for i, (name, y, t) in enumerate(pairs)}


def separate(net, x):
    """The losses, each from its own head."""
    z = net.features(x)
    return errors([net.head[name](z) for name in net.objectives], x)


@set_up(*EVERY)
def separate_heads():
    return SetUp(Net(), separate)


@set_up(*EVERY)
def concatenated_outputs():
    def losses(net, x):
        z = net.features(x)
        out = torch.cat([net.head[name](z) for name in "abc"], dim=1)
        return errors(out.chunk(3, dim=1), x)

    return SetUp(Net(), losses, separate, merged=True)


@set_up(*KINDS)
def stacked_outputs():
    def losses(net, x):
        z = net.features(x)
        return errors(torch.stack([net.head[name](z) for name in "abc"]), x)

    return SetUp(Net(), losses, separate, merged=True)


@set_up(*KINDS)
def outputs_written_in_place():
    def losses(net, x):
        z = net.features(x)
        out = x.new_empty(len(x), 6)
        for i, name in enumerate("abc"):
            out[:, 2 * i : 2 * i + 2] = net.head[name](z)
        return errors(out.split(2, dim=1), x)

    return SetUp(Net(), losses, separate, merged=True)


@set_up(*KINDS)
def loss_matrix():
    def losses(net, x):
        z = net.features(x)
        squares = [
            4.0**i * (net.head[n](z) - t).square().mean(1)
            for i, (n, t) in enumerate(zip("abc", targets(x), strict=True))
        ]
        return dict(zip("abc", torch.stack(squares, dim=1).mean(0).unbind(), strict=True))

    return SetUp(Net(), losses, separate, merged=True)


@set_up(*KINDS)
def nested_concatenation():
    def losses(net, x):
        z = net.features(x)
        a, b, c = (net.head[name](z) for name in "abc")
        out = torch.cat([torch.cat([a, b], 1).tanh(), c], 1)
        return errors([out[:, :2], out[:, 2:4], out[:, 4:]], x)

    def plain(net, x):
        z = net.features(x)
        a, b, c = (net.head[name](z) for name in "abc")
        return errors([a.tanh(), b.tanh(), c], x)

    return SetUp(Net(), losses, plain, merged=True)


class Tail(Net):
    """A layer after the heads, which all objectives share."""

    def __init__(self):
        super().__init__()
        self.tail = nn.Linear(2, 2, dtype=torch.float64)


@set_up(*KINDS)
def shared_tail():
    def losses(net, x):
        z = net.features(x)
        return errors(net.tail(torch.stack([net.head[name](z) for name in "abc"])), x)

    def plain(net, x):
        z = net.features(x)
        return errors([net.tail(net.head[name](z)) for name in "abc"], x)

    return SetUp(Tail(), losses, plain, merged=True)


class Scaled(Net):
    """All outputs are multiplied by one number after they were concatenated."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))


@set_up(*FEW)
def concatenated_outputs_scaled():
    def losses(net, x):
        z = net.features(x)
        return errors((net.gain * torch.cat([net.head[name](z) for name in "abc"], 1)).chunk(3, 1), x)

    def plain(net, x):
        z = net.features(x)
        return errors([net.gain * net.head[name](z) for name in "abc"], x)

    return SetUp(Scaled(), losses, plain, merged=True)


class Tied(nn.Module):
    """An autoencoder that decodes with the weight it encodes with, and heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Linear(5, 6, dtype=torch.float64)
        self.decode = nn.Linear(6, 5, dtype=torch.float64)
        self.decode.weight = nn.Parameter(self.encode.weight.detach().T.clone())
        self.again = nn.Linear(6, 5, dtype=torch.float64)
        self.again.weight = self.decode.weight
        self.head = nn.ModuleDict({name: nn.Linear(5, 2, dtype=torch.float64) for name in "abc"})


@set_up(*KINDS)
def tied_weights():
    def losses(net, x):
        y = net.again(net.encode(net.decode(net.encode(x).tanh()).tanh()).tanh()).tanh()
        return errors([net.head[name](y) for name in "abc"], x)

    return SetUp(Tied(), losses)


class Branches(Net):
    """Two of three objectives share a layer more."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(6, 6, dtype=torch.float64)


@set_up(*EVERY)
def layer_of_two():
    def losses(net, x):
        z = net.features(x)
        y = net.branch(z).tanh()
        return errors([net.head["a"](y), net.head["b"](y), net.head["c"](z)], x)

    return SetUp(Branches(), losses)


@set_up(*KINDS)
def layer_of_two_concatenated():
    def losses(net, x):
        z = net.features(x)
        y = net.branch(z).tanh()
        out = torch.cat([net.head["a"](y), net.head["b"](y), net.head["c"](z)], 1)
        return errors(out.chunk(3, 1), x)

    def plain(net, x):
        z = net.features(x)
        y = net.branch(z).tanh()
        return errors([net.head["a"](y), net.head["b"](y), net.head["c"](z)], x)

    return SetUp(Branches(), losses, plain, merged=True)


@set_up(*KINDS)
def fused_head():
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    return SetUp(model, lambda net, x: errors(net(x).chunk(3, 1), x))


@set_up(*KINDS)
def vmapped_losses():
    def losses(net, x):
        z = net.features(x)
        weight = torch.stack([net.head[name].weight for name in "abc"])
        bias = torch.stack([net.head[name].bias for name in "abc"])
        factor = torch.tensor([1.0, 4.0, 16.0], dtype=x.dtype)

        def one(w, b, t, f):
            return f * (F.linear(z, w, b) - t).square().mean()

        values = torch.func.vmap(one)(weight, bias, torch.stack(targets(x)), factor)
        return dict(zip("abc", values.unbind(), strict=True))

    return SetUp(Net(), losses, separate, merged=True)


@set_up(*EVERY)
def nothing_shared():
    """A network for each objective."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(5, 2) for name in "abc"}).double()
    return SetUp(model, lambda net, x: errors([net[name](x) for name in "abc"], x))


@set_up(*KINDS)
def frozen_trunk():
    net = Net()
    net.trunk.requires_grad_(False)
    return SetUp(net, separate)


@set_up(*KINDS)
def frozen_trunk_concatenated():
    net = Net()
    net.trunk.requires_grad_(False)

    def losses(net, x):
        z = net.features(x)
        return errors(torch.cat([net.head[name](z) for name in "abc"], dim=1).chunk(3, dim=1), x)

    return SetUp(net, losses, separate, merged=True)
