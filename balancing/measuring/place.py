"""Where gradients are measured, and how an update gets from there to the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from ..errors import BalancingError
from .gradients import Gradients
from .graph import LossGraph

__all__ = ["Direction", "Place", "given_inputs"]


#: Makes the combination of the rows: a tensor per input.
Direction = Callable[[], list[Tensor]]


class Place(Protocol):
    """One of :class:`.looped.AtShared`, :class:`.features.AtFeatures` and :class:`.features.AtSubset`.

    Attributes:
        title: Its name in messages.
        averages_rows: Whether the rows of several processes are averaged; their Gramians are added otherwise.
    """

    title: str
    averages_rows: bool

    def inputs(
        self, features: Tensor | Sequence[Tensor] | None, subset: Sequence[Tensor] | None, last: bool
    ) -> list[Tensor] | None:
        """The tensors at which gradients are measured; ``None``: the shared parameters."""

    def rows(
        self, graph: LossGraph, inputs: list[Tensor] | None, out: Callable[[Sequence[Tensor], int], Tensor] | None
    ) -> Gradients:
        """Each loss's gradients there, and at the heads."""

    def write(
        self, graph: LossGraph, gradients: Gradients, weights: Tensor, heads: Tensor | None, direction: Direction
    ) -> None:
        """Add an update to ``.grad``.

        Args:
            graph: The losses.
            gradients: What :meth:`rows` returned.
            weights: (K,) weights of the objectives.
            heads: (K,) weights of the gradients of heads, or ``None`` for ``weights``.
            direction: Makes the combination of the rows.
        """


def given_inputs(owner: str, at: str, given: Tensor | Sequence[Tensor] | None, last: bool) -> list[Tensor]:
    """The tensors that were given for ``at``, each once. Raises ValueError or BalancingError if there are none."""
    if given is None or len(given) == 0:
        raise ValueError(f"{owner}: at={at!r} needs backward(..., {at}=...)")
    if not last:
        raise ValueError(f"{owner}: at={at!r} cannot collect micro-batches; use at='shared'")
    tensors = [given] if isinstance(given, Tensor) else given
    inputs = list(dict.fromkeys(tensor for tensor in tensors if tensor.requires_grad))
    if not inputs:
        raise BalancingError(f"{owner}: none of the {at} requires a gradient; is the trunk frozen?")
    return inputs
