"""Certificates of optimality: a solution is checked by its own conditions, not against another solver."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing.solvers import (
    ActiveSet,
    UnboundedError,
    conflict_averse_weights,
    constrained_weights,
    cosine_matrix,
    dual_cone_weights,
    dual_cone_weights_of_each,
    fair_weights,
    frank_wolfe,
    min_norm_weights,
    nonnegative_qp,
)
from balancing.solvers.block_pivoting import _Problems
from tests.balancing.formulas import KINDS, rows

SIZES = (2, 3, 5, 10, 20, 40)


@pytest.mark.parametrize("size", SIZES)
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


def test_nonnegative_qp_without_a_minimum_says_so():
    opposed = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    with pytest.raises(UnboundedError, match="no minimum"):
        nonnegative_qp(opposed, torch.tensor([1.0, 0.5], dtype=torch.float64))
    # bounded all the same: the variable that depends on the others takes their place
    x = nonnegative_qp(torch.ones(2, 2, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert x.tolist() == pytest.approx([0, 2])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_active_set_does_not_depend_on_where_it_starts(size, seed):
    generator = torch.Generator().manual_seed(seed)
    _, a = cosine_matrix(rows("random", size, seed) @ rows("random", size, seed).T)
    first, second = torch.randn(2, size, generator=generator, dtype=torch.float64).tolist()
    solver = ActiveSet(a.tolist())
    solver.solve(first)
    assert solver.solve(second) == pytest.approx(ActiveSet(a.tolist()).solve(second), abs=1e-11)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_dual_cone_weights_satisfy_the_kkt_conditions(kind, size):
    for seed in range(3):
        j = rows(kind, size, seed)
        lengths, cosines = cosine_matrix(j @ j.T)
        generator = torch.Generator().manual_seed(seed)
        target = torch.rand(size, generator=generator, dtype=torch.float64) * lengths
        targets = torch.cat([torch.eye(size, dtype=torch.float64), target[None] / target.max()])
        solutions = torch.cat([dual_cone_weights_of_each(cosines), dual_cone_weights(cosines, targets[-1])[None]])
        slope = solutions @ cosines
        assert (solutions >= targets).all()
        assert slope.min() >= -1e-11, (kind, size, seed)
        assert (slope * (solutions - targets)).abs().max() <= 1e-8, (kind, size, seed)


def dependent_rows(kind, size, rank, seed):
    """(K, rank) gradients that depend on each other, as one set or as two sets that are orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, rank, generator=generator, dtype=torch.float64)
    half = rank // 2 + 1
    return j if kind == "one" else torch.block_diag(j[: size // 2, :half], j[size // 2 :, half:])


@pytest.mark.parametrize("kind", ["one", "two"])
@pytest.mark.parametrize(("size", "rank"), [(20, 10), (30, 4), (60, 20), (60, 30), (100, 50)])
def test_dual_cone_weights_of_many_dependent_gradients_satisfy_the_kkt_conditions(kind, size, rank, monkeypatch):
    """At half as many dimensions as gradients, directions without conflict are about to vanish, and block pivoting cycles."""
    monkeypatch.setattr("balancing.solvers.quadratic.ActiveSet", counted := CountedActiveSet())
    monkeypatch.setattr("balancing.solvers.dual_cone.ActiveSet", counted)
    for seed in range(2):
        _, cosines = cosine_matrix((j := dependent_rows(kind, size, rank, seed)) @ j.T)
        solutions = dual_cone_weights_of_each(cosines)
        slope = solutions @ cosines
        excess = solutions - torch.eye(size, dtype=torch.float64)
        assert excess.min() >= 0
        assert slope.min() >= -1e-11, (kind, size, rank, seed)
        assert (slope * excess).abs().max() <= 1e-8, (kind, size, rank, seed)
    # whether all directions conflict, once per matrix; the problems themselves are solved together
    assert counted.calls <= 2


@pytest.mark.parametrize(("size", "rank"), [(50, 25), (60, 3), (100, 50), (100, 75), (200, 100)])
def test_weights_of_many_dependent_gradients_are_found_for_all_variables_at_once(size, rank, monkeypatch):
    """One problem alone: the min-norm point, and a projection onto the dual cone."""
    monkeypatch.setattr("balancing.solvers.quadratic.ActiveSet", counted := CountedActiveSet())
    for seed in range(4):
        gramian = (j := dependent_rows("one", size, rank, seed)) @ j.T
        norms, w = j.norm(dim=1), min_norm_weights(gramian)
        assert w.min() >= 0
        assert (gramian @ w - w @ gramian @ w >= -1e-8 * norms * norms.min()).all(), (size, rank, seed)
        lengths, cosines = cosine_matrix(gramian)
        v = dual_cone_weights(cosines, lengths / size)
        excess, slope = v - lengths / size, cosines @ v
        assert excess.min() >= 0
        assert slope.min() >= -1e-11 * float(lengths.max())
        assert (slope * excess).abs().max() <= 1e-8
    assert counted.calls == 0


@pytest.mark.parametrize(("size", "rank"), [(41, 20), (60, 30), (60, 3), (100, 50), (100, 400)])
def test_weights_with_given_products_of_many_gradients_are_those_of_the_active_set(size, rank, monkeypatch):
    """And whether there are any is known before a solver is asked."""
    counted = CountedActiveSet()
    for seed in range(3):
        _, cosines = cosine_matrix((j := dependent_rows("one", size, rank, seed)) @ j.T)
        b = 0.02 - cosines[0]
        try:
            wanted = torch.tensor(ActiveSet(cosines.tolist()).solve(b.tolist()), dtype=b.dtype)
        except UnboundedError:
            wanted = None
        with monkeypatch.context() as patch:
            patch.setattr("balancing.solvers.quadratic.ActiveSet", counted)
            if wanted is None:
                with pytest.raises(UnboundedError, match="exclude"):
                    constrained_weights(cosines, b)
            else:
                torch.testing.assert_close(constrained_weights(cosines, b), wanted, rtol=1e-7, atol=1e-7)
    assert counted.calls == 0


@pytest.mark.parametrize("kind", ["random", "scaled", "low_rank", "duplicated", "opposed", "aligned"])
def test_active_set_of_many_variables_goes_on_from_any_point(kind):
    """What block pivoting leaves open is solved from zero, too."""
    _, cosines = cosine_matrix(rows(kind, 70) @ rows(kind, 70).T)
    b = torch.cat([-cosines[:3], cosines.mean(0, keepdim=True)])
    x, unsolved = _Problems(cosines, b).descend(torch.arange(4), torch.zeros_like(b))
    assert not unsolved.any()
    slope = x @ cosines - b
    assert x.min() >= 0
    assert slope.min() >= -1e-11
    assert (slope * x).abs().max() <= 1e-8


class CountedActiveSet:
    """Counts the problems that are solved in plain floats, which takes seconds each at K = 200."""

    def __init__(self):
        self.calls = 0

    def __call__(self, matrix):
        self.calls += 1
        return ActiveSet(matrix)


def test_problems_that_block_pivoting_leaves_open_are_solved_one_by_one():
    _, cosines = cosine_matrix(rows("random", 12) @ rows("random", 12).T)
    wanted = dual_cone_weights_of_each(cosines)
    torch.testing.assert_close(dual_cone_weights_of_each(cosines, rounds=1), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cosine", [-0.999, -0.9, -1e-3, 0.0, 1e-9, 0.5, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("priority", [(1.0, 1.0), (1e-3, 1.0), (50.0, 2.0)])
def test_two_fair_weights_equal_those_among_three(cosine, priority):
    """Two objectives are solved in closed form; a third that is orthogonal to them changes nothing, but is found by Newton."""
    gramian = torch.tensor([[4.0, 6 * cosine, 0.0], [6 * cosine, 9.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    powers = torch.tensor([*priority, 1.0], dtype=torch.float64)
    pair = fair_weights(gramian[:2, :2], powers[:2], alpha=1.0)
    torch.testing.assert_close(pair, fair_weights(gramian, powers, alpha=1.0)[:2], rtol=1e-6, atol=0)
    torch.testing.assert_close(pair * (gramian[:2, :2] @ pair), powers[:2], rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_fair_weights_solve_their_equations(kind, size, alpha):
    for seed in range(2):
        j = rows(kind, size, seed)
        gramian = j @ j.T
        priority = torch.linspace(1, 3, size, dtype=torch.float64)
        w = fair_weights(gramian, priority, alpha)
        lengths = j.norm(dim=1)
        present = lengths > 0
        assert (w[~present] == 0).all()
        w, gramian, lengths, priority = w[present], gramian[present][:, present], lengths[present], priority[present]
        assert w.min() > 0
        assert w.isfinite().all()
        # the ridge that bounds w where no finite solution exists is part of the equations
        product = gramian @ w + 1e-12 * lengths.square() * w
        residual = (product - priority * w ** (-1 / alpha)).abs()
        assert (residual <= 1e-9 * priority * w ** (-1 / alpha) + 1e-14 * (gramian.abs() @ w)).all(), (kind, seed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0.1, 0.4, 0.9, 1.5])
def test_conflict_averse_weights_close_the_duality_gap(kind, size, radius):
    for seed in range(3):
        j = rows(kind, size, seed)
        w = conflict_averse_weights(j @ j.T, radius)
        d, mean, lengths = w @ j, j.mean(0), j.norm(dim=1)
        ball = radius * mean.norm()
        assert (d - mean).norm() <= ball * (1 + 1e-8)
        # any convex combination bounds min_i g_i.d from above: that of d, single gradients, and the shortest one
        step = (w - 1 / size).clamp(min=0)
        shortest = min_norm_weights(cosine_matrix(j @ j.T)[1]) / lengths
        candidates = [
            row for row in (step, shortest, *torch.eye(size, dtype=torch.float64)) if 0 < row.sum() < torch.inf
        ]
        duals = [row @ j / row.sum() for row in candidates]
        bound = min(float(dual @ mean + ball * dual.norm()) for dual in duals)
        scale = float(lengths.max() * (mean.norm() + d.norm()))
        assert bound - float((j @ d).min()) <= 1e-8 * scale, (kind, size, seed)


def test_conflict_averse_weights_with_radius_zero_are_the_mean():
    gramian = rows("random", 4) @ rows("random", 4).T
    assert conflict_averse_weights(gramian, 0.0).tolist() == [0.25] * 4
