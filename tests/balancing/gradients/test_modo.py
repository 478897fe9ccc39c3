"""MoDo converges to MGDA."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import create_balancer
from balancing.solvers import min_norm_weights, project_to_simplex
from tests.balancing.formulas import names, rows


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10))
def test_projection_onto_the_simplex_satisfies_its_conditions(values):
    v = torch.tensor(values, dtype=torch.float64)
    x = project_to_simplex(v)
    assert x.min() >= 0
    assert float(x.sum()) == pytest.approx(1, abs=1e-9)
    # where x is positive it is v shifted by a constant, and elsewhere v is below that constant
    shift = (v - x)[x > 0]
    assert float(shift.max() - shift.min()) < 1e-8
    assert (v[x == 0] <= shift.max() + 1e-8).all()


@pytest.mark.parametrize("kind", ["random", "low_rank", "opposed"])
def test_modo_converges_to_mgda(kind):
    gramian = rows(kind, 5) @ rows(kind, 5).T
    balancer = create_balancer("modo", names(5), gamma=1 / float(gramian.trace()))
    for _ in range(3000):
        w = balancer.compute_weights(torch.ones(5), gramian)
    exact = min_norm_weights(gramian)
    assert float(w @ gramian @ w) == pytest.approx(float(exact @ gramian @ exact), abs=1e-5 * float(gramian.trace()))


def test_modo_converges_to_the_regularized_solution():
    gramian = rows("random", 4) @ rows("random", 4).T
    balancer = create_balancer("modo", names(4), gamma=1 / float(gramian.trace()), rho=3.0)
    for _ in range(3000):
        w = balancer.compute_weights(torch.ones(4), gramian)
    exact = min_norm_weights(gramian + 3 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(w, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": 0.0}, "modo: gamma must be positive"), ({"rho": -1.0}, "modo: rho must not be negative")],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("modo", names(3), **options)
