from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions


@register_balancer("krum")
class Krum(GramianBalancer):
    """Krum: the mean of the m gradients that lie closest to others.

    Close is the sum of ``||g_i - g_j||^2`` over the K - f - 2 nearest others.
    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NIPS 2017,
    arXiv:1703.02757; m > 1 is Multi-Krum.

    needs: gramian     scale: mean-like     heads: unit
    Needs K >= f + 3 objectives. Distances are squared as published; some public code sums plain distances. Among equal
    scores the first objective wins; with K = f + 3 a score is one distance, which the two nearest gradients always share.
    A step from which so many objectives are absent that fewer than f + 3 are left takes their mean.

    Args:
        byzantine: f, how many objectives may be arbitrarily wrong.
        selected: m, how many gradients are averaged.
    """

    convention = "mean"

    def __init__(
        self, objectives: Sequence[str], *, byzantine: int = 0, selected: int = 1, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        size = len(self.objectives)
        self.reject(byzantine < 0, f"byzantine must not be negative, got {byzantine}")
        least = byzantine + 3
        self.reject(size < least, f"byzantine={byzantine} needs at least {least} objectives, got {size}")
        self.reject(not 1 <= selected <= size, f"selected must be between 1 and {size}, got {selected}")
        self.byzantine, self.selected = byzantine, selected

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        squared = gramian.diagonal()
        if len(gramian) < self.byzantine + 3:
            return torch.full_like(squared, 1 / len(gramian))
        distances = (squared[:, None] + squared - 2 * gramian).clamp(min=0).fill_diagonal_(torch.inf)
        nearest = distances.sort(dim=1).values[:, : len(gramian) - self.byzantine - 2]
        chosen = nearest.sum(1).argsort(stable=True)[: self.selected]
        return torch.zeros_like(squared).index_fill(0, chosen, 1 / len(chosen))
