"""FORUM solves its constrained problem."""

import copy

import pytest
import torch

from balancing import create_balancer
from balancing.bilevel.forum import constrained_min_norm_weights
from tests.balancing.bilevel.problems import batches, closure, flat, stacked
from tests.balancing.problems import Net, inputs


@pytest.mark.parametrize(("rho", "binding"), [(0.03, True), (1e-9, False)])
def test_forum_direction_keeps_its_constraint(rho, binding):
    net = Net()
    train = closure(inputs(seed=1)) if binding else batches()[0]
    validation = batches()[1] if binding else train  # alone, the same losses make progress on the constraint
    balancer = create_balancer("forum", ("a", "b", "c"), rho=rho, inner_steps=3).double()
    balancer.meta_backward(net, train, validation, lr=1e-4)
    losses, upper = stacked(train(net)), stacked(validation(net))
    parameters = list(net.parameters())
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    of_q = flat(torch.autograd.grad(weights @ losses, parameters))
    rows = torch.stack(
        [flat(torch.autograd.grad(u, parameters, retain_graph=True, materialize_grads=True)) for u in upper]
    )
    rows = rows / rows.norm(dim=1, keepdim=True)
    moved = copy.deepcopy(net)  # the descent, with an optimizer
    optimizer = torch.optim.SGD(moved.parameters(), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        (weights @ stacked(train(moved))).backward()
        optimizer.step()
    gap = (losses - stacked(train(moved))).detach()
    of_alpha = weights * (gap - weights @ gap)
    q = torch.cat([of_alpha, of_q])
    d = -torch.cat([balancer.alpha.grad, flat(p.grad for p in parameters)])
    assert float(q @ d) <= -rho * float(q @ q) * (1 - 1e-6)
    padded = torch.cat([torch.zeros(3, 3, dtype=torch.float64), rows], dim=1)
    system = torch.cat([padded, q[None]]).T
    solution = torch.linalg.lstsq(system, -d[:, None], driver="gelsd").solution.squeeze()
    torch.testing.assert_close(system @ solution, -d, rtol=1e-5, atol=1e-6)
    assert solution[:3].sum() == pytest.approx(1, abs=1e-5)
    assert solution.min() > -1e-6
    # complementarity: unless the constraint binds, nu is zero
    assert (abs(float(q @ d) + rho * float(q @ q)) < 1e-5 * float(q @ q)) == binding
    assert (float(solution[3]) > 1e-6) == binding
    # no mixture with other weights has a smaller dual value
    best = float(padded.new_tensor(0.5) * d @ d) - float(solution[3]) * rho * float(q @ q)
    for seed in range(200):
        w = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
        v = (w / w.sum()) @ padded
        nu = max(0.0, rho - float(v @ q) / float(q @ q))
        v = v + nu * q
        assert 0.5 * float(v @ v) - nu * rho * float(q @ q) >= best - 1e-9 * abs(best) - 1e-9


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("length", [1e-8, 1e-3, 1.0, 1e3, 1e8])
def test_constrained_weights_satisfy_the_optimality_conditions(size, length):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        u = torch.randn(size, 7, dtype=torch.float64, generator=generator)
        u = u / u.norm(dim=1, keepdim=True)
        if seed == 1:
            u[0] = 0
        if seed == 2:
            u[-1] = -u[0]
        q = torch.randn(7, dtype=torch.float64, generator=generator) * length
        rho, squared = 0.1 * 10**seed / length, float(q @ q)
        w = constrained_min_norm_weights(u @ u.T, u @ q, squared, rho)
        assert w.min() >= 0
        assert w.sum() == pytest.approx(1)
        nu = max(0.0, rho - float(w @ u @ q) / squared)
        slope = u @ (w @ u + nu * q)  # of the objective in w; equal and least where w > 0
        assert (slope - float(w @ slope)).min() >= -1e-6 * (1 + float(slope.abs().max()))


def test_forum_averages_multipliers_over_epochs():
    net, (train, validation) = Net(), batches()
    balancer = create_balancer("forum", ("a", "b", "c"))
    balancer.meta_backward(net, train, validation, lr=1e-4)
    first = balancer.multipliers.clone()
    assert first.sum() == pytest.approx(1)
    balancer.next_epoch()
    other = batches(step=3)
    fresh = create_balancer("forum", ("a", "b", "c"))
    fresh.meta_backward(net, *other, lr=1e-4)
    balancer.meta_backward(net, *other, lr=1e-4)
    torch.testing.assert_close(balancer.multipliers, first + 2**-0.75 * (fresh.multipliers - first))


def test_arguments_are_checked():
    for arguments in ({"rho": 0.0}, {"inner_steps": 0}, {"inner_lr": -1.0}):
        with pytest.raises(ValueError, match=f"forum: {next(iter(arguments))}"):
            create_balancer("forum", ("a", "b", "c"), **arguments)
