"""Every method trains."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import ALL, Net, inputs, make, train

#: Steps and rate of those whose weights settle slowly; 400 and 0.2 for all others.
PATIENT = {"conflict_free_momentum": (3000, 0.1), "imtl": (800, 0.1)}
CORNERS = torch.tensor([[2.0, 0, 0, 0], [-1, 1, 0, 0], [-1, -1, 0, 0]], dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
def test_every_method_reaches_the_pareto_set_of_quadratics(name):
    """The Pareto set of squared distances to some points is their convex hull, here in a plane of a four-dimensional space."""
    point = torch.nn.Parameter(torch.tensor([3.0, 3, 3, -3], dtype=torch.float64))
    balancer = make(name)
    own = torch.optim.Adam(balancer.parameters(), lr=0.02) if list(balancer.parameters()) else None
    steps, rate = PATIENT.get(name, (400, 0.2))

    def losses():
        distances = 0.5 * (point - CORNERS).square().sum(1) + 0.1
        return dict(zip("abc", distances, strict=True))

    for step in range(steps):
        point.grad = None
        if own:
            own.zero_grad()
        balancer.backward(losses(), shared=[point])
        with torch.no_grad():
            point -= rate * (1 - step / steps) * point.grad
            if balancer.observes:
                balancer.observe(losses())
        if own:
            own.step()
        if step % 50 == 49:
            balancer.next_epoch()
    # barycentric coordinates in the plane, and the distance from it
    edges = (CORNERS[1:] - CORNERS[0])[:, :2].T
    inner = torch.linalg.solve(edges, (point.detach() - CORNERS[0])[:2])
    assert point[2:].detach().norm() < 0.02
    assert inner.min() > -0.02
    assert inner.sum() < 1.02


@pytest.mark.parametrize("name", ["krum", "trimmed_mean", "conflict_free_momentum"])
def test_methods_for_three_objectives_train(name):
    net, x = Net(), inputs()
    before = {key: float(loss.detach()) for key, loss in net.losses(x).items()}
    train(net, create_balancer(name, net.objectives), steps=150, lr=0.002)
    after = {key: float(loss.detach()) for key, loss in net.losses(x).items()}
    assert sum(after[key] / before[key] for key in net.objectives) < 3 * 0.9
