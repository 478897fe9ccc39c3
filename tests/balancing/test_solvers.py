"""Certificates of optimality: a solution is checked by its own conditions, not against another solver."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing.solvers import frank_wolfe, min_norm_weights, nonnegative_qp

KINDS = ("random", "scaled", "low_rank", "duplicated", "opposed", "zero_row", "aligned")


def rows(kind, size, seed=0):
    generator = torch.Generator().manual_seed(1000 * size + seed)
    j = torch.randn(size, 3 * size, generator=generator, dtype=torch.float64)
    if kind == "scaled":
        j *= 10 ** torch.linspace(-8, 8, size, dtype=torch.float64)[torch.randperm(size, generator=generator), None]
    elif kind == "low_rank":
        j = torch.randn(size, 2, generator=generator, dtype=torch.float64) @ j[:2]
    elif kind == "duplicated":
        j[-1] = j[0]
    elif kind == "opposed":
        j[-1] = -2 * j[0]
    elif kind == "zero_row":
        j[size // 2] = 0
    elif kind == "aligned":
        j = j[:1] + 1e-6 * j
    return j


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_min_norm_weights_satisfy_the_kkt_conditions(kind, size):
    for seed in range(5):
        j = rows(kind, size, seed)
        gramian = j @ j.T
        w = min_norm_weights(gramian)
        d = w @ j
        norms = j.norm(dim=1)
        assert w.min() >= 0
        assert abs(w.sum() - 1) < 1e-12
        # no gradient may have a smaller product with d than d itself
        slack = j @ d - d @ d
        assert (slack >= -1e-8 * norms * norms.min()).all(), (kind, size, seed, float(slack.min()))


@pytest.mark.parametrize("kind", ["random", "low_rank", "duplicated", "opposed"])
def test_frank_wolfe_agrees_with_the_exact_solver(kind):
    for size in (2, 3, 6):
        j = rows(kind, size)
        gramian = j @ j.T
        exact, iterative = min_norm_weights(gramian), frank_wolfe(gramian, iterations=20_000, tolerance=1e-9)
        length = exact @ gramian @ exact
        assert abs(iterative @ gramian @ iterative - length) <= 2e-3 * length + 1e-3 * gramian.diagonal().min()


def test_frank_wolfe_stops_on_its_duality_gap():
    gramian = rows("random", 4) @ rows("random", 4).T
    w = frank_wolfe(gramian, iterations=100_000, tolerance=1e-4)
    length = w @ gramian @ w
    assert length - (gramian @ w).min() <= 1e-4 * length


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000), st.floats(-6, 6))
def test_nonnegative_qp_satisfies_the_kkt_conditions(size, seed, exponent):
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, size + 2, generator=generator, dtype=torch.float64)
    j *= 10 ** (exponent * torch.rand(size, 1, generator=generator, dtype=torch.float64))
    a, b = j @ j.T, torch.randn(size, generator=generator, dtype=torch.float64) * j.norm(dim=1)
    x = nonnegative_qp(a, b)
    unit = a.diagonal().sqrt()
    slope = (a @ x - b) / unit
    bound = 1e-8 * (b / unit).abs().max()
    assert x.min() >= 0
    assert slope.min() >= -bound
    assert (slope * x * unit).abs().max() <= bound * max(1.0, float((x * unit).max()))
