"""Set-ups about state: whose it is, copies, and balancers that are part of a model."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.balancing.problems import BILEVEL, Net
from tests.balancing.set_ups.outputs import EVERY, separate
from tests.balancing.set_ups.reference import build
from tests.balancing.set_ups.table import KINDS, batch, cell, own_optimizer, refuses

#: What a method keeps for each objective by itself: parameter or entry of the state.
KEPT = {
    "uncertainty": lambda b: b.noise,
    "imtl_l": lambda b: next(b.parameters()),
    "famo": lambda b: b.logits,
    "gradnorm": lambda b: b.initial,
    "dwa": lambda b: b.history[-1],
    "db_mtl": lambda b: b.gradient_balancer.memory["m"],
    "moco": lambda b: b.memory["y"],
}
OPTIONS = {
    "dwa": ({"window": 1}, {"window": 2}),
    "moco": ({"rescale": True}, {"rescale": False}),
    "mgda": ({"normalize": "none"}, {"normalize": "l2"}),
    "pcgrad": ({"log_losses": False}, {"log_losses": True}),
    "uncertainty": ({"form": "gaussian"}, {"form": "log1p"}),
}


def trained(balancer, net, steps=3, start=0):
    """Gradients of a few steps, with an optimizer for what the method learns."""
    optimizer, left = own_optimizer(balancer), []
    for step in range(start, start + steps):
        net.zero_grad()
        balancer.zero_grad()
        x = batch(step)
        losses = separate(net, x)
        balancer.backward({name: losses[name] for name in balancer.objectives})
        if balancer.observes:
            balancer.observe({name: 0.9 * losses[name].detach() for name in balancer.objectives})
        left.append(net.gradients())
        if optimizer is not None:
            optimizer.step()
    return left


def same(first, second):
    """Whether two lists of gradients are equal bit for bit."""
    pairs = zip(first, second, strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


@cell(*EVERY, *BILEVEL)
def state_other_order(method):
    state = build(method, "abc").state_dict()
    refuses(lambda: build(method, "bac").load_state_dict(state), r"order")


@cell(*KINDS)
def state_other_names(method):
    state = build(method, ("a", "b", "x")).state_dict()
    refuses(lambda: build(method, ("a", "b", "c")).load_state_dict(state), r"\bx\b", r"\bc\b")


@cell(*KINDS, *BILEVEL)
def state_other_method(method):
    other = "upgrad" if method == "mgda" else "mgda"
    state = build(other, "abc").state_dict()
    refuses(lambda: build(method, "abc").load_state_dict(state), other)


@cell(*OPTIONS)
def state_other_options(method):
    first, second = OPTIONS[method]
    state = build(method, "abc", **first).state_dict()
    refuses(lambda: build(method, "abc", **second).load_state_dict(state), next(iter(first)))


@cell(*KEPT)
def state_superset(method):
    """An objective that was added later starts afresh; the others keep what they have, in any order."""
    old, new, untouched = build(method, ("a", "b")), build(method, ("b", "c", "a")), build(method, ("b", "c", "a"))
    trained(old, Net(("a", "b")))
    assert new.load_objectives(old.state_dict()) == ("c",)
    before, after = KEPT[method](old), KEPT[method](new)
    assert torch.equal(after[2], before[0])
    assert torch.equal(after[0], before[1])
    assert not torch.equal(before[0], before[1])
    if method not in ("db_mtl", "moco"):
        assert torch.equal(after[1], KEPT[method](untouched)[1])
    trained(new, Net(), steps=2)


@cell(*EVERY)
def resumed(method):
    """A state that travelled through a file goes on bit for bit."""
    net, first, second = Net(), build(method, "abc"), build(method, "abc")
    trained(first, net)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert same(trained(first, net, start=3), trained(second, net, start=3))


class NoModel(pickle.Pickler):
    """Notices parameters of a network on their way into a file."""

    def __init__(self, file, net):
        super().__init__(file)
        self.theirs, self.met = {id(p) for p in net.parameters()}, 0

    def persistent_id(self, thing):
        self.met += id(thing) in self.theirs


@cell(*EVERY)
def copied_and_pickled(method):
    """Copies go on bit for bit, and carry no parameter of the model along."""
    net, balancer = Net(), build(method, "abc")
    trained(balancer, net)
    file = io.BytesIO()
    pickler = NoModel(file, net)
    pickler.dump(balancer)
    assert pickler.met == 0
    file.seek(0)
    copies = [copy.deepcopy(balancer), pickle.load(file)]
    held = {id(p) for p in net.parameters()}
    copied = copy.deepcopy([net.trunk, balancer])[1]
    assert not held & {id(p) for p in copied.parameters()}
    wanted = trained(balancer, net, start=3)
    for other in copies:
        assert same(trained(other, net, start=3), wanted)


class WithBalancer(nn.Module):
    """A model that holds its balancer, as Lightning modules do."""

    def __init__(self, method):
        super().__init__()
        self.net, self.balancer = Net(), build(method, "abc")


@cell(*EVERY)
def saved_with_safetensors(method):
    safetensors = pytest.importorskip("safetensors.torch")
    first, second = WithBalancer(method), WithBalancer(method)
    trained(first.balancer, first.net)
    second.load_state_dict(safetensors.load(safetensors.save(first.state_dict())))
    wanted = trained(first.balancer, first.net, start=3)
    assert same(trained(second.balancer, second.net, start=3), wanted)


@cell(*KINDS)
def averaged_model(method):
    """The average of a model goes on with its balancer as it was; that of the model is untouched."""
    for buffers in (False, True):
        model, alone = WithBalancer(method), WithBalancer(method)
        average = AveragedModel(model, use_buffers=buffers)
        mine = []
        for step in range(3):
            mine += trained(model.balancer, model.net, steps=1, start=step)
            average.update_parameters(model)
        wanted = [g for step in range(3) for g in trained(alone.balancer, alone.net, steps=1, start=step)]
        assert same(mine, wanted)
        for p, q in zip(average.module.net.parameters(), model.net.parameters(), strict=True):
            torch.testing.assert_close(p, q)
        average.load_state_dict(average.state_dict())
