from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import ScheduleBalancer
from ..options import BalancerOptions


@register_balancer("alternating")
class Alternating(ScheduleBalancer):
    """One objective at a time, in turn.

    ``L_i`` with ``i = order[(t // period) mod len(order)]``.

    needs: nothing     scale: mean-like (an objective is trained in one step of K)     heads: weighted
    The objectives that wait are not differentiated, and their heads get no gradient. With momentum, the shared
    parameters go on moving for the last objective when the next has its turn. An objective that is absent from a step is
    left out of the order.

    Args:
        order: Whose turn it is; a name given twice has twice as many turns. As the objectives are listed if ``None``.
        period: Length of a turn.
        unit: Of ``period``: ``step`` or ``epoch``.
    """

    convention = "mean"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        order: Sequence[str] | None = None,
        period: int = 1,
        unit: Literal["step", "epoch"] = "step",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        order = self.objectives if order is None else tuple(order)
        self.vector(dict.fromkeys(order, 1.0), default=0.0)  # raises for an unknown name
        waiting = [name for name in self.objectives if name not in order]
        if waiting:
            raise ValueError(f"alternating: order leaves out objective {waiting[0]!r}, which would never be trained")
        self.reject(period < 1, f"period must be at least 1, got {period}")
        self.order = [self.objectives.index(name) for name in order]
        self.period, self.unit = period, unit

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self.order = [indices.index(k) for k in self.order if k in indices]

    def active(self) -> tuple[int, ...]:
        now = self.epoch if self.unit == "epoch" else self.step
        return (self.order[now // self.period % len(self.order)],)

    def compute_weights(self, losses: Tensor) -> Tensor:
        return torch.zeros_like(losses).index_fill(0, torch.tensor(self.active(), device=losses.device), 1)
