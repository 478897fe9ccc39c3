"""EPO solves its linear program, and ends where the losses are inversely proportional to the preference."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from balancing import create_balancer
from balancing.solvers import largest_gain
from tests.balancing.formulas import double, gramian_weights, names, rows


def program(losses, gramian, r, eps):
    """Gain, constraints and floors of the authors' linear program, and its largest value by SciPy."""
    sizes = r * losses
    shares = sizes / sizes.sum()
    distance = shares @ np.log(len(shares) * shares)
    progress = gramian @ (r * (np.log(len(shares) * shares) - distance))
    if distance > eps:
        floor = np.where(progress > 0, -np.inf, progress) if (progress > 0).any() else np.zeros_like(progress)
        floor[sizes == sizes.max()] = 0
        gain, table = progress, gramian
    else:
        gain, table = gramian.sum(0), np.vstack([gramian, progress])
        floor = np.append(np.zeros(len(r)), min(progress.max(), 0))
    table, floor = table[np.isfinite(floor)], floor[np.isfinite(floor)]
    best = linprog(-gain, A_ub=-table, b_ub=-floor, A_eq=np.ones((1, len(r))), b_eq=[1])
    return gain, table, floor, -best.fun


@pytest.mark.parametrize("kind", ["random", "low_rank", "duplicated", "opposed", "zero_row"])
@pytest.mark.parametrize("size", [2, 3, 5, 10])
@pytest.mark.parametrize("near", [False, True])
def test_the_weights_solve_the_linear_program_of_the_authors(kind, size, near):
    for seed in range(2):
        j, draw = rows(kind, size, seed), np.random.default_rng(seed)
        r, losses = draw.uniform(0.2, 2, size), draw.uniform(0.1, 3, size)
        r /= r.mean()
        losses = (1 + 0.005 * losses) / r if near else losses
        w = gramian_weights("epo", j, double(losses), preference=dict(zip(names(size), r, strict=True))).numpy()
        gain, table, floor, best = program(losses, (j @ j.T).numpy(), r, 1e-4)
        assert (w >= 0).all()
        assert w.sum() == pytest.approx(1, abs=1e-12)
        assert (table @ w - floor >= -1e-8 * np.abs(table).max(1)).all()
        assert gain @ w == pytest.approx(best, abs=1e-7 * np.abs(gain).max())


@pytest.mark.parametrize(
    ("size", "r"), [(2, (1.0, 1.0)), (2, (3.0, 1.0)), (2, (0.6, 1.0)), (3, (1.0, 1.0, 1.0)), (3, (3.0, 2.0, 2.0))]
)
@pytest.mark.parametrize("start", [(5.0, -3.0, 1.0), (0.2, 0.1, 0.3), (0.9, 0.05, 0.05)])
def test_it_ends_on_the_front_with_losses_inverse_to_the_preference(size, r, start):
    centers, x = torch.eye(size, dtype=torch.float64), double(start[:size])
    balancer = create_balancer("epo", names(size), preference=dict(zip(names(size), r, strict=True)), eps=1e-12)
    for step in range(400):  # with a constant step three losses circle the ray
        j = 2 * (x - centers)
        losses = (x - centers).square().sum(1) + 0.1
        x = x - 0.1 * 0.97 ** max(step - 50, 0) * balancer.compute_weights(losses, j @ j.T) @ j
    sizes = double(r) * losses
    torch.testing.assert_close(sizes, sizes.mean().expand(size), rtol=1e-4, atol=0)
    assert x.sum() == pytest.approx(1, abs=1e-4)  # the front: the simplex between the centers
    assert x.min() > 0


def test_on_the_ray_no_loss_may_grow():
    j = rows("random", 4)
    w = gramian_weights("epo", j, double([2.0, 1.0, 0.5, 1.0]), preference={"0": 0.5, "2": 2.0})
    assert (j @ (w @ j) >= -1e-9).all()


def test_an_empty_set_is_reported():
    impossible = largest_gain(double([1.0, 0.0]), double([[-1.0, -1.0]]), double([-0.5]), double([1.0, 1.0]))
    assert impossible is None


@pytest.mark.parametrize("options", [{"eps": -1.0}, {"normalize": "l2"}, {"log_losses": True}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="epo: "):
        create_balancer("epo", ("a", "b"), **options)
