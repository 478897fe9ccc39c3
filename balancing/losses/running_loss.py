"""Weights from the losses as they are: at this step, or averaged over the last steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.factory import register_balancer
from balancing.options import BalancerOptions

__all__ = ["InverseMean", "Realtime"]


@register_balancer("realtime")
class Realtime(Balancer):
    """Divide each loss by its current value: ``w_i = 1 / (L_i + eps)``, so the update is the gradient of ``sum_i log L_i``.

    needs: losses     scale: own (every term is 1)     heads: weighted
    Invariant to the scale of every loss. Raises on a negative loss, of which there is no logarithm.

    Args:
        objectives: Names of the losses.
        eps: Keeps the weight finite as a loss reaches zero.
        options: See :class:`balancing.Balancer`.
    """

    convention = "own"
    positive = True

    def __init__(self, objectives: Sequence[str], *, eps: float = 1e-8, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.eps = _positive("realtime", eps)

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) reciprocals of the losses."""
        self.require_positive(losses + self.eps)
        return 1 / (losses + self.eps)


@register_balancer("inverse_mean")
class InverseMean(Balancer):
    """Weights proportional to the reciprocal of a running mean: ``w_i ~ 1 / (mean of the last W values of L_i + eps)``, sum 1.

    needs: losses     scale: mean-like     heads: weighted
    The current value is part of the window; before W steps the mean is over what there is.

    Args:
        objectives: Names of the losses.
        window: W, in steps.
        eps: Keeps the weight finite as a loss reaches zero.
        options: See :class:`balancing.Balancer`.
    """

    convention = "mean"
    positive = True
    history: Tensor
    count: Tensor

    def __init__(
        self, objectives: Sequence[str], *, window: int = 10, eps: float = 1e-8, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        if window < 1:
            raise ValueError(f"inverse_mean: window must be at least 1, got {window}")
        self.eps = _positive("inverse_mean", eps)
        self.register_buffer("history", torch.zeros(window, len(self.objectives)))
        self.register_buffer("count", torch.tensor(0))

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) normalised reciprocals of the running means."""
        self.require_positive(losses + self.eps)
        count, window = int(self.count), len(self.history)
        self.history[count % window] = losses
        self.count += 1
        inverse = 1 / (self.history[: count + 1].mean(0) + self.eps)
        return inverse / inverse.sum()


def _positive(name: str, eps: float) -> float:
    if not eps > 0:
        raise ValueError(f"{name}: eps must be positive, got {eps}")
    return eps
