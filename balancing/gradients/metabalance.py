from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..objectives import primary_among, primary_index
from ..options import BalancerOptions


@register_balancer("metabalance")
class MetaBalance(GramianBalancer):
    """MetaBalance: auxiliary gradients brought near the length of the primary one.

    ``w_i = r m_0 / m_i + (1 - r)``, m_i a running mean of ||g_i||, ``m_i <- beta m_i + (1 - beta) ||g_i||``; ``w_0 = 1``.
    He, Feng, Cheng, Ji, Guo and Caverlee, "MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient
    Magnitudes of Auxiliary Tasks", WWW 2022, arXiv:2203.06801.

    needs: gramian     scale: sum-like     heads: unit
    The authors compare lengths parameter by parameter; here they are those of all shared parameters. Their means start at
    zero, which cancels in the ratio as long as all objectives started together; here the bias is removed, so that an
    objective that joins later is not blown up. A gradient that has always been zero keeps weight 1. In a step from which the
    primary objective is absent, the first of the others stands in for it.

    Args:
        primary: The objective that sets the length; ``None``: the first named.
        relax: r in [0, 1]: 0 leaves the gradients as they are, 1 makes the mean lengths equal.
        beta: Decay of the means per step, in [0, 1).
    """

    per_group = False
    primary: int

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        primary: str | None = None,
        relax: float = 0.7,
        beta: float = 0.9,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 <= relax <= 1, f"relax must be in [0, 1], got {relax}")
        self.reject(not 0 <= beta < 1, f"beta must be in [0, 1), got {beta}")
        self.primary = primary_index(self.name, primary, self.objectives)
        self.draw_always(self.primary)
        self.relax, self.beta = relax, beta
        self.lengths = nn.Buffer(torch.zeros(len(self.objectives)))
        self.mass = nn.Buffer(torch.zeros(len(self.objectives)))

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self.primary = primary_among(self.primary, indices)

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        norms = gramian.diagonal().clamp(min=0).sqrt()
        self.lengths.copy_(torch.lerp(norms, self.lengths.to(norms), self.beta))
        self.mass.mul_(self.beta).add_(1 - self.beta)
        means = self.lengths.to(norms) / self.mass.to(norms)
        known = (means > 0) & (means[self.primary] > 0)
        ratio = torch.where(known, means[self.primary] / torch.where(means > 0, means, 1.0), 1.0)
        weights = self.relax * ratio + (1 - self.relax)
        weights[self.primary] = 1
        return weights
