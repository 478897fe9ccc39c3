from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..hints import warn_if_endless
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("dwa")
class DWA(LossBalancer):
    """Dynamic weight average: more weight to losses that fall slowly.

    ``w = K softmax(r / T)``, ``r_i = mean_1(L_i) / mean_2(L_i)``.

    mean_1 is over the last epoch that ended and mean_2 over the one before it; with ``window`` = n, over the last n
    steps, the current one included, and the n before them. Until both are complete w = 1.
    Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv:1803.10704.

    needs: losses     scale: sum-like     heads: weighted
    Epochs are counted by ``balancer.next_epoch()``; a loop that does not call it trains with w = 1. Public code with a
    window starts after one, when the other still holds the ones it was initialized with.

    Args:
        temperature: T; the larger, the more equal the weights.
        window: n in steps, or ``None`` for epochs.
    """

    positive = True
    state_options = ("window",)
    per_objective = {"history": (1,)}

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        temperature: float = 2.0,
        window: int | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not temperature > 0, f"temperature must be positive, got {temperature}")
        self.reject(window is not None and window < 1, f"window must be at least 1, got {window}")
        self.temperature, self.window = temperature, window
        self.history = nn.Buffer(torch.zeros(2 * (window or 1), len(self.objectives)))  # of steps or of epochs
        self.filled: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))
        self.mean: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))  # of the current epoch
        self.count: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))
        self.period = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))

    def advance(self) -> None:
        super().advance()
        if self.window is None:
            warn_if_endless(self, "a window in steps")

    def compute_weights(self, losses: Tensor) -> Tensor:
        if self.window is None:
            self._average(losses)
        else:
            self._push(losses, torch.ones_like(self.filled, dtype=torch.bool))
        weights = torch.ones_like(losses)
        complete = [count >= len(self.history) for count in self.filled.tolist()]
        if not any(complete):
            return weights
        before, last = self.history[:, complete].to(losses).chunk(2)
        ratio = last.mean(0) / before.mean(0)
        weights[complete] = len(ratio) * torch.softmax(ratio / self.temperature, 0)
        return weights

    def _average(self, losses: Tensor) -> None:
        """Add ``losses`` to the means of this epoch, and close those of an earlier one."""
        if any(period != self.epoch for period in self.period.tolist()):
            ended = (self.period != self.epoch) & (self.count > 0)
            self._push(self.mean, ended)
            self.mean.masked_fill_(ended, 0)
            self.count.masked_fill_(ended, 0)
            self.period.fill_(self.epoch)
        self.count += 1
        self.mean += (losses - self.mean) / self.count

    def _push(self, values: Tensor, which: Tensor) -> None:
        """Add the values of the objectives in the mask ``which`` to their histories."""
        self.require_positive(torch.where(which, values, 1.0))
        longer = torch.cat([self.history[1:], values[None].to(self.history)])
        self.history.copy_(torch.where(which, longer, self.history))
        self.filled += which
