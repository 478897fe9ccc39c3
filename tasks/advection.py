"""Advection of a wave around a circle, on which networks without a sense of time fail.

    u_t + c u_x = 0 on 0 < x < 2 pi, 0 < t < 1;  u(x, 0) = sin(x);  u(0, t) = u(2 pi, t);  u = sin(x - c t)

With large speeds c the loss has poor minima, in which the wave dies out after a short time (A. Krishnapriyan et al.,
"Characterizing possible failure modes in physics-informed neural networks", NeurIPS 2021, arXiv:2109.01050).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.physics import Conditions, Fields, PhysicsTask, gradient
from tasks.registry import register_task


@register_task("advection")
class Advection(PhysicsTask):
    """Wave ``u`` over place ``x`` and time ``t``.

    Args:
        speed: Of the wave, c.
        conditions: ``soft``: initial values and periodicity are losses of their own. ``hard``: the model fulfils them exactly.
        points: Points of each kind in an epoch.
    """

    coordinates = ("x", "t")
    lower, upper, grid = (0.0, 0.0), (2 * math.pi, 1.0), (128, 101)

    def __init__(self, speed: float = 10.0, conditions: Conditions = "soft", points: int = 102_400) -> None:
        if not math.isfinite(speed):
            raise ValueError(f"advection: speed must be finite, got {speed}")
        self.speed = speed
        super().__init__(("equation",), ("initial", "boundary"), conditions == "hard", points)
        self.info = {**self.info, "periodic": (0,) if self.hard else ()}

    def draw(self, count: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Points inside, at the start, and at the left end."""
        ends = self.uniform(count, generator, x=self.lower[0])
        return self.uniform(count, generator), self.uniform(count, generator, t=0.0), ends

    def residuals(self, fields: Fields, *points: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Of the equation, differences from initial values, and between the two ends."""
        inside, start, ends = points
        u_x, u_t = gradient(fields(inside)["u"], inside)
        yield "equation", u_t + self.speed * u_x
        if not self.hard:
            yield "initial", fields(start)["u"] - torch.sin(start[:, :1])
            others = ends.clone()
            others[:, 0] = self.upper[0]
            yield "boundary", fields(ends)["u"] - fields(others)["u"]

    def reference(self, points: np.ndarray) -> Mapping[str, np.ndarray]:
        """u = sin(x - c t)."""
        x, t = points.T
        return {"u": np.sin(x - self.speed * t)}
