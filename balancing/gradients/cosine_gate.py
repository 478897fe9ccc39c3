from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..objectives import primary_among, primary_index
from ..options import BalancerOptions


@register_balancer("cosine_gate")
class CosineGate(GramianBalancer):
    """Auxiliary gradients count as far as they point along the primary one.

    ``w_i = max(0, cos(g_0, g_i))``, or 1 if the cosine is positive and otherwise 0; ``w_0 = 1``.
    Each term has a product with g_0 that is not negative, so the primary objective is never harmed.
    Du et al., "Adapting Auxiliary Losses Using Gradient Similarity", 2018, arXiv:1812.02224.

    needs: gramian     scale: sum-like     heads: unit
    The gate is that of the step's own batch, so single batches switch it; ``weight_ema=`` smooths it. In a step from which
    the primary objective is absent, the first of the others stands in for it.

    Args:
        primary: The objective that the others help; ``None``: the first named.
        form: ``cosine``: weights between 0 and 1. ``sign``: 0 or 1.
    """

    primary: int

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        primary: str | None = None,
        form: Literal["cosine", "sign"] = "cosine",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.primary = primary_index(self.name, primary, self.objectives)
        self.draw_always(self.primary)
        self.form = form

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self.primary = primary_among(self.primary, indices)

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        norms = gramian.diagonal().clamp(min=0).sqrt()
        safe = torch.where(norms > 0, norms, 1.0)
        cosines = (gramian[self.primary] / safe / safe[self.primary]).clamp(0, 1)
        weights = cosines if self.form == "cosine" else (cosines > 0).to(cosines)
        weights[self.primary] = 1
        return weights
