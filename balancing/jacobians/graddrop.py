"""GradDrop: let every coordinate follow one sign only, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.options import BalancerOptions
from balancing.registry import register_balancer

__all__ = ["GradDrop"]

# Coordinates decided at a time: they stay in the processor's cache.
_CHUNK = 1 << 16


@register_balancer("graddrop")
class GradDrop(Balancer):
    """Per coordinate, keep the positive gradients with probability ``1/2 (1 + sum_i g_i / sum_i |g_i|)``, else the negative ones.

    ``d = sum_i (l_i + (1 - l_i) M_i) g_i`` with the mask M_i of what is kept of g_i, and its leak l_i.
    Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", NeurIPS 2020.

    needs: jacobian     scale: sum-like     heads: unit     preference: scales the gradients beforehand
    Acts on parameters, a draw per coordinate; with ``at="features"`` on the features, there too a draw per coordinate and
    sample, where the paper draws once for all samples. A coordinate without any gradient stays zero.

    Args:
        objectives: Names of the losses.
        leak: Objective -> l_i in [0, 1], the part of its gradient that is never dropped; 0 where not named.
        options: See :class:`balancing.Balancer`.
    """

    needs = "jacobian"
    preference_on = "rows"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        leak: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.leak = self._vector(leak or {}, default=0.0)
        if bool((self.leak < 0).any()) or bool((self.leak > 1).any()):
            raise ValueError(f"graddrop: leak must be between 0 and 1, got {dict(leak or {})}")

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        """(P,) sum of what is kept."""
        update = torch.empty_like(jacobian[0])
        for rows, out in zip(jacobian.split(_CHUNK, dim=1), update.split(_CHUNK), strict=True):
            draw = torch.rand(len(out), generator=self.generator, dtype=out.dtype).to(out.device)
            positive, negative = torch.zeros_like(out), torch.zeros_like(out)
            leaks = torch.zeros_like(out), torch.zeros_like(out)
            for row, leak in zip(rows, self.leak.tolist(), strict=True):
                part = row.clamp(min=0)
                rest = row - part
                positive += part
                negative += rest
                if leak > 0:
                    leaks[0].add_(rest, alpha=leak)
                    leaks[1].add_(part, alpha=leak)
            keep_positive = draw * (positive - negative) < positive  # false where there is nothing to keep
            torch.where(keep_positive, positive + leaks[0], negative + leaks[1], out=out)
        return update
