"""Micro-batches give the gradients of one batch, for every method."""

import pytest
import torch
from torch import nn

from balancing import BalancingError, ScheduleBalancer, balancer_class
from tests.balancing.problems import ALL, Net, assert_close, expected, inputs, make, reference_rows, trunk_gradient

#: Methods whose micro-batches wait for the last.
WAITING = [name for name in ALL if not issubclass(balancer_class(name), ScheduleBalancer)]


@pytest.mark.parametrize("name", [n for n in ALL if not balancer_class(n).unbiased])
def test_micro_batches_equal_one_batch(name):
    net, x = Net(), inputs(12)
    whole = make(name)
    whole.backward(net.losses(x))
    wanted, wanted_theta = net.gradients(), [p.grad for p in whole.parameters()]
    net.zero_grad()
    parts = make(name)
    for i, part in enumerate(x.chunk(3)):
        losses = {key: loss / 3 for key, loss in net.losses(part).items()}
        report = parts.backward(losses, last=i == 2)
        if i < 2 and parts.needs != "nothing":
            assert report.weights is None
    assert_close(net.gradients(), wanted)
    for parameter, gradient in zip(parts.parameters(), wanted_theta, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", [n for n in ALL if balancer_class(n).unbiased])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_micro_batches_are_independent_samples_for_an_unbiased_gramian(name, count, monkeypatch):
    net, x, balancer, gramians = Net(), inputs(12), make(name), []
    monkeypatch.setattr(
        balancer,
        "compute_weights",
        lambda losses, gramian, find=balancer.compute_weights: (gramians.append(gramian), find(losses, gramian))[1],
    )
    parts = [{key: trunk_gradient(row) for key, row in reference_rows(net, part).items()} for part in x.chunk(count)]
    rows = reference_rows(net, x)
    for i, part in enumerate(x.chunk(count)):
        losses = {key: loss / count for key, loss in net.losses(part).items()}
        report = balancer.backward(losses, last=i == count - 1)
    halves = [
        torch.stack([torch.stack([p[key] for p in parts[i::2]]).mean(0) for key in net.objectives]) for i in (0, 1)
    ]
    if count == 3:  # the third joins the first
        halves[0] = torch.stack([(parts[0][key] + parts[2][key]) / 2 for key in net.objectives])
    cross = halves[0] @ halves[1].T
    torch.testing.assert_close(gramians[0], (cross + cross.T) / 2)
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize("name", ["mgda", "realtime"])
def test_micro_batches_may_take_different_paths(name):
    torch.manual_seed(0)
    left, right, heads = nn.Linear(5, 4).double(), nn.Linear(5, 4).double(), nn.Linear(4, 2).double()
    x = inputs()

    def losses(*trunks):
        outs = [heads(trunk(x).tanh()).square().mean(0) for trunk in trunks]
        return {"a": sum(o[0] for o in outs), "b": sum(o[1] for o in outs)}

    parameters = [*left.parameters(), *right.parameters(), *heads.parameters()]
    report = make(name, ("a", "b")).backward(losses(left, right))
    wanted = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    balancer = make(name, ("a", "b"))
    balancer.backward(losses(left), last=False)
    parts = balancer.backward(losses(right))
    torch.testing.assert_close(parts.weights, report.weights)
    for p, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def values(net, x):
    return torch.stack(list(net.losses(x).values())).detach()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_micro_batches_that_were_given_up_are_no_part_of_the_next_step(name, set_to_none):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    wanted = net.gradients()
    net.zero_grad()
    balancer = make(name)
    balancer.backward(net.losses(100 * x), last=False)
    net.zero_grad(set_to_none=set_to_none)
    report = balancer.backward(net.losses(x))
    torch.testing.assert_close(report.losses, values(net, x))
    found = net.gradients()
    assert not any(found.pop(key).any() for key in found.keys() - wanted.keys())
    assert_close(found, wanted)


@pytest.mark.parametrize("name", WAITING)
def test_a_loss_of_the_next_step_that_comes_first_is_no_sign_of_going_on(name):
    net, x = Net(), inputs()
    net.features(x).square().sum().backward()
    make(name).backward(net.losses(x))
    wanted = net.gradients()
    for set_to_none in (True, False):
        net.zero_grad()
        balancer = make(name)
        balancer.backward(net.losses(100 * x), last=False)
        net.zero_grad(set_to_none=set_to_none)
        net.features(x).square().sum().backward()
        balancer.backward(net.losses(x))
        found = net.gradients()
        assert not any(found.pop(key).any() for key in found.keys() - wanted.keys())
        assert_close(found, wanted)


@pytest.mark.parametrize("change", ["another backward", "clipping", "nothing", "a zero gradient"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", [name for name in WAITING if not balancer_class(name).unbiased])
def test_what_happens_to_gradients_between_micro_batches_keeps_them(name, before, change):
    net, x = Net(), inputs()

    def steps(balancer, parts):
        net.zero_grad()
        if before:
            net.features(x).square().sum().backward()
        for i, part in enumerate(parts):
            losses = {key: loss / len(parts) for key, loss in net.losses(part).items()}
            balancer.backward(losses, last=i == len(parts) - 1)
            if i == 0 and change in ("another backward", "a zero gradient"):
                (net.features(x).sin().sum() * (change == "another backward")).backward()
            if i == 0 and len(parts) > 1 and change == "clipping":
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        return net.gradients()

    assert_close(steps(make(name), x.chunk(3)), steps(make(name), [x]))


@pytest.mark.parametrize("name", WAITING)
def test_micro_batches_leave_no_gradient_where_there_is_none(name):
    net, x = Net(), inputs()
    balancer = make(name, on_nonfinite="skip")
    balancer.backward(net.losses(x), last=False)
    losses = net.losses(x)
    losses["b"] = losses["b"] * float("nan")
    assert balancer.backward(losses).skipped
    assert not net.gradients()
    balancer.backward(net.losses(x), last=False)
    balancer.discard()
    assert not net.gradients()
    chosen = [net.trunk[0].weight, *net.head["a"].parameters()]
    balancer.backward(net.losses(x), last=False, parameters=chosen)
    balancer.backward(net.losses(x), parameters=chosen)
    assert {id(p) for p in net.parameters() if p.grad is not None} <= {id(p) for p in chosen}


@pytest.mark.parametrize("name", [*ALL, ["realtime", "mgda"]])
def test_discarded_micro_batches_are_forgotten(name):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    wanted = net.gradients()
    net.zero_grad()
    balancer = make(name)
    balancer.backward(net.losses(100 * x), last=False)
    balancer.discard()
    net.zero_grad()
    report = balancer.backward(net.losses(x))
    torch.testing.assert_close(report.losses, values(net, x))
    assert_close(net.gradients(), wanted)


@pytest.mark.parametrize("order", ["first", "second", "discard"])
def test_micro_batches_of_two_balancers_wait_side_by_side(order):
    net, (one, two), batches = Net(), (make("mgda"), make("pcgrad")), inputs(12).chunk(2)
    for balancer in (one, two):
        balancer.backward(net.losses(batches[0]), last=False)
    if order == "discard":
        one.discard()
    for balancer in {"first": (one, two), "second": (two, one), "discard": (two,)}[order]:
        balancer.backward(net.losses(batches[1]))
    found = net.gradients()
    net.zero_grad()
    for name in ("pcgrad",) if order == "discard" else ("mgda", "pcgrad"):
        losses = [net.losses(x) for x in batches]
        make(name).backward({key: losses[0][key] + losses[1][key] for key in losses[0]})
    assert_close(found, net.gradients())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["mgda", "realtime"])
def test_a_step_while_micro_batches_wait_is_an_error(name, fused):
    net, x = Net(), inputs()
    balancer, optimizer = make(name), torch.optim.AdamW(net.parameters(), fused=fused)
    for delete in (False, True):
        balancer.backward(net.losses(x), last=False)
        optimizer.step()
        if delete:
            optimizer.zero_grad()
        with pytest.raises(BalancingError, match=rf"{name}: parameters changed while 1 micro-batch.*discard\(\)"):
            balancer.backward(net.losses(x))
        net.zero_grad()
    report = balancer.backward(net.losses(x))
    torch.testing.assert_close(report.losses, values(net, x))


def test_gradients_that_someone_replaced_between_micro_batches_are_an_error():
    net, x, balancer = Net(), inputs(), make("mgda")
    balancer.backward(net.losses(x), last=False)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(BalancingError, match=r"mgda: .grad changed while 1 micro-batch.*discard\(\)"):
        balancer.backward(net.losses(x))


@pytest.mark.parametrize("name", ["sum", "mgda"])
def test_a_failed_micro_batch_is_forgotten(name):
    net, x = Net(), inputs()
    balancer = make(name)
    balancer.backward(net.losses(x), last=False)
    with pytest.raises(ValueError, match="is missing"):
        balancer.backward({"a": net.losses(x)["a"]})
    report = balancer.backward(net.losses(x))
    torch.testing.assert_close(report.losses, torch.stack(list(net.losses(x).values())).detach())
