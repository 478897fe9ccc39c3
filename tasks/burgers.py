"""Burgers' equation, whose solution steepens to a shock.

    u_t + u u_x = nu u_xx on -1 < x < 1, 0 < t < 1;  u(x, 0) = -sin(pi x);  u(-1, t) = u(1, t) = 0

The standard example of physics-informed networks (M. Raissi, P. Perdikaris, G. Karniadakis, J. Comput. Phys. 378, 2019,
arXiv:1711.10561), with nu = 0.01 / pi. The reference is the transformation of E. Hopf (1950) and J. Cole (1951), which turns
the equation into that of heat: two integrals for each point, by the trapezoidal rule, which converges exponentially here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.physics import Conditions, Fields, PhysicsTask, gradient
from tasks.registry import register_task

_BLOCK = 4096  # points whose integrals are computed together
_NODES = 151


@register_task("burgers")
class Burgers(PhysicsTask):
    """Velocity ``u`` over place ``x`` and time ``t``.

    Args:
        viscosity: nu, from 0.002 to 10, for which the integrals are exact.
        conditions: ``soft``: initial and boundary values are losses of their own. ``hard``: the model fulfils them exactly.
        points: Points of each kind in an epoch.
    """

    coordinates = ("x", "t")
    lower, upper, grid = (-1.0, 0.0), (1.0, 1.0), (256, 100)

    def __init__(
        self, viscosity: float = 0.01 / math.pi, conditions: Conditions = "soft", points: int = 102_400
    ) -> None:
        if not 0.002 <= viscosity <= 10:
            raise ValueError(f"burgers: viscosity must be in [0.002, 10], got {viscosity}")
        self.viscosity = viscosity
        super().__init__(("equation",), ("initial", "boundary"), conditions == "hard", points)

    def draw(self, count: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Points inside, at the start, and at the two ends."""
        inside, start = self.uniform(count, generator), self.uniform(count, generator, t=0.0)
        ends = self.uniform(count, generator)
        ends[:, 0] = torch.where(ends[:, 0] < 0, -1.0, 1.0)
        return inside, start, ends

    def residuals(self, fields: Fields, *points: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Of the equation, and differences from initial and boundary values."""
        inside, start, ends = points
        u = fields(inside)["u"]
        u_x, u_t = gradient(u, inside)
        u_xx, _ = gradient(u_x, inside)
        yield "equation", u_t + u * u_x - self.viscosity * u_xx
        if not self.hard:
            yield "initial", fields(start)["u"] + torch.sin(math.pi * start[:, :1])
            yield "boundary", fields(ends)["u"]

    def reference(self, points: np.ndarray) -> Mapping[str, np.ndarray]:
        """u of the formula of Cole and Hopf."""
        blocks = [self._exact(points[i : i + _BLOCK]) for i in range(0, len(points), _BLOCK)]
        return {"u": np.concatenate(blocks)}

    def _exact(self, points: np.ndarray) -> np.ndarray:
        x, t = points[:, :1], points[:, 1:]
        # beyond, exp(-z^2) is below all that the other factor makes up for
        reach = math.sqrt(1 / (math.pi * self.viscosity) + 40)
        z = np.linspace(-reach, reach, _NODES)
        y = x - np.sqrt(4 * self.viscosity * t) * z
        exponent = -np.cos(np.pi * y) / (2 * np.pi * self.viscosity) - z * z
        weights = np.exp(exponent - exponent.max(1, keepdims=True))
        return -(np.sin(np.pi * y) * weights).sum(1) / weights.sum(1)
