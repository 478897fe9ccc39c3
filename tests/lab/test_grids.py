"""Grids lie around the inverse prior loss, and grow where the best point lies at an edge."""

import math

import numpy as np
import pytest

from lab.grids import ROUNDS, further_points, further_rate, weight_grid


def test_two_objectives_have_nine_points_over_four_decades():
    grid = weight_grid(2)
    ratios = [math.log10(one / other) for one, other in grid]
    np.testing.assert_allclose(ratios, [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2], atol=1e-3)
    np.testing.assert_allclose(np.mean(grid, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("count", [3, 4, 11])
def test_more_objectives_have_sixteen_points_that_fill_the_cube(count):
    grid = weight_grid(count)
    assert grid[0] == (1.0,) * count
    assert len(set(grid)) == 16
    np.testing.assert_allclose(np.mean(grid, axis=1), 1, atol=1e-3)
    logs = np.log10(grid)
    for one in range(
        count
    ):  # every objective is the largest and the smallest somewhere, and no ratio leaves four decades
        for other in range(count):
            ratio = logs[:, one] - logs[:, other]
            assert one == other or ratio.min() < -0.5 < 0.5 < ratio.max()
            assert np.abs(ratio).max() <= 2


def test_one_objective_has_no_grid():
    with pytest.raises(ValueError, match="at least 2 objectives, got 1"):
        weight_grid(1)


def test_a_point_inside_adds_none_and_one_at_an_end_adds_the_next():
    grid = weight_grid(2)
    assert all(further_points(grid, point) == [] for point in grid[1:-1])
    (added,) = further_points(grid, grid[0])
    assert math.log10(added[0] / added[1]) == pytest.approx(-2.5, abs=1e-3)
    (added,) = further_points(grid, grid[-1])
    assert math.log10(added[0] / added[1]) == pytest.approx(2.5, abs=1e-3)
    (again,) = further_points([*grid, added], added)
    assert math.log10(again[0] / again[1]) == pytest.approx(3.0, abs=1e-3)


def test_three_objectives_grow_by_half_a_decade_in_the_direction_without_neighbor():
    inside, far = (1.0, 1.0, 1.0), (2.9703, 0.0149, 0.0149)
    points = [inside, far, (0.1, 1.45, 1.45), (1.45, 0.001, 1.549), (1.45, 1.549, 0.001)]
    assert further_points(points, inside) == []
    (added,) = further_points(points, far)  # the largest share of the first; none has a smaller share of the others
    assert added[0] / added[1] == pytest.approx(far[0] / far[1] * math.sqrt(10), rel=1e-2)
    assert added[1] == added[2]


def test_growing_ends_at_a_point_inside():
    grid = weight_grid(3)
    target = np.log10([2.8, 0.15, 0.05])
    for _ in range(ROUNDS):
        best = min(grid, key=lambda point: np.square(np.log10(point) - target).sum())
        added = further_points(grid, best)
        if not added:
            break
        grid += added
    assert further_points(grid, min(grid, key=lambda point: np.square(np.log10(point) - target).sum())) == []


@pytest.mark.parametrize(
    ("rates", "best", "added"),
    [
        ((0.004, 0.016, 0.064), 0.016, None),
        ((0.004, 0.016, 0.064), 0.064, 0.256),
        ((0.004, 0.016, 0.064), 0.004, 0.001),
        ((0.003, 0.009, 0.027), 0.027, 0.081),
        ((0.004, 0.016, 0.064, 0.256), 0.064, None),
        ((0.004, 0.016, 0.064, 0.001), 0.001, 0.00025),
        ((0.004, 0.016, 0.064, 0.256, 1.024, 4.096), 4.096, None),  # the limit
    ],
)
def test_a_rate_at_an_end_adds_the_next(rates, best, added):
    assert further_rate(rates, best, first=3) == added
