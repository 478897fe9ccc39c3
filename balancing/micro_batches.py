from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .measuring.gradients import Gradients


@dataclass
class Part:
    """Losses and gradients of ``count`` micro-batches, summed."""

    losses: Tensor
    gradients: Gradients
    count: int = 1

    def __add__(self, other: Part) -> Part:
        return Part(self.losses + other.losses, self.gradients + other.gradients, self.count + other.count)


class MicroBatches:
    """Earlier micro-batches of a step, from calls of ``backward`` with ``last=False``.

    Args:
        apart: Whether they are kept as two samples, to which they are added in turn; one sum otherwise.

    Attributes:
        parts: Sums whose weights are still to be found.
        losses: (K,) sum of the losses whose weighted gradients were added to ``.grad`` at once.
    """

    def __init__(self, apart: bool = False) -> None:
        self._apart = apart
        self.parts: list[Part] = []
        self.losses: Tensor | None = None

    def take(self) -> tuple[list[Part], Tensor | None]:
        """``parts`` and ``losses``, which are then forgotten."""
        taken = self.parts, self.losses
        self.parts, self.losses = [], None
        return taken

    def join(self, earlier: list[Part], part: Part) -> list[Part]:
        """``earlier`` with one part more."""
        if not earlier or (self._apart and len(earlier) == 1):
            return [*earlier, part]
        return [*earlier[1:], earlier[0] + part]
