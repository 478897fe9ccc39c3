"""ConicGrad keeps to its cone, and no direction in it is better for the worst objective."""

import pytest
import torch
from scipy.optimize import nnls

from balancing import create_balancer
from tests.balancing.formulas import KINDS, double, gramian_weights, names, ones, rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 5, 20])
@pytest.mark.parametrize("c", [0.05, 0.5, 0.9])
def test_the_direction_is_best_in_the_cone(kind, size, c):
    j = rows(kind, size)
    d, mean = gramian_weights("conicgrad", j, c=c) @ j, j.mean(0)
    assert float(d.norm()) == pytest.approx(float(mean.norm()), rel=1e-7)
    assert d @ mean >= (c - 1e-9) * d.norm() * mean.norm()
    # Karush, Kuhn and Tucker: d is a non-negative combination of the gradients with the least product, and of the axis if d
    # is at the edge; or zero is, where no direction improves all objectives
    moving = j.norm(dim=1) > 0
    units, lengths = torch.nn.functional.normalize(j[moving], dim=1), j[moving].norm(dim=1)
    products, rounding = lengths * (units @ d) / d.norm(), 1e-9 * lengths
    least = (products + rounding).min()
    active = products - rounding <= least
    edge = d @ mean <= (c + 1e-7) * d.norm() * mean.norm()
    axis = mean / mean.norm()
    combined = torch.stack([*units[active], *([axis] if edge else [])]).T
    residual = nnls(combined.numpy(), (d / d.norm()).numpy())[1]
    if least <= 2e-9 * lengths.max():
        balanced = torch.cat([torch.stack([*units[active], axis]).T, ones(int(active.sum()) + 1)[None]])
        residual = min(residual, nnls(balanced.numpy(), double([0.0] * j.shape[1] + [1.0]).numpy())[1])
    assert residual <= 1e-6


def test_two_gradients_in_closed_form():
    j = double([[1.0, 2.0], [1.0, -1.0]])  # the mean is (1, 1/2), and products are equal along (1, 0)
    for c, expected in ((1.0, [1.0, 0.5]), (0.05, [1.0, 0.0])):
        d = gramian_weights("conicgrad", j, c=c) @ j
        torch.testing.assert_close(d / d.norm(), double(expected) / double(expected).norm(), rtol=0, atol=1e-9)
    angle, half = torch.tensor(0.5, dtype=torch.float64).atan(), double([0.99]).acos()  # of the mean; of the cone
    d = gramian_weights("conicgrad", j, c=0.99) @ j
    torch.testing.assert_close(torch.atan2(d[1], d[0])[None], angle - half, rtol=0, atol=1e-9)


def test_the_mean_and_gradients_that_cancel():
    j = rows("random", 4)
    torch.testing.assert_close(gramian_weights("conicgrad", j, c=1.0) @ j, j.mean(0), rtol=1e-9, atol=0)
    assert gramian_weights("conicgrad", double([[1.0, 2.0], [-1.0, -2.0]])).tolist() == [0.5, 0.5]
    assert gramian_weights("conicgrad", torch.zeros(3, 4, dtype=torch.float64)).tolist() == pytest.approx([1 / 3] * 3)
    assert gramian_weights("conicgrad", j[:1]).tolist() == pytest.approx([1])


def test_one_parameter_leaves_the_mean_at_any_scale():
    draw = torch.randn(20, 1, generator=torch.Generator().manual_seed(20), dtype=torch.float64)
    j = draw * 10 ** torch.linspace(-15, 15, 20, dtype=torch.float64)[:, None]
    torch.testing.assert_close(gramian_weights("conicgrad", j) @ j, j.mean(0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("columns", [1, 2, 7])
@pytest.mark.parametrize("decades", [3, 8, 15])
def test_the_length_holds_for_many_gradients_of_low_rank_and_other_scales(columns, decades):
    for seed in range(3):
        j = torch.randn(20, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        j *= 10 ** torch.linspace(-decades, decades, 20, dtype=torch.float64)[:, None]
        for c in (0.01, 0.5, 0.9):
            d, mean = gramian_weights("conicgrad", j, c=c) @ j, j.mean(0)
            assert float(d.norm()) == pytest.approx(float(mean.norm()), rel=1e-6)
            assert d @ mean >= (c - 1e-6) * d.norm() * mean.norm()


def test_weights_follow_scale_and_order():
    j = rows("random", 5)
    w = gramian_weights("conicgrad", j)
    torch.testing.assert_close(gramian_weights("conicgrad", 1e-6 * j), w, rtol=1e-7, atol=1e-9)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(gramian_weights("conicgrad", j[order]), w[order], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("c", [0.0, -0.5, 1.1])
def test_a_cone_out_of_range_is_named(c):
    with pytest.raises(ValueError, match=r"conicgrad: c must be in \(0, 1\]"):
        create_balancer("conicgrad", names(2), c=c)
