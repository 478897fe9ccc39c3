from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class WeightCache(nn.Module):
    """The options ``update_every`` and ``weight_ema``.

    Attributes:
        weights: (K,) the weights of the last update.
        heads: (K,) what the gradients of heads were multiplied by then, for methods with ``heads="unit"``.
        known: (K,) whether the weights are of an update; an objective that was absent so far has none.
    """

    weights: Tensor
    heads: Tensor
    known: Tensor

    def __init__(self, size: int, update_every: int, weight_ema: float) -> None:
        super().__init__()
        self.weight_ema, self.update_every, self.keeps = weight_ema, update_every, update_every > 1 or weight_ema > 0
        self.register_buffer("weights", torch.ones(size))
        self.register_buffer("heads", torch.ones(size))
        self.register_buffer("known", torch.zeros(size, dtype=torch.int64))

    def reusable(self, step: int, present: Sequence[bool] = (), begun: bool = False) -> bool:
        """Whether a step reuses the weights, of which each ``present`` objective has one.

        ``begun``: an earlier micro-batch of the step was weighed at once.
        """
        if step % self.update_every == 0:
            return False
        return begun or bool((self.known[list(present)] if present else self.known).all())

    def store(self, weights: Tensor, step: int) -> Tensor:
        """The weights after smoothing, which are kept for later steps."""
        if self.weight_ema > 0 and step > 0:
            smooth = self.weight_ema * self.weights.to(weights) + (1 - self.weight_ema) * weights
            weights = torch.where(self.known.to(weights.device) > 0, smooth, weights)
        if self.keeps:
            self.weights.copy_(weights)
            self.known.fill_(1)
        return weights

    def keep(self, weights: Tensor, indices: Sequence[int]) -> None:
        """Take these of the ``weights``, which a method was not asked for."""
        for k in indices if self.keeps else ():
            self.weights[k], self.known[k] = weights[k], 1

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        weights = state_dict.get(f"{prefix}weights")
        if weights is not None:  # an earlier version knew no absent objectives
            state_dict.setdefault(f"{prefix}known", torch.ones_like(weights, dtype=torch.int64))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
