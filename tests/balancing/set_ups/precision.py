"""Set-ups about half precision and scaled losses."""

import copy

import torch

from tests.balancing.problems import Net
from tests.balancing.set_ups.outputs import separate
from tests.balancing.set_ups.reference import Reference, build, rows_of
from tests.balancing.set_ups.table import KINDS, SetUp, batch, cell, compare, compare_report, measures

LEARNED = ("uncertainty", "imtl_l", "gradnorm", "imtl", "uncertainty>pcgrad")


def check_autocast(method, dtype):
    """Against plain backwards under the same autocast, so that half precision rounds alike on both sides.

    A loss method takes one backward of the weighted sum, so its reference does.
    """
    s = SetUp(Net(dtype=torch.float32), separate)
    exact, balancer, reference = copy.deepcopy(s.model), build(method, "abc"), Reference(method, "abc")
    for step in range(3):
        x = batch(step).float()
        s.model.zero_grad()
        with torch.autocast("cpu", dtype):
            losses, values = separate(s.model, x), separate(exact, x)
        report = balancer.backward(losses)
        leaves = dict(exact.named_parameters())
        wanted = reference.step(values, rows_of(values, leaves), leaves)
        if not measures(method):
            total = sum(float(w) * loss for w, loss in zip(wanted.weights, values.values(), strict=True))
            wanted.gradients = rows_of({"sum": total}, leaves)["sum"]
        compare(s, s.model, wanted, 1e-6)
        compare_report(report, wanted, values, "abc", 1e-6)


@cell(*KINDS)
def autocast_bfloat16(method):
    check_autocast(method, torch.bfloat16)


@cell(*KINDS)
def autocast_float16(method):
    check_autocast(method, torch.float16)


@cell(*KINDS)
def grad_scaler(method):
    """``.grad`` is the right gradient times the scale, from the first step on; weights come from true gradients."""
    s = SetUp(Net(dtype=torch.float32), separate)
    exact, balancer, reference = copy.deepcopy(s.model).double(), build(method, "abc"), Reference(method, "abc")
    optimizer = torch.optim.SGD(s.model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for step in range(3):
        optimizer.zero_grad()
        x = batch(step).float()
        report = balancer.backward(separate(s.model, x), scaler=scaler)
        scaler.unscale_(optimizer)
        values = separate(exact, x.double())
        leaves = dict(exact.named_parameters())
        wanted = reference.step(values, rows_of(values, leaves), leaves)
        compare(s, s.model, wanted, 1e-6)
        compare_report(report, wanted, values, "abc", 1e-6)
        scaler.step(optimizer)
        scaler.update()
        exact.load_state_dict(s.model.state_dict())


def fresh(method):
    """A balancer whose parameters do not start at their optimum."""
    return build(method, "abc", **({} if method == "gradnorm" or ">" in method else {"init": 0.5}))


def learned(method, optimizer, scale, together, steps=10):
    """What the method has learned after some steps, with a scaler unless ``scale`` is ``None``.

    ``together``: one optimizer holds its parameters and the model's; else they have one of their own, which is stepped
    without the scaler.
    """
    net, balancer = Net(dtype=torch.float32), fresh(method)
    own = list(balancer.parameters())
    main = optimizer([*net.parameters(), *(own if together else [])], lr=1e-3)
    other = optimizer(own, lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for step in range(steps):
        main.zero_grad()
        other.zero_grad()
        balancer.backward(separate(net, batch(step).float()), scaler=scaler)
        scaler.step(main)
        if not together:
            other.step()
        scaler.update()
    return [p.detach().clone() for p in own]


def check_learned(method, together):
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        wanted = learned(method, optimizer, None, together)
        assert not all(torch.equal(a, b) for a, b in zip(fresh(method).parameters(), wanted, strict=True))
        for scale in (2.0**16, 2.0**24):
            for mine, right in zip(learned(method, optimizer, scale, together), wanted, strict=True):
                torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6)


@cell(*LEARNED)
def grad_scaler_one_optimizer(method):
    check_learned(method, together=True)


@cell(*LEARNED)
def grad_scaler_own_optimizer(method):
    check_learned(method, together=False)
