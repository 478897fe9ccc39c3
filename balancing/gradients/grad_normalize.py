from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions


@register_balancer("grad_normalize")
class GradNormalize(GramianBalancer):
    """Give every gradient the mean length: ``w_i = mean_j(n_j) / n_i r_i^alpha``, n_i = ||g_i||.

    ``r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0))`` lets slow objectives go faster. This is the point at which GradNorm's
    weights come to rest, up to their sum, reached in one step and without a learning rate.

    needs: gramian     scale: sum-like (own with length="unit")     heads: unit
    A zero gradient keeps weight 1 and does not count in the mean.

    Args:
        length: ``mean``: of the gradients of this step. ``unit``: 1, so ``w_i = r_i^alpha / n_i``.
        alpha: How strongly slow objectives are favored; 0: equal lengths, any other value for positive losses.
        initial_losses: L_i(0) > 0 of every objective, or ``None`` to take those of the first step. Unused if alpha is 0.
    """

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        length: Literal["mean", "unit"] = "mean",
        alpha: float = 0.0,
        initial_losses: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.length, self.alpha = length, alpha
        self.initial = nn.Buffer(torch.zeros(len(self.objectives)))
        if initial_losses is not None:
            self.initial.copy_(self.vector(initial_losses, default=None, positive=True))

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        norms = gramian.diagonal().clamp(min=0).sqrt()
        present = norms > 0
        if not bool(present.any()):
            return torch.ones_like(norms)
        length = norms[present].mean() if self.length == "mean" else 1.0
        return torch.where(present, length / norms * self._pace(losses), 1.0)

    def _pace(self, losses: Tensor) -> Tensor:
        """(K,) factors ``r_i^alpha``."""
        if self.alpha == 0:
            return torch.ones_like(losses)
        self.require_positive(losses)
        self.initial.copy_(torch.where(self.initial > 0, self.initial, losses))
        pace = losses / self.initial.to(losses)
        return (pace / pace.mean()) ** self.alpha
