"""RotoGrad equals the paper: the update of the trunk, and the gradients of the rotations."""

import math

import pytest
import torch
from torch import nn

from balancing import Rotations, create_balancer
from tests.balancing.formulas import gramian_weights, names, ones, rows

OBJECTIVES = ("a", "b", "c")
SCALES = {"a": 1.0, "b": 10.0, "c": 0.1}


class Net(nn.Module):
    """A trunk with 6 features, of which ``size`` are turned before each head; rotations away from I."""

    def __init__(self, size=6):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(5, 6)
        self.head = nn.ModuleDict({name: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)) for name in "abc"})
        self.rotations = Rotations(OBJECTIVES, size)
        for angles in self.rotations.parameters():
            nn.init.normal_(angles, std=3.0)
        self.double()

    def losses(self, turned, seed=0):
        y = torch.randn(3, 7, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return {
            name: (head(turned[name]) - SCALES[name] * t).square().mean()
            for t, (name, head) in zip(y, self.head.items(), strict=True)
        }


def batch(seed=0):
    return torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + seed))


def step(net, balancer, absent=(), **arguments):
    """One call of ``backward``; the features are those of ``net``."""
    net.zero_grad()
    features = net.rotations(net.trunk(batch()))
    losses = net.losses(net.rotations.turned(features))
    losses |= dict.fromkeys(absent)
    return balancer.backward(losses, features=features, **arguments)


def make(**options):
    return create_balancer("rotograd", OBJECTIVES, **{"at": "features", **options})


def paper(net):
    """Trunk gradient and gradients of the angles, by autograd of the definitions."""
    size = net.rotations.size
    z = net.trunk(batch())
    fixed = {name: net.rotations.matrix(name).detach() for name in OBJECTIVES}
    inputs = {}
    for name in OBJECTIVES:
        whole = torch.eye(6, dtype=torch.float64)
        whole[:size, :size] = fixed[name]
        fixed[name] = whole
        inputs[name] = (z.detach() @ whole.T).requires_grad_()
    losses = net.losses(inputs)
    h = {name: torch.autograd.grad(losses[name], inputs[name])[0] for name in OBJECTIVES}
    g = {name: h[name] @ fixed[name] for name in OBJECTIVES}
    unit = {name: g[name] / g[name].norm() for name in OBJECTIVES}
    v = sum(unit.values()) / 3
    common = sum(g[name].norm() for name in OBJECTIVES) / 3  # all gradients are as long as at the first step
    trunk = torch.autograd.grad(z, net.trunk.weight, common * sum(unit.values()))[0]
    turns = {}
    for name in OBJECTIVES:
        angles = net.rotations.angles[name]
        total = 0.0
        for n in range(7):  # sample by sample, with the inverse that the map is defined by
            upper = torch.zeros(size, size, dtype=torch.float64)
            upper = upper.index_put(tuple(torch.triu_indices(size, size, 1)), angles * 0.05)
            a, eye = upper - upper.T, torch.eye(size, dtype=torch.float64)
            r = torch.linalg.inv(eye - a) @ (eye + a)
            total = total - (r.T @ h[name][n, :size]) @ v[n, :size]
        turns[name] = torch.autograd.grad(total, angles)[0]
    return trunk, turns


@pytest.mark.parametrize("size", [6, 4])
def test_a_step_is_that_of_the_paper(size):
    net = Net(size)
    step(net, make())
    trunk, turns = paper(net)
    torch.testing.assert_close(net.trunk.weight.grad, trunk, rtol=1e-9, atol=1e-12)
    for name in OBJECTIVES:
        torch.testing.assert_close(net.rotations.angles[name].grad, turns[name], rtol=1e-9, atol=1e-14)


def test_lengths_follow_the_progress_since_the_burn_in():
    balancer = create_balancer("rotograd", names(3), burn_in=2)
    reference = None
    for k in range(5):
        j = rows("random", 3, k) * torch.tensor([[1.0], [5.0], [0.01]], dtype=torch.float64)
        n = j.norm(dim=1)
        reference = n if k in (0, 2) else reference
        share = (n / reference) / (n / reference).sum()
        torch.testing.assert_close(balancer.compute_weights(ones(3), j @ j.T), (share @ n) / n, rtol=1e-12, atol=0)
        balancer.step += 1


def test_a_gradient_of_zeros_keeps_weight_1():
    j = rows("zero_row", 3)
    n = j.norm(dim=1)
    torch.testing.assert_close(gramian_weights("rotograd", j)[1], torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(gramian_weights("rotograd", j)[0], (n[0] + n[2]) / 2 / n[0])


def test_rotations_stay_orthogonal_and_turn_gradients_together():
    net, balancer = Net(), make()
    for angles in net.rotations.parameters():
        nn.init.zeros_(angles)
    optimizer = torch.optim.Adam(net.rotations.parameters(), lr=0.3)

    def cosine():
        lengths = step(net, make()).gramian
        scaled = lengths / lengths.diagonal().sqrt() / lengths.diagonal().sqrt()[:, None]
        return float(scaled[0, 1] + scaled[0, 2] + scaled[1, 2])

    before = cosine()
    for _ in range(25):
        step(net, balancer)
        optimizer.step()
    for name in OBJECTIVES:
        r = net.rotations.matrix(name).detach()
        torch.testing.assert_close(r @ r.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-14)
        assert torch.linalg.det(r) > 0
        assert (r - torch.eye(6)).abs().max() > 0.1
    assert cosine() > before + 0.3


def test_losses_do_not_move_rotations():
    net = Net()
    for name, options in (("sum", {}), ("mgda", {}), ("pcgrad", {"at": "features"})):
        step(net, create_balancer(name, OBJECTIVES, **options))
        assert all(angles.grad is None or not angles.grad.any() for angles in net.rotations.parameters()), name


def test_an_absent_objective_rests():
    net, balancer = Net(), make()
    step(net, balancer, absent=("b",))
    assert net.rotations.angles["b"].grad is None
    assert float(balancer.initial[1]) == 0
    two = Net()
    first = create_balancer("rotograd", ("a", "c"), at="features")
    z, ra, _, rc = two.rotations(two.trunk(batch()))
    losses = two.losses(two.rotations.turned((z, ra, ra, rc)))
    first.backward({"a": losses["a"], "c": losses["c"]}, features=[z, ra, rc])
    for name in ("a", "c"):
        torch.testing.assert_close(net.rotations.angles[name].grad, two.rotations.angles[name].grad)
    torch.testing.assert_close(net.trunk.weight.grad, two.trunk.weight.grad)


def test_a_scaler_scales_what_the_rotations_get():
    net = Net()
    step(net, make())
    plain = [p.grad.clone() for p in net.parameters()]
    step(net, make(), scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    for parameter, gradient in zip(net.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, 64 * gradient, rtol=1e-12, atol=0)


def test_rotations_need_the_features():
    with pytest.raises(ValueError, match=r"rotograd: rotations are learned .* give at='features'"):
        step(Net(), make(at="shared"))


def test_steps_without_rotations_are_said_once():
    net, balancer = Net(), make()

    def without():
        z = net.trunk(batch())
        balancer.backward(net.losses(dict.fromkeys(OBJECTIVES, z)), features=z)

    for _ in range(9):
        without()
    with pytest.warns(UserWarning, match=r"rotograd: in 10 steps there were no rotations"):
        without()
    without()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="rotograd: burn_in must not be negative"):
        create_balancer("rotograd", ("a", "b"), burn_in=-1)
    with pytest.raises(ValueError, match="Rotations: size must be at least 2"):
        Rotations(("a", "b"), 1)
    with pytest.raises(ValueError, match="Rotations: an objective cannot be called 'copy'"):
        Rotations(("a", "copy"), 4)
    with pytest.raises(ValueError, match="Rotations: rate must be above 0"):
        Rotations(("a", "b"), 4, rate=0.0)
    with pytest.raises(ValueError, match="Rotations: rate must be finite, got inf"):
        Rotations(("a", "b"), 4, rate=math.inf)
    with pytest.raises(TypeError, match=r"Rotations: size must be an integer, got 2\.5"):
        Rotations(("a", "b"), 2.5)
    for given in ((), ("a", "a")):
        with pytest.raises(ValueError, match="Rotations needs one or more objectives with different names"):
            Rotations(given, 4)
