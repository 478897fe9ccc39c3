"""Aligned-MTL: gradients made orthogonal and of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.options import BalancerOptions
from balancing.registry import register_balancer

__all__ = ["AlignedMTL"]


@register_balancer("aligned_mtl")
class AlignedMTL(Balancer):
    """Replace the gradients by the nearest orthogonal ones of equal length, and average these.

    With ``G = V diag(l) V'`` over the eigenvalues above the rank tolerance, ``w = sqrt(s) V diag(l)^{-1/2} V' u``, u = 1 / K.
    Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023.

    needs: gramian     scale: mean-like (the authors' code sums: scale="sum")     heads: unit     preference: u
    The tolerance is K machine epsilons of float64 times the largest eigenvalue. The update is discontinuous there: with
    mode="min", two gradients that are nearly but not numerically equal shorten all of it by sqrt(l_min / l_max). Gradients
    1e8 times shorter than the longest are not told from zero; zero gradients get weight 0.

    Args:
        objectives: Names of the losses.
        mode: The common squared length s: ``min``, ``median`` (the lower of two) or ``rmse`` (the mean) of the eigenvalues.
        options: See :class:`balancing.Balancer`.
    """

    needs = "gramian"
    convention = "mean"
    preference_on = "method"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        mode: Literal["min", "median", "rmse"] = "min",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        if mode not in ("min", "median", "rmse"):
            raise ValueError(f"aligned_mtl: mode must be min, median or rmse, got {mode!r}")
        self.mode = mode

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) weights of the mean of the aligned gradients."""
        assert gramian is not None
        target = self.preference / len(gramian)
        values, vectors = torch.linalg.eigh(gramian)
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        if not bool(kept.any()):
            return target
        values, vectors = values[kept], vectors[:, kept]
        scale = {"min": values.min(), "median": values.median(), "rmse": values.mean()}[self.mode]
        return vectors @ ((scale / values).sqrt() * (vectors.T @ target))
