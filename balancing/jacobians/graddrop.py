from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..jacobian_balancer import JacobianBalancer
from ..measuring.pieces import Rows
from ..options import BalancerOptions


@register_balancer("graddrop")
class GradDrop(JacobianBalancer):
    """GradDrop: every coordinate keeps the gradients of one sign, drawn at random.

    The positive ones with probability ``1/2 (1 + sum_i g_i / sum_i |g_i|)``, else the negative ones:
    ``d = sum_i (l_i + (1 - l_i) M_i) g_i`` with the mask M_i of what is kept of g_i, and its leak l_i.
    Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", NeurIPS 2020,
    arXiv:2010.06808.

    needs: jacobian     scale: sum-like     heads: unit     preference: scales the gradients beforehand
    Acts on parameters, a draw per coordinate; with ``at="features"`` on the features, there too a draw per coordinate and
    sample, where the paper draws once for all samples. A coordinate without any gradient stays zero. A draw has 16 random
    bits, so that probabilities are right to 2^-16.

    Args:
        leak: Objective -> l_i in [0, 1], the part of its gradient that is never dropped; 0 where not named.
    """

    piecewise = True
    preference_on = "rows"

    def __init__(
        self, objectives: Sequence[str], *, leak: Mapping[str, float] | None = None, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.leak = self.vector(leak or {}, default=0.0)
        wrong = bool((self.leak < 0).any() or (self.leak > 1).any())
        self.reject(wrong, f"leak must be between 0 and 1, got {dict(leak or {})}")

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self.combine_rows(losses, Rows.of(jacobian))[0]

    def combine_rows(self, losses: Tensor, rows: Rows) -> list[Tensor]:
        dtype = torch.promote_types(rows.dtype, torch.float32)
        # kept from piece to piece, so that all stays in the cache
        scratch = [torch.empty(rows.width, dtype=dtype, device=rows.device) for _ in range(4)]
        leaks = self.leak.tolist()

        def write(vectors: list[Tensor], out: Tensor) -> None:
            positive, negative, part, draw = (tensor[: len(out)] for tensor in scratch)
            first, *others = (vector.to(dtype) for vector in vectors)
            torch.sub(first, torch.clamp(first, min=0, out=positive), out=negative)
            for vector in others:
                positive += torch.clamp(vector, min=0, out=part)
                negative += torch.sub(vector, part, out=part)
            draw.copy_(self._draws(len(out))).mul_(torch.sub(positive, negative, out=part))
            # 1 for positive and 0 for negative: whether the draw is below sum_i g_i / sum_i |g_i|
            keep = torch.add(positive, negative, out=part).sub_(draw, alpha=1 / (1 << 15)).gt_(0)
            result = torch.lerp(negative, positive, keep, out=draw if any(leaks) or out.dtype != dtype else out)
            for vector, leak in zip(vectors, leaks, strict=True):
                if leak > 0:  # of the other sign
                    result += leak * torch.lerp(vector.clamp(min=0).to(dtype), vector.clamp(max=0).to(dtype), keep)
            if result is not out:
                out.copy_(result)

        return rows.write_coordinates(write, rows.width)

    def _draws(self, size: int) -> Tensor:
        """For each coordinate one of the 2^15 odd numbers between -2^15 and 2^15.

        They are equally likely, and four come from 64 random bits.
        """
        bits = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None, generator=self.generator)
        return bits.bitwise_or_(0x0001_0001_0001_0001).view(torch.int16)[:size]
