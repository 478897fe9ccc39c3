from __future__ import annotations

from collections.abc import Sequence
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

    def among(self, indices: Sequence[int]) -> Part:
        """Those of the objectives with these indices."""
        return Part(self.losses[list(indices)], self.gradients.among(indices), self.count)


class MicroBatches:
    """Earlier micro-batches of a step, from calls of ``backward`` with ``last=False``.

    Args:
        apart: Whether they are kept as two samples, to which they are added in turn; one sum otherwise.

    Attributes:
        parts: Sums whose weights are still to be found.
        losses: (K,) sum of the losses whose weighted gradients were added to ``.grad`` at once.
        present: Whether each objective is present in one of them.
    """

    def __init__(self, apart: bool = False) -> None:
        self._apart = apart
        self.parts: list[Part] = []
        self.losses: Tensor | None = None
        self.present: tuple[bool, ...] | None = None

    def take(self) -> tuple[list[Part], Tensor | None, tuple[bool, ...] | None]:
        """``parts``, ``losses`` and ``present``, which are then forgotten."""
        taken = self.parts, self.losses, self.present
        self.parts, self.losses, self.present = [], None, None
        return taken

    def join(self, earlier: list[Part], part: Part) -> list[Part]:
        """``earlier`` with one part more."""
        if not earlier or (self._apart and len(earlier) == 1):
            return [*earlier, part]
        return [*earlier[1:], earlier[0] + part]


def contest(parts: Sequence[Part]) -> None:
    """Move leaves that different objectives reach in different micro-batches from the heads to the inputs."""
    reached: dict[Tensor, set[int]] = {}
    for part in parts:
        for k, heads in enumerate(part.gradients.heads):
            for leaf in heads:
                reached.setdefault(leaf, set()).add(k)
    shared = [leaf for leaf, objectives in reached.items() if len(objectives) > 1]
    for part in parts if shared else ():
        part.gradients.contest(shared)
