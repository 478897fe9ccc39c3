"""SDMGrad solves its problem, exactly or by descent."""

import pytest
import torch

from balancing import create_balancer
from balancing.solvers import min_norm_weights
from tests.balancing.formulas import KINDS, gramian_weights, names, rows


@pytest.mark.parametrize("lam", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("kind", KINDS)
def test_sdmgrad_solves_its_problem(kind, lam):
    j = rows(kind, 6)
    gramian = j @ j.T
    balancer = create_balancer("sdmgrad", names(6), lam=lam, preference={"2": 4.0})
    u = balancer.preference / 6
    v = balancer.compute_weights(torch.ones(6), gramian)
    w = v * (1 + lam) - lam * u
    assert w.min() >= -1e-9
    assert float(w.sum()) == pytest.approx(1)
    slope = gramian @ (w + lam * u)  # KKT: the least slope wherever w is positive
    bound = 1e-7 * gramian.diagonal().sqrt() * gramian.diagonal().max().sqrt()
    assert (slope - w @ slope >= -bound).all()


def test_sdmgrad_by_descent_converges_to_the_exact_solution():
    gramian = rows("random", 5) @ rows("random", 5).T
    exact = create_balancer("sdmgrad", names(5)).compute_weights(torch.ones(5), gramian)
    balancer = create_balancer("sdmgrad", names(5), solver="sgd", lr=0.5)
    for _ in range(50):
        w = balancer.compute_weights(torch.ones(5), gramian)
    torch.testing.assert_close(w, exact, rtol=0, atol=1e-5)


def test_sdmgrad_lies_between_mgda_and_the_mean():
    j = rows("random", 4)
    torch.testing.assert_close(gramian_weights("sdmgrad", j, lam=0.0), min_norm_weights(j @ j.T))
    torch.testing.assert_close(gramian_weights("sdmgrad", j, lam=1e9), torch.full((4,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "sdmgrad: lam must not be negative"),
        ({"solver": "newton"}, "sdmgrad: solver must be exact or sgd"),
        ({"momentum": 1.0}, "sdmgrad: lr must be positive"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("sdmgrad", names(3), **options)
