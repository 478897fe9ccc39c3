from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..jacobian_balancer import JacobianBalancer
from ..options import BalancerOptions


@register_balancer("graddrop")
class GradDrop(JacobianBalancer):
    """GradDrop: every coordinate keeps the gradients of one sign, drawn at random.

    The positive ones with probability ``1/2 (1 + sum_i g_i / sum_i |g_i|)``, else the negative ones:
    ``d = sum_i (l_i + (1 - l_i) M_i) g_i`` with the mask M_i of what is kept of g_i, and its leak l_i.
    Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", NeurIPS 2020.

    needs: jacobian     scale: sum-like     heads: unit     preference: scales the gradients beforehand
    Acts on parameters, a draw per coordinate; with ``at="features"`` on the features, there too a draw per coordinate and
    sample, where the paper draws once for all samples. A coordinate without any gradient stays zero.

    Args:
        leak: Objective -> l_i in [0, 1], the part of its gradient that is never dropped; 0 where not named.
    """

    coordinatewise = True
    preference_on = "rows"

    def __init__(
        self, objectives: Sequence[str], *, leak: Mapping[str, float] | None = None, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.leak = self.vector(leak or {}, default=0.0)
        wrong = bool((self.leak < 0).any() or (self.leak > 1).any())
        self.reject(wrong, f"leak must be between 0 and 1, got {dict(leak or {})}")

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        rows = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))
        positive, negative = torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
        leaks = torch.zeros_like(positive), torch.zeros_like(positive)
        for row, leak in zip(rows, self.leak.tolist(), strict=True):
            part, rest = row.clamp(min=0), row.clamp(max=0)
            positive += part
            negative += rest
            if leak > 0:
                leaks[0].add_(rest, alpha=leak)
                leaks[1].add_(part, alpha=leak)
        # 1 for positive and 0 for negative: whether the draw is below sum_i g_i / sum_i |g_i|
        keep = torch.addcmul(positive + negative, self._draws(rows), positive - negative, value=-1 / (1 << 15)).gt_(0)
        if bool(self.leak.any()):
            positive, negative = positive + leaks[0], negative + leaks[1]
        return torch.lerp(negative, positive, keep)

    def _draws(self, rows: Tensor) -> Tensor:
        """For each coordinate one of the 2^15 odd numbers between -2^15 and 2^15.

        They are equally likely, and four come from 64 random bits.
        """
        size = rows.shape[1]
        bits = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None, generator=self.generator)
        odd = bits.bitwise_or_(0x0001_0001_0001_0001).to(rows.device)
        return odd.view(torch.int16)[:size].to(rows.dtype)
