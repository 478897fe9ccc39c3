from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("initial_loss")
class InitialLoss(LossBalancer):
    """Divide each loss by its value before training: ``w_i = 1 / L_i(0)``.

    needs: losses     scale: own (all terms start at 1)     heads: weighted
    L(0) is given, for instance by theory (log K for K classes, the mean square of a regression target), or measured as
    the mean over the first ``batches`` batches; until these are complete the mean so far is used.

    Args:
        initial_losses: L_i(0) > 0 of every objective, or ``None`` to measure them.
        batches: How many batches to measure over.
    """

    convention = "own"
    positive = True

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        initial_losses: Mapping[str, float] | None = None,
        batches: int = 1,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(batches < 1, f"batches must be at least 1, got {batches}")
        self.batches = batches
        self.initial: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))
        self.measured: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))
        if initial_losses is not None:
            self.initial.copy_(self.vector(initial_losses, default=None, positive=True))
            self.measured.fill_(batches)

    def compute_weights(self, losses: Tensor) -> Tensor:
        measuring = self.measured < self.batches
        if bool(measuring.any()):
            self.require_positive(torch.where(measuring, losses, 1.0))
            self.measured += measuring
            self.initial += torch.where(measuring, (losses - self.initial) / self.measured, 0.0)
        return 1 / self.initial.to(losses)
