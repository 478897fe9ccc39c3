from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .errors import BalancingError
from .measuring.gradients import Gradients
from .watch import Watch, watched_leaf


@dataclass
class Part:
    """Losses and gradients of ``count`` micro-batches, summed."""

    losses: Tensor
    gradients: Gradients
    count: int = 1

    def leaves(self) -> list[Tensor]:
        """Leaves that receive gradients: those that are contested, if there are any."""
        return self.gradients.inputs or [leaf for heads in self.gradients.heads for leaf in heads]

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
        self._watch: Watch | None = None

    def take(self, owner: str) -> tuple[list[Part], Tensor | None]:
        """``parts`` and ``losses``, which are then forgotten.

        Returns none if their gradients were deleted since.
        Raises BalancingError, which begins with ``owner``, if parameters moved while gradients waited, or if it cannot be
        known whether these were given up.
        """
        taken, watch = (self.parts, self.losses), self._watch
        self.discard()
        if watch is None:
            return taken
        if taken[0] and (watch.moved() or (watch.replaced and not watch.deleted)):
            what = "parameters" if watch.moved() else ".grad"
            raise BalancingError(
                f"{owner}: {what} changed while {sum(part.count for part in taken[0])} micro-batch(es) waited for the "
                "last of their step; give last=True with it, or call discard() to forget them"
            )
        return ([], None) if watch.deleted else taken

    def keep(self, leaves: Iterable[Tensor], parts: list[Part], losses: Tensor | None = None) -> None:
        """Keep ``parts`` or ``losses`` for the step's other micro-batches; watch one of ``leaves``."""
        self.parts, self.losses = parts, losses
        leaf = watched_leaf(leaves)
        self._watch = None if leaf is None else Watch(leaf)

    def discard(self) -> None:
        """Forget what waits."""
        self.parts, self.losses = [], None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(MicroBatches(self._apart))  # a copy has no gradients of a model, and nothing waits

    def join(self, earlier: list[Part], part: Part) -> list[Part]:
        """``earlier`` with one part more."""
        if not earlier or (self._apart and len(earlier) == 1):
            return [*earlier, part]
        return [*earlier[1:], earlier[0] + part]
