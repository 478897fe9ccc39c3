"""Half, single, double and scaled precision."""

import gc

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks as hooks

from balancing.measuring.gradients import _CHUNK
from balancing.measuring.looped import collect
from tests.balancing.problems import ALL, GRADIENT, JACOBIAN, LEARNED, TURNS, Net, assert_close, inputs, make


@pytest.mark.parametrize("name", [name for name in JACOBIAN if name not in TURNS])
def test_shared_parameters_of_two_precisions_get_gradients_of_theirs(name):
    net, x = Net(dtype=torch.float32), inputs()
    net.trunk[0].double()
    z = net.trunk[1:](net.trunk[0](x).float())
    make(name).backward(net.losses(x.float(), z))
    assert {p.grad.dtype for p in net.shared()} == {torch.float32, torch.float64}


@pytest.mark.parametrize("size", [100, _CHUNK])
@pytest.mark.parametrize("name", ["conflict_free", "imtl_g"])
def test_dependent_gradients_in_single_precision_are_those_of_double(name, size):
    weights, a, b = [], *torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64):
        p = nn.Parameter(torch.ones(size, dtype=dtype))
        rows = {"a": a.to(dtype), "b": b.to(dtype), "c": 0.3 * a.to(dtype) + 2 * b.to(dtype)}
        weights.append(make(name).backward({key: (row * p).sum() + 9 for key, row in rows.items()}).weights)
    assert weights[0].abs().max() > 0.1
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_loss_scaling_cancels(name):
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    report = make(name).backward(net.losses(x))
    plain = net.gradients()
    net.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaled = make(name).backward(net.losses(x), scaler=scaler)
    if report.weights is not None:
        torch.testing.assert_close(scaled.weights, report.weights, rtol=1e-5, atol=1e-6)
    assert_close({key: g / 2**16 for key, g in net.gradients().items()}, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in TURNS])
def test_fp16_overflow_is_left_to_the_scaler(name):
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    report = make(name).backward(net.losses(x), scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert report.skipped
    assert scaler.get_scale() < 1e38
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", ALL)
def test_bf16_autocast_is_finite(name):
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.losses(x)
    report = make(name).backward(losses)
    assert report.weights is None or report.weights.isfinite().all()
    assert all(g.isfinite().all() for g in net.gradients().values())


def test_autocast_does_not_touch_the_gramian():
    p = nn.Parameter(torch.randn(50, 50))
    gradients = collect([(p * p).sum(), p.sin().sum()], [p], {}, keep_graph=False)
    plain = gradients.gramian()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradients.gramian(), plain)


@pytest.mark.parametrize("exponent", [-24, 20])
def test_lengths_beyond_the_squares_of_float32_are_measured(exponent):
    p = nn.Parameter(torch.ones(3))
    losses = {"a": 10.0**exponent * p.sum(), "b": 2 * 10.0**exponent * p.sum()}
    report = make("mgda", ("a", "b")).backward(losses)
    assert (report.norms[1] / report.norms[0]).item() == pytest.approx(2)


def trained(name, cls, scale, loop, steps=8, **options):
    """The net's and the balancer's parameters after some steps; ``loop`` says who steps the balancer's."""
    net, balancer = Net(dtype=torch.float32), make(name)
    own = list(balancer.parameters())
    optimizer = cls([*net.parameters(), *(own if loop == "one optimizer" else [])], lr=1e-3, **options)
    other = cls(own, lr=0.02, **options) if loop != "one optimizer" else None
    if other is None:
        optimizer.param_groups[0]["params"] = list(net.parameters())
        optimizer.add_param_group({"params": own, "lr": 0.02})
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, growth_interval=3, enabled=scale is not None)
    for step in range(steps):
        x = inputs(seed=step, dtype=torch.float32)
        if not balancer.observes or other is not None:
            optimizer.zero_grad()
            balancer.zero_grad()
        balancer.backward(net.losses(x), scaler=scaler)
        if loop != "own optimizer, plain":
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        scaler.step(optimizer)
        if balancer.observes:
            if other is None:
                optimizer.zero_grad()
            balancer.observe(net.losses(x))
        if other is not None:
            scaler.step(other) if loop == "own optimizer, scaled" else other.step()
        scaler.update()
    return [p.detach() for p in (*net.parameters(), *own)]


LOOPS = ("one optimizer", "own optimizer", "own optimizer, scaled", "own optimizer, plain")
OPTIMIZERS = [(torch.optim.SGD, {}, 24), (torch.optim.Adam, {}, 16), (torch.optim.AdamW, {"fused": True}, 24)]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("cls", "options", "exponent"), OPTIMIZERS)
@pytest.mark.parametrize("name", LEARNED)
def test_learned_weights_move_as_without_a_scaler(name, cls, exponent, options, loop):
    plain, scaled = (trained(name, cls, scale, loop, **options) for scale in (None, 2.0**exponent))
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm"])
def test_own_gradients_of_several_steps_add_up_under_a_scaler(name):
    net, x, scaler = Net(dtype=torch.float32), inputs(dtype=torch.float32), torch.amp.GradScaler("cpu")
    balancer, twin = make(name), make(name)
    for each, given in ((balancer, scaler), (twin, None)):
        for _ in range(2):
            each.backward(net.losses(x), scaler=given)
    for mine, other in zip(balancer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad * 2.0**16)


def test_own_parameters_rest_with_the_model_s_if_a_step_is_skipped():
    net, balancer = Net(dtype=torch.float32), make("uncertainty", init=0.0)
    optimizer = torch.optim.SGD([*net.parameters(), *balancer.parameters()], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e37)
    before = [p.detach().clone() for p in (*net.parameters(), *balancer.parameters())]
    balancer.backward(net.losses(inputs(dtype=torch.float32)), scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 1e37
    assert all(torch.equal(a, b) for a, b in zip(before, (*net.parameters(), *balancer.parameters()), strict=True))


def test_the_hook_on_optimizers_is_there_while_scaled_gradients_wait_alone():
    gc.collect()  # balancers of other tests
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    balancer, scaler = make("uncertainty"), torch.amp.GradScaler("cpu")
    for _ in range(3):
        balancer.backward(net.losses(x), scaler=scaler)
        assert len(hooks) == 1
    balancer.backward(net.losses(x))
    assert not hooks
    make("mgda").backward(net.losses(x), scaler=scaler)
    assert not hooks
