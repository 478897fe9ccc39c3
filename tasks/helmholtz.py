"""Helmholtz equation, whose residual dwarfs the boundary values.

    u_xx + u_yy + k^2 u = q on -1 < x, y < 1;  u = 0 at the sides;  u = sin(a pi x) sin(b pi y)

The right side q is what makes u the solution. With a = 1, b = 4, k = 1 it is the example by which S. Wang, Y. Teng, P.
Perdikaris, "Understanding and mitigating gradient flow pathologies in physics-informed neural networks", SIAM J. Sci. Comput.
43, 2021 (arXiv:2001.04536) show that the gradients of the two losses differ by orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.physics import Conditions, Fields, PhysicsTask, gradient
from tasks.registry import register_task


@register_task("helmholtz")
class Helmholtz(PhysicsTask):
    """Amplitude ``u`` over ``x`` and ``y``.

    Args:
        a: Half waves in x on each side of 0.
        b: The same in y.
        k: Wave number.
        conditions: ``soft``: the boundary values are a loss of their own. ``hard``: the model fulfils them exactly.
        points: Points of each kind in an epoch.
    """

    coordinates = ("x", "y")
    lower, upper, grid = (-1.0, -1.0), (1.0, 1.0), (101, 101)

    def __init__(
        self, a: int = 1, b: int = 4, k: float = 1.0, conditions: Conditions = "soft", points: int = 102_400
    ) -> None:
        if a < 1 or b < 1:
            raise ValueError(f"helmholtz: a and b must be at least 1, got {a} and {b}")
        if not 0 <= k < math.inf:
            raise ValueError(f"helmholtz: k must be finite and at least 0, got {k}")
        self.a, self.b, self.k = a, b, k
        super().__init__(("equation",), ("boundary",), conditions == "hard", points)

    def draw(self, count: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Points inside, and at the four sides."""
        inside, sides = self.uniform(count, generator), self.uniform(count, generator)
        side = torch.randint(4, (count,), generator=generator)
        sides[torch.arange(count), side // 2] = (2 * (side % 2) - 1).float()
        return inside, sides

    def residuals(self, fields: Fields, *points: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Of the equation, and boundary values."""
        inside, sides = points
        u = fields(inside)["u"]
        u_x, u_y = gradient(u, inside)
        u_xx, _ = gradient(u_x, inside)
        _, u_yy = gradient(u_y, inside)
        exact = torch.sin(self.a * math.pi * inside[:, :1]) * torch.sin(self.b * math.pi * inside[:, 1:])
        factor = self.k**2 - (self.a**2 + self.b**2) * math.pi**2
        yield "equation", u_xx + u_yy + self.k**2 * u - factor * exact.detach()
        if not self.hard:
            yield "boundary", fields(sides)["u"]

    def reference(self, points: np.ndarray) -> Mapping[str, np.ndarray]:
        """u = sin(a pi x) sin(b pi y)."""
        x, y = points.T
        return {"u": np.sin(self.a * np.pi * x) * np.sin(self.b * np.pi * y)}
