"""Half, single, double and scaled precision."""

import pytest
import torch
from torch import nn

from balancing.measuring.gradients import _CHUNK
from balancing.measuring.looped import collect
from tests.balancing.problems import ALL, GRADIENT, JACOBIAN, TURNS, Net, assert_close, inputs, make


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
