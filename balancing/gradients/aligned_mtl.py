from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions


@register_balancer("aligned_mtl")
class AlignedMTL(GramianBalancer):
    """Replace the gradients by the nearest orthogonal ones of equal length, and average these.

    With ``G = V diag(l) V'`` over the eigenvalues above the rank tolerance, ``w = sqrt(s) V diag(l)^{-1/2} V' u``, u = 1 / K.
    Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023, arXiv:2305.19000.

    needs: gramian     scale: mean-like (the authors' code sums: scale="sum")     heads: unit     preference: u
    The rank tolerance is K ``tolerance`` times the largest eigenvalue. The update is discontinuous there: with mode="min",
    two gradients that are nearly but not numerically equal shorten all of it by sqrt(l_min / l_max). Two gradients of which
    one is 2000 times shorter count as one; zero gradients get weight 0.

    Args:
        mode: The common squared length s: ``min``, ``median`` (the lower of two) or ``rmse`` (the mean) of the eigenvalues.
        tolerance: Relative to the largest eigenvalue and per objective. Machine epsilon of float32 as published: products of
            float32 gradients leave no more, and a smaller eigenvalue is noise, on which the length of the update would hang.
    """

    convention = "mean"
    preference_on = "method"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        mode: Literal["min", "median", "rmse"] = "min",
        tolerance: float = 1.2e-7,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not tolerance > 0, f"tolerance must be positive, got {tolerance}")
        self.mode, self.tolerance = mode, tolerance

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        target = self.preference / len(gramian)
        values, vectors = torch.linalg.eigh(gramian)
        kept = values > values[-1] * len(values) * self.tolerance
        if not bool(kept.any()):
            return target
        values, vectors = values[kept], vectors[:, kept]
        scale = {"min": values.min(), "median": values.median(), "rmse": values.mean()}[self.mode]
        return vectors @ ((scale / values).sqrt() * (vectors.T @ target))
