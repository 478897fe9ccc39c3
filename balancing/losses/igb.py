from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..hints import warn_if_endless
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("igb")
class IGB(LossBalancer):
    """Improvable gap balancing: more weight to losses far from done.

    ``sum_i v_i log L_i``, ``v = K softmax(L / base)``, ``w_i = v_i / L_i``.
    The base is the mean of each loss over the first epoch or the first ``window`` steps; until it is known v = 1.
    Dai, Fei and Lu, "Improvable Gap Balancing for Multi-Task Learning", UAI 2023, arXiv:2307.15429: the first of its
    two methods (the other learns v by reinforcement).

    needs: losses     scale: own (the terms sum to K)     heads: weighted
    Invariant to the scale of every loss. Epochs are counted by ``balancer.next_epoch()``.

    Args:
        window: How many steps the base is averaged over, or ``None`` for the first epoch.
    """

    convention = "own"
    positive = True

    def __init__(
        self, objectives: Sequence[str], *, window: int | None = None, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(window is not None and window < 1, f"window must be at least 1, got {window}")
        self.window = window
        self.base: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))
        self.count: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))

    def advance(self) -> None:
        super().advance()
        if self.window is None:
            warn_if_endless(self, "a window in steps")

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        counts = self.count.tolist()
        measuring = [self.epoch == 0 if self.window is None else count < self.window for count in counts]
        if all(measuring):
            self.count += 1
            self.base += (losses - self.base) / self.count
            return 1 / losses
        if any(measuring) or 0 in counts:
            # one that joins later takes its first loss
            joining = torch.tensor(measuring, device=self.count.device) | (self.count == 0)
            self.count += joining
            self.base += torch.where(joining, (losses - self.base) / self.count, 0.0)
        gap = losses / self.base.to(losses)
        if not any(measuring):
            return len(losses) * torch.softmax(gap, 0) / losses
        v, known = torch.ones_like(losses), ~torch.tensor(measuring, device=losses.device)
        v[known] = int(known.sum()) * torch.softmax(gap[known], 0)
        return v / losses
