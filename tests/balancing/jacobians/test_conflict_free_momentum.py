"""Momentum-based ConFIG equals its formulas."""

import pytest
import torch
from torch import nn

from balancing import create_balancer
from balancing.solvers import conflict_free_weights
from tests.balancing.formulas import next_update, ones, rows
from tests.balancing.problems import Net, inputs


def test_conflict_free_momentum_of_one_objective_is_adam():
    parameter = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1.0, eps=1e-8)
    balancer = create_balancer("conflict_free_momentum", ("a",))
    for step in range(8):
        gradient = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        before, parameter.grad = parameter.detach().clone(), gradient
        optimizer.step()
        torch.testing.assert_close(next_update(balancer, ones(1), gradient[None]), before - parameter.detach())


def test_conflict_free_momentum_equals_the_formulas():
    balancer = create_balancer("conflict_free_momentum", ("a", "b", "c"), preference={"a": 2.0})
    m, turns, t = torch.zeros(3, 9, dtype=torch.float64), [0, 0, 0], 0
    previous, second = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    for step in range(10):
        j, k = rows("random", 3, step), step % 3
        assert balancer.active() == (k,)
        m[k] = 0.9 * m[k] + 0.1 * j[k]
        turns[k] += 1
        update = next_update(balancer, ones(3), j)
        if step < 2:
            assert not update.any()
            continue
        t += 1
        corrected = torch.stack([m[i] / (1 - 0.9 ** turns[i]) for i in range(3)])
        d = conflict_free_weights(corrected @ corrected.T, balancer.preference) @ corrected
        mean = (1 - 0.9**t) * d
        gradient, previous = (mean - 0.9 * previous) / 0.1, mean
        second = 0.999 * second + 0.001 * gradient**2
        torch.testing.assert_close(update, d / ((second / (1 - 0.999**t)).sqrt() + 1e-8))


def test_conflict_free_momentum_forgets_in_half_precision_too():
    lengths = []
    for dtype in (torch.float32, torch.bfloat16):
        p, balancer = nn.Parameter(torch.ones(20, dtype=dtype)), create_balancer("conflict_free_momentum", ("a", "b"))
        for step in range(1000):
            p.grad = None
            size = 1.0 if step < 20 else 0.05
            balancer.backward({"a": size * p.sum(), "b": size * (p[:10].sum() - 0.5 * p[10:].sum()) + 9})
        lengths.append(p.grad.float().norm().item())
    assert lengths[1] == pytest.approx(lengths[0], rel=0.02)


def test_conflict_free_momentum_differentiates_one_objective_per_step():
    net, x = Net(), inputs()
    balancer = create_balancer("conflict_free_momentum", net.objectives)
    for step in range(6):
        net.zero_grad(set_to_none=True)
        balancer.backward(net.losses(x))
        touched = {key.split(".")[1] for key in net.gradients() if key.startswith("head")}
        assert touched == {"abc"[step % 3]}
        moved = any(bool(p.grad.any()) for p in net.shared())
        assert moved == (step >= 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta2": 1.0}, "conflict_free_momentum: beta2 must be in"),
        ({"eps": 0.0}, "conflict_free_momentum: eps must be positive"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("conflict_free_momentum", ("a", "b"), **options)
