"""Set-ups in which an objective has no part in a step, or reaches nothing that is shared."""

import copy
from functools import partial

import pytest
import torch

from tests.balancing.problems import MANY, TURNS, Net
from tests.balancing.set_ups.outputs import EVERY, separate
from tests.balancing.set_ups.reference import Reference, ReferenceOfPresent, ReferenceWithProbe, build, rows_of
from tests.balancing.set_ups.table import (
    COMPOSED,
    KINDS,
    SetUp,
    batch,
    cell,
    check_right,
    close,
    compare,
    measures,
    move,
    right_or_refused,
    set_up,
)

#: Methods that treat each objective by itself, or remember nothing: the past of an absent one cannot be seen.
FORGETFUL = (
    *("sum", "fixed", "uncertainty", "realtime", "pcgrad", "mgda", "nash_mtl", "upgrad", "grad_normalize", "graddrop"),
    *("db_mtl", "cagrad", "imtl_g", "conflict_free", "aligned_mtl", "uncertainty>pcgrad"),
)
OTHERS = tuple(name for name in EVERY if name not in (*TURNS, *MANY))


def without(losses, *absent):
    """The losses as a caller gives them if some objectives are absent."""
    return {name: None if name in absent else loss for name, loss in losses.items()}


def check_report(present, report):
    """The report says who was there."""
    assert report.present == present
    for i, there in enumerate(present):
        assert bool(report.losses[i].isnan()) != there
        if report.weights is not None:
            assert bool(report.weights[i].isnan()) != there


@set_up(*OTHERS)
def absent_from_the_start():
    return SetUp(
        Net(),
        lambda net, x: without(separate(net, x), "b"),
        lambda net, x: {key: loss for key, loss in separate(net, x).items() if key != "b"},
        reference=partial(ReferenceOfPresent, present=("a", "c")),
        after=lambda model, reference, x, report: check_report((True, False, True), report),
        tolerance=1e-6,  # some methods keep float32 numbers of all objectives, which the reference has of the others
    )


@cell(*FORGETFUL)
def absent_later(method):
    """At the second step: the others as if it had never been there, no gradient for its head."""
    s = SetUp(Net(), separate)
    net, exact = s.model, copy.deepcopy(s.model)
    balancer = build(method, "abc")
    whole, others = Reference(method, "abc"), ReferenceOfPresent(method, "abc", present=("a", "c"))
    for step in range(2):
        net.zero_grad()
        x = batch(step)
        losses = separate(net, x)
        report = balancer.backward(without(losses, "b") if step else losses)
        values = separate(exact, x)
        leaves = dict(exact.named_parameters())
        rows = rows_of(values, leaves)
        wanted = whole.step(values, rows, leaves) if step == 0 else None
        later = others.step(values, rows, leaves)
        compare(s, net, later if wanted is None else wanted, 1e-9)
        move(s, net, exact, 0.1 / later.size)
    check_report((True, False, True), report)


@cell(*OTHERS)
def all_but_one_absent(method):
    """A plain backward of the one that is there, or what the method makes of one objective."""
    net, x = Net(), batch(0)
    rows = rows_of({"b": separate(net, x)["b"]}, dict(net.named_parameters()))
    report = build(method, "abc").backward(without(separate(net, x), "a", "c"))
    check_report((False, True, False), report)
    gradients = net.gradients()
    assert gradients.keys() == rows["b"].keys()
    alone = Net()
    build(method, "b").backward({"b": separate(alone, x)["b"]})
    for wanted in (rows["b"], alone.gradients()):
        if all(torch.allclose(gradients[key], g, rtol=1e-9, atol=1e-12) for key, g in wanted.items()):
            return
    pytest.fail("neither the plain gradient nor that of a balancer for this objective alone")


@cell(*TURNS)
def absent_in_its_turn(method):
    """An absent objective's turn passes to nobody, or to one that is there."""
    net, balancer = Net(), build(method, "abc")
    for step in range(3):
        net.zero_grad()
        x = batch(step)
        plain = rows_of(separate(net, x), dict(net.named_parameters()))
        report = balancer.backward(without(separate(net, x), "b"))
        check_report((True, False, True), report)
        heads = {key: g for key, g in net.gradients().items() if key.startswith("head") and g.any()}
        turns = {key.split(".")[1] for key in heads}
        assert turns <= {"a", "c"}
        assert len(turns) <= 1
        for key, g in heads.items():
            torch.testing.assert_close(g, plain[key.split(".")[1]][key])


@cell(*KINDS)
def all_absent(method):
    """Refused by name, or a step that changes nothing."""
    net, balancer = Net(), build(method, "abc")
    before = balancer.step

    def check():
        assert balancer.backward(dict.fromkeys("abc")).present == (False, False, False)
        assert balancer.step == before

    right_or_refused(check, "absent|present")
    assert net.gradients() == {}


@cell(*(name for name in KINDS if name not in MANY and name != "conflict_free_momentum"))
def absent_in_a_micro_batch(method):
    """Micro-batches of which one lacks an objective: its gradient is that of the others."""
    s = SetUp(Net(), separate)
    net, exact = s.model, copy.deepcopy(s.model)
    balancer, reference = build(method, "abc"), Reference(method, "abc")
    halves = batch(0).chunk(2)
    for i, x in enumerate(halves):
        losses = separate(net, x)
        report = balancer.backward(without(losses, "b") if i == 0 else losses, last=i == 1)
    first, second = (separate(exact, x) for x in halves)
    total = {key: second[key] if key == "b" else first[key] + second[key] for key in "abc"}
    leaves = dict(exact.named_parameters())
    wanted = reference.step(total, rows_of(total, leaves), leaves)
    compare(s, net, wanted, 1e-9)
    close("losses", report.losses, torch.stack([total[key].detach() for key in "abc"]), 1e-9)
    assert report.present == (True, True, True)


def probe(net, x):
    """The last objective looks at the features without training them."""
    z = net.features(x)
    full = separate(net, x)
    targets = (1 + x[:, :2]).detach()
    return full | {"c": 16 * (net.head["c"](z.detach()) - targets).square().mean()}


#: Compositions weigh the probe's loss as well, and turns would be taken by objectives without a common parameter.
PROBED = tuple(n for n in EVERY if n not in (*COMPOSED, *TURNS, *MANY, "db_mtl", "imtl"))


@set_up(*PROBED)
def probe_head():
    def reference(method, objectives):
        return (ReferenceWithProbe if measures(method) else Reference)(method, objectives)

    return SetUp(Net(), probe, reference=reference, tolerance=1e-6)  # as above


@cell(*KINDS)
def zero_loss(method):
    """A loss of 0 times something: its row is zero, or the method, which needs positive losses, says so."""

    def losses(net, x):
        values = separate(net, x)
        return values | {"c": 0 * values["c"]}

    right_or_refused(
        lambda: check_right(lambda: SetUp(Net(), losses), method), "objective 'c' is 0, but must be positive"
    )
