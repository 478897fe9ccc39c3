"""Weights that follow from the time alone: curves from one value to another, and objectives that take turns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.factory import register_balancer
from balancing.options import BalancerOptions, unknown_objective

__all__ = ["Alternating", "Scheduled"]


@register_balancer("scheduled")
class Scheduled(Balancer):
    """Lead each weight from one value to another: ``w_i(t) = a_i + (b_i - a_i) f((t - begin_i) / length_i)``.

    f is 0 before ``begin`` and 1 after ``begin + length``; in between it is the progress s itself (``linear``) or
    ``(1 - cos(pi s)) / 2`` (``cosine``). ``step`` jumps from a to b at ``begin``.

    needs: nothing     scale: own     heads: weighted
    For instance an auxiliary loss that fades out, ``end={"aux": 0}``, or one that joins late, ``start={"aux": 0}``.

    Args:
        objectives: Names of the losses.
        start: Weight a of each objective, 1 where not named.
        end: Weight b of each objective, 1 where not named.
        shape: ``step``, ``linear`` or ``cosine``.
        begin: When the change begins, for all objectives or by name (0 where not named).
        length: How long it takes, for all objectives or by name (10 where not named); ``step`` ignores it.
        unit: Of ``begin`` and ``length``: ``step`` or ``epoch``.
        options: See :class:`balancing.Balancer`.
    """

    needs = "nothing"
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
        if shape not in ("step", "linear", "cosine"):
            raise ValueError(f"scheduled: shape must be step, linear or cosine, got {shape!r}")
        self.shape, self.unit = shape, _unit("scheduled", unit)
        self.start = self._vector(start or {}, default=1.0)
        self.end = self._vector(end or {}, default=1.0)
        for values in (self.start, self.end):
            if bool((values < 0).any()) or not bool(values.any()):
                raise ValueError(f"scheduled: weights must not be negative, nor all zero, got {values.tolist()}")
        self.begin, self.length = self._times(begin, default=0), self._times(length, default=10)
        if bool((self.begin < 0).any()) or bool((self.length <= 0).any()):
            raise ValueError(
                f"scheduled: begin must not be negative and length must be positive, got {begin}, {length}"
            )

    def _times(self, given: int | Mapping[str, int], default: int) -> Tensor:
        if isinstance(given, Mapping):
            return self._vector(given, default=default)
        return torch.full((len(self.objectives),), float(given), dtype=torch.float64)

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) the values of the curves now."""
        elapsed = (self.epoch if self.unit == "epoch" else self.step) - self.begin
        progress = (elapsed / self.length).clamp(0, 1)
        if self.shape == "step":
            progress = (elapsed >= 0).double()
        elif self.shape == "cosine":
            progress = (1 - torch.cos(math.pi * progress)) / 2
        return torch.lerp(self.start, self.end, progress).to(losses)


@register_balancer("alternating")
class Alternating(Balancer):
    """One objective at a time, in turn: ``L_i`` with ``i = order[(t // period) mod len(order)]``.

    needs: nothing     scale: mean-like (an objective is trained in one step of K)     heads: weighted
    The objectives that wait are not differentiated, and their heads get no gradient. With momentum, the shared
    parameters go on moving for the last objective when the next has its turn.

    Args:
        objectives: Names of the losses.
        order: Whose turn it is; a name given twice has twice as many turns. As the objectives are listed if ``None``.
        period: Length of a turn.
        unit: Of ``period``: ``step`` or ``epoch``.
        options: See :class:`balancing.Balancer`.
    """

    needs = "nothing"
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
        for name in order:
            if name not in self.objectives:
                raise ValueError(f"alternating: {unknown_objective(name, self.objectives)}")
        waiting = [name for name in self.objectives if name not in order]
        if waiting:
            raise ValueError(f"alternating: order leaves out objective {waiting[0]!r}, which would never be trained")
        if period < 1:
            raise ValueError(f"alternating: period must be at least 1, got {period}")
        self.order = [self.objectives.index(name) for name in order]
        self.period, self.unit = period, _unit("alternating", unit)

    def active(self) -> tuple[int, ...]:
        """The objective whose turn it is."""
        now = self.epoch if self.unit == "epoch" else self.step
        return (self.order[now // self.period % len(self.order)],)

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) 1 for the objective whose turn it is, 0 for the others."""
        w = torch.zeros_like(losses)
        w[list(self.active())] = 1
        return w


def _unit(name: str, unit: Literal["step", "epoch"]) -> Literal["step", "epoch"]:
    if unit not in ("step", "epoch"):
        raise ValueError(f"{name}: unit must be step or epoch, got {unit!r}")
    return unit
