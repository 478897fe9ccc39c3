from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..hints import warn_if_endless
from ..loss_balancer import ScheduleBalancer
from ..options import BalancerOptions


@register_balancer("scheduled")
class Scheduled(ScheduleBalancer):
    """Weights that follow a curve from one value to another.

    ``w_i(t) = a_i + (b_i - a_i) f((t - begin_i) / length_i)``.

    f is 0 before ``begin`` and 1 after ``begin + length``; in between it is the progress s itself (``linear``) or
    ``(1 - cos(pi s)) / 2`` (``cosine``). ``step`` jumps from a to b at ``begin``.

    needs: nothing     scale: own     heads: weighted
    For instance an auxiliary loss that fades out, ``end={"aux": 0}``, or one that joins late, ``start={"aux": 0}``.

    Args:
        start: Weight a of each objective, 1 where not named.
        end: Weight b of each objective, 1 where not named.
        shape: ``step``, ``linear`` or ``cosine``.
        begin: When the change begins, for all objectives or by name (0 where not named).
        length: How long it takes, for all objectives or by name (10 where not named); ``step`` ignores it.
        unit: Of ``begin`` and ``length``: ``step`` or ``epoch``.
    """

    convention = "own"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        start: Mapping[str, float] | None = None,
        end: Mapping[str, float] | None = None,
        shape: Literal["step", "linear", "cosine"] = "linear",
        begin: int | Mapping[str, int] = 0,
        length: int | Mapping[str, int] = 10,
        unit: Literal["step", "epoch"] = "epoch",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.shape, self.unit = shape, unit
        self.start = self.vector(start or {}, default=1.0)
        self.end = self.vector(end or {}, default=1.0)
        for c in (self.start.tolist(), self.end.tolist()):
            self.reject(min(c) < 0 or not any(c), f"weights must not be negative, nor all zero, got {c}")
        self.begin, self.length = self._times(begin, default=0), self._times(length, default=10)
        wrong = bool((self.begin < 0).any() or (self.length <= 0).any())
        self.reject(wrong, f"begin must not be negative and length must be positive, got {begin}, {length}")

    def _times(self, given: int | Mapping[str, int], default: int) -> Tensor:
        if isinstance(given, Mapping):
            return self.vector(given, default=default)
        return torch.full((len(self.objectives),), float(given), dtype=torch.float64)

    def advance(self) -> None:
        super().advance()
        if self.unit == "epoch":
            warn_if_endless(self, "unit='step'")

    def compute_weights(self, losses: Tensor) -> Tensor:
        elapsed = (self.epoch if self.unit == "epoch" else self.step) - self.begin
        progress = (elapsed / self.length).clamp(0, 1)
        if self.shape == "step":
            progress = (elapsed >= 0).double()
        elif self.shape == "cosine":
            progress = (1 - torch.cos(math.pi * progress)) / 2
        return torch.lerp(self.start, self.end, progress).to(losses)
