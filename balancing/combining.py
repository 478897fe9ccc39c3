"""The update of a method that needs whole gradients, with every option applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from balancing.errors import BalancingError
from balancing.rows import Gradients, flat_rows
from balancing.weighing import View, shortened, translate

if TYPE_CHECKING:
    from balancing.balancer import Balancer

__all__ = ["Workspace", "combine_rows"]


class Workspace:
    """What a method that remembers gradients needs from step to step, apart from its memory: room, and an order."""

    def __init__(self) -> None:
        self._matrix: Tensor | None = None
        self._order: list[Tensor] | None = None

    def room(self, points: Sequence[Tensor], size: int) -> Tensor:
        """A (K, P) matrix for the rows. It is kept, as new memory costs more time than filling it."""
        if self._matrix is None or self._matrix.shape != (size, sum(point.numel() for point in points)):
            self._matrix = flat_rows(points, size)
        return self._matrix

    def keep_order(self, balancer: Balancer, gradients: Gradients) -> None:
        """Let coordinates mean what they meant at the first step, in whatever order the graph lists the parameters now.

        Raises BalancingError if they are other parameters, or do not fit a memory that was loaded.
        """
        points = {*gradients.points}
        if self._order is not None and {*self._order} == points:
            gradients.reorder(self._order)
        size = sum(point.numel() for point in points)
        kept = {value.shape[-1] for value in balancer.memory.values() if value.dim() > 0}
        if kept - {size} or (self._order is not None and {*self._order} != points):
            raise BalancingError(
                f"{balancer.name}: remembers gradients of other parameters than the {size} numbers that the losses share "
                "now; give shared=model.shared_parameters(), or use a fresh balancer"
            )
        self._order = list(gradients.points)


def combine_rows(
    balancer: Balancer, seen: View, gradients: Gradients, factor: float
) -> tuple[Tensor | None, list[Tensor]]:
    """Weights, if the method finds any, and the update: a tensor per point, in the scale ``factor`` of the gradients."""
    factors = seen.rows / factor
    scaled = bool(factors.ne(1).any())

    def ask(rows: Tensor) -> Tensor:
        losses = seen.losses.to(torch.promote_types(rows.dtype, torch.float32)).to(rows.device)
        if scaled:
            rows *= factors.to(rows)[:, None]
        return balancer.call(balancer.combine if balancer.combines else balancer.row_weights, losses, rows)

    if not balancer.combines:
        weights = translate(balancer, ask(gradients.jacobian()).to(seen.rows), seen)
        return weights, gradients.combine((shortened(balancer, seen.shown(weights), seen.gramian) * factor).tolist())
    if balancer.coordinatewise:
        update = gradients.combine_coordinates(ask)
    else:
        update = gradients.split(ask(gradients.jacobian()))
    size = len(balancer.objectives) if balancer.scale == "sum" and balancer.convention == "mean" else 1.0
    if balancer.max_norm > 0:
        length = size * torch.stack([part.norm() for part in update]).norm()
        size *= float((balancer.max_norm / length).clamp(max=1.0))
    return None, update if size * factor == 1 else [part.mul_(size * factor) for part in update]
