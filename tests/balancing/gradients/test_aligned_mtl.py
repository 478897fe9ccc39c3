"""Aligned-MTL equals the singular value decomposition."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, names, orthogonal, rows


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, [0.559072, 0.408261]), ({"mode": "median"}, [0.559072, 0.408261]), ({"mode": "rmse"}, [1.510866, 1.103306])],
)
def test_known_weights(options, wanted):
    assert gramian_weights("aligned_mtl", CONFLICT, **options).tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("mode", "common"), [("min", torch.min), ("median", torch.median), ("rmse", torch.mean)])
def test_aligned_mtl_averages_orthogonal_gradients_of_equal_length(mode, common):
    j = orthogonal(4, torch.tensor([1.0, 2, 3, 10], dtype=torch.float64))
    left, singular, right = torch.linalg.svd(j, full_matrices=False)
    aligned = common(singular.square()).sqrt() * left @ right
    torch.testing.assert_close(gramian_weights("aligned_mtl", j, mode=mode) @ j, aligned.mean(0))
    p = torch.tensor([0.8, 0.8, 0.8, 1.6], dtype=torch.float64)
    preferred = gramian_weights("aligned_mtl", j, mode=mode, preference={"3": 2.0})
    torch.testing.assert_close(preferred @ j, p @ aligned / 4)


def test_aligned_mtl_ignores_zero_gradients_and_shrinks_with_near_duplicates():
    j = orthogonal(3, torch.tensor([1.0, 1, 1], dtype=torch.float64))
    zero = torch.cat([j[:2], torch.zeros(1, j.shape[1], dtype=torch.float64)])
    torch.testing.assert_close(gramian_weights("aligned_mtl", zero)[:2], gramian_weights("aligned_mtl", j[:2]) * 2 / 3)
    near = torch.stack([j[0], j[1], j[1] + 1e-2 * j[2]])
    assert (gramian_weights("aligned_mtl", near) @ near).norm() < 1e-2 * (gramian_weights("aligned_mtl", j) @ j).norm()


@pytest.mark.parametrize("apart", [1e-4, 1e-5])
def test_aligned_mtl_takes_gradients_that_rounding_cannot_tell_apart_for_equal(apart):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(20_000, generator=generator)
    point = torch.nn.Parameter(torch.zeros(20_000))
    balancer = create_balancer("aligned_mtl", ("a", "b"))
    for _ in range(6):
        second = first + apart * torch.randn(20_000, generator=generator)
        point.grad = None
        balancer.backward({"a": point @ first + 1, "b": point @ second + 1}, shared=[point])
        torch.testing.assert_close(point.grad, (first + second) / 2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(size, seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", size, seed)
    for mode in ("min", "median", "rmse"):
        weights = gramian_weights("aligned_mtl", j, mode=mode)
        torch.testing.assert_close(weights @ j, aggregation.AlignedMTL(scale_mode=mode)(j), rtol=1e-8, atol=1e-8)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="aligned_mtl: mode must be"):
        create_balancer("aligned_mtl", names(3), mode="max")
