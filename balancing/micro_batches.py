from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .errors import BalancingError
from .measuring.gradients import Gradients
from .measuring.step_losses import StepLosses
from .watch import Watch, watched_leaf


@dataclass
class Part:
    """Losses and gradients of ``count`` micro-batches, summed; ``present``: objectives in any."""

    losses: Tensor
    gradients: Gradients
    present: tuple[bool, ...]
    count: int = 1

    def leaves(self) -> list[Tensor]:
        """Leaves that receive gradients: those that are contested, if there are any."""
        return self.gradients.inputs or [leaf for heads in self.gradients.heads for leaf in heads]

    def __add__(self, other: Part) -> Part:
        present = either(self.present, other.present)
        return Part(self.losses + other.losses, self.gradients + other.gradients, present, self.count + other.count)

    def among(self, indices: Sequence[int]) -> Part:
        """Those of the objectives with these indices."""
        present = tuple(self.present[k] for k in indices)
        return Part(self.losses[list(indices)], self.gradients.among(indices), present, self.count)


@dataclass(slots=True)
class Step:
    """What a call of ``backward`` has: its own losses, and what earlier micro-batches left.

    Attributes:
        losses: Of the micro-batch itself.
        parts: Gradients of earlier ones.
        summed: (K,) losses of earlier ones whose gradients were added to ``.grad`` at once.
        present: Whether each objective is in one of them so far.
        waits: Whether an objective that is absent so far may be in a later one.
        reached: Leaf -> mask of the objectives that reach it in those earlier ones whose gradients were added at once.
    """

    losses: StepLosses
    parts: list[Part]
    summed: Tensor | None
    present: tuple[bool, ...]
    waits: bool
    reached: Mapping[Tensor, int]

    def mixed(self) -> bool:
        """Whether an objective is absent from a micro-batch so far, but not from the step."""
        if not self.parts:
            return self.waits
        return self.waits or not all(self.losses.present) or not all(all(part.present) for part in self.parts)

    def among(self, indices: Sequence[int]) -> Step:
        """Of the objectives with these indices."""
        summed = None if self.summed is None else self.summed[list(indices)]
        present = tuple(self.present[k] for k in indices)
        parts = [part.among(indices) for part in self.parts]
        return Step(self.losses.among(indices), parts, summed, present, self.waits, self.reached)


@dataclass
class MicroBatches:
    """Earlier micro-batches of a step, from calls of ``backward`` with ``last=False``.

    Attributes:
        apart: Whether they are kept as two samples, to which they are added in turn; one sum otherwise.
        parts: Sums whose weights are still to be found.
        losses: (K,) sum of the losses whose weighted gradients were added to ``.grad`` at once.
        present: Whether each objective is in one of them; ``None``: all are.
        reached: Leaf -> mask of the objectives that reach it, with ``losses`` of a method that gives heads other weights.
        seen: Whether each objective was in the last step.
    """

    apart: bool = False
    parts: list[Part] = field(default_factory=list)
    losses: Tensor | None = None
    present: tuple[bool, ...] | None = None
    reached: dict[Tensor, int] = field(default_factory=dict)
    watch: Watch | None = None
    seen: tuple[bool, ...] | None = None

    def take(self, owner: str) -> MicroBatches:
        """What there is, which is then forgotten; nothing if its gradients were deleted since.

        Raises BalancingError, which begins with ``owner``, if parameters moved while gradients waited, or if it cannot be
        known whether these were given up.
        """
        if not self.parts and self.losses is None:
            return self
        taken, watch = MicroBatches(self.apart, self.parts, self.losses, self.present, self.reached), self.watch
        self.discard()
        if watch is None:
            return taken
        if taken.parts and (watch.moved() or (watch.replaced and not watch.deleted)):
            what = "parameters" if watch.moved() else ".grad"
            raise BalancingError(
                f"{owner}: {what} changed while {sum(part.count for part in taken.parts)} micro-batch(es) waited for the "
                "last of their step; call backward(losses) without last=False for the last one, or discard() to forget them"
            )
        return MicroBatches(self.apart) if watch.deleted else taken

    def keep(self, leaves: Iterable[Tensor], parts: list[Part], losses: Tensor | None = None) -> None:
        """Keep ``parts`` or ``losses`` for the step's other micro-batches; watch one of ``leaves``."""
        self.parts, self.losses = parts, losses
        leaf = watched_leaf(leaves)
        self.watch = None if leaf is None else Watch(leaf)

    def discard(self) -> None:
        """Forget what waits."""
        if self.watch is not None:
            self.watch.close()
        self.parts, self.losses, self.present, self.reached, self.watch = [], None, None, {}, None

    def __getstate__(self) -> dict[str, Any]:
        return vars(MicroBatches(self.apart))  # a copy has no gradients of a model, and nothing waits

    def step(self, losses: StepLosses, last: bool) -> Step:
        """These micro-batches and one more with ``losses``."""
        present = losses.present
        if not all(present) and (self.parts or self.losses is not None):
            present = either(self.present or (True,) * len(present), present)
        return Step(losses, self.parts, self.losses, present, not last and not all(present), self.reached)

    def join(self, earlier: list[Part], part: Part) -> list[Part]:
        """``earlier`` with one part more."""
        if not earlier or (self.apart and len(earlier) == 1):
            return [*earlier, part]
        return [*earlier[1:], earlier[0] + part]


def either(first: Sequence[bool], second: Sequence[bool]) -> tuple[bool, ...]:
    """Where one of two masks holds."""
    return tuple(a or b for a, b in zip(first, second, strict=True))


def prepare(parts: Sequence[Part], contest: bool, active: Sequence[int] | None) -> None:
    """Make the gradients of several micro-batches those of one step.

    Their objectives may differ; only ``active`` ones keep their gradients (``None``: all). With ``contest`` leaves that
    different objectives reach in different micro-batches move from the heads to the inputs.
    """
    reached: dict[Tensor, set[int]] = {}
    for part in parts:
        for k, heads in enumerate(part.gradients.heads):
            for leaf in heads:
                reached.setdefault(leaf, set()).add(k)
    shared = [leaf for leaf, objectives in reached.items() if len(objectives) > 1]
    for part in parts:
        if contest and shared:
            part.gradients.contest(shared)
        if active is not None:
            part.gradients.keep(active)


def united(owner: str, earlier: Mapping[Tensor, int], now: Mapping[Tensor, int]) -> dict[Tensor, int]:
    """Leaf -> mask of the objectives that reach it in a micro-batch.

    Raises BalancingError, which begins with ``owner``, for a leaf that was one objective's before and is contested now.
    """
    masks = {leaf: mask | earlier.get(leaf, 0) for leaf, mask in [*earlier.items(), *now.items()]}
    for leaf, mask in earlier.items():
        if mask.bit_count() == 1 and masks[leaf] != mask:
            raise BalancingError(
                f"{owner}: a parameter of shape {tuple(leaf.shape)}, which one objective alone reached in an earlier "
                "micro-batch, is reached by another one now; use update_every=1, or give shared=model.shared_parameters()"
            )
    return masks
