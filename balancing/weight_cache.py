"""Weights that are kept from step to step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["WeightCache"]


class WeightCache(nn.Module):
    """The options ``update_every`` and ``weight_ema``, and weights that never change.

    Attributes:
        weights: (K,) the weights of the last update.
        heads: (K,) what the gradients of heads were multiplied by then, for methods with ``heads="unit"``.
    """

    weights: Tensor
    heads: Tensor

    def __init__(self, size: int, update_every: int, weight_ema: float) -> None:
        super().__init__()
        self.update_every, self.weight_ema = update_every, weight_ema
        self.keeps = update_every > 1 or weight_ema > 0
        self.register_buffer("weights", torch.ones(size))
        self.register_buffer("heads", torch.ones(size))
        self._constant: Tensor | None = None

    def reuses(self, step: int) -> bool:
        """Whether this step takes the weights of an earlier one."""
        return step % self.update_every != 0

    def store(self, weights: Tensor, step: int) -> Tensor:
        """The weights after smoothing, which are kept for later steps."""
        if self.weight_ema > 0 and step > 0:
            weights = self.weight_ema * self.weights.to(weights) + (1 - self.weight_ema) * weights
        if self.keeps:
            self.weights.copy_(weights)
        return weights

    def store_heads(self, factors: Tensor) -> None:
        """Keep the factors of the gradients of heads."""
        if self.update_every > 1:
            self.heads.copy_(factors)

    def constant(self, losses: Tensor) -> Tensor | None:
        """The weights of :meth:`store_constant`, if they have the dtype and device of ``losses``."""
        kept = self._constant
        return kept if kept is not None and kept.dtype == losses.dtype and kept.device == losses.device else None

    def store_constant(self, weights: Tensor) -> None:
        """Keep weights that are the same at every step."""
        self._constant = weights
