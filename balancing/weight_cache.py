from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightCache(nn.Module):
    """The options ``update_every`` and ``weight_ema``.

    Attributes:
        weights: (K,) the weights of the last update.
        heads: (K,) what the gradients of heads were multiplied by then, for methods with ``heads="unit"``.
    """

    weights: Tensor
    heads: Tensor

    def __init__(self, size: int, update_every: int, weight_ema: float) -> None:
        super().__init__()
        self.weight_ema, self.keeps = weight_ema, update_every > 1 or weight_ema > 0
        self.register_buffer("weights", torch.ones(size))
        self.register_buffer("heads", torch.ones(size))

    def store(self, weights: Tensor, step: int) -> Tensor:
        """The weights after smoothing, which are kept for later steps."""
        if self.weight_ema > 0 and step > 0:
            weights = self.weight_ema * self.weights.to(weights) + (1 - self.weight_ema) * weights
        if self.keeps:
            self.weights.copy_(weights)
        return weights
