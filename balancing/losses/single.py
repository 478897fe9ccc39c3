from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import ScheduleBalancer
from ..options import BalancerOptions


@register_balancer("single")
class Single(ScheduleBalancer):
    """One objective alone: ``L_objective``.

    needs: nothing     scale: own     heads: weighted
    The single-task baseline: the other objectives are not differentiated, so their heads get no gradient. A step from which
    the objective is absent changes nothing.

    Args:
        objective: The one to train; the first if ``None``.
    """

    constant = True
    convention = "own"

    def __init__(
        self, objectives: Sequence[str], *, objective: str | None = None, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        chosen = self.vector({self.objectives[0] if objective is None else objective: 1.0}, default=0.0)
        self.index = int(chosen.argmax())

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self.index = indices.index(self.index) if self.index in indices else -1

    def active(self) -> tuple[int, ...]:
        return (self.index,) if self.index >= 0 else ()

    def compute_weights(self, losses: Tensor) -> Tensor:
        return torch.zeros_like(losses).index_fill(0, torch.tensor(self.active(), device=losses.device).long(), 1)
