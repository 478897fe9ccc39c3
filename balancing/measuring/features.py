"""Gradients at tensors that the caller gives: the features, or a subset of the parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .gradients import Direction, Gradients
from .graph import LossGraph, find_leaves, is_nested
from .looped import AtShared, Out, collect


class AtFeatures:
    """Gradients at the input of the heads; one backward goes on from there to the trunk."""

    title = "features"
    averages_rows = False

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def inputs(
        self, features: Tensor | Sequence[Tensor] | None, subset: Sequence[Tensor] | None, last: bool
    ) -> list[Tensor]:
        """The features."""
        return _given(self._owner, "features", features, last)

    def rows(self, graph: LossGraph, inputs: list[Tensor] | None, out: Out | None) -> Gradients:
        """Gradients at the features and own leaves. Raises BalancingError for a way past them."""
        features = inputs or []
        contested, others = graph.partition(stop=features)
        trunk = find_leaves(features)
        past = len(contested) + sum(leaf in trunk for leaf in others)
        if past:
            raise BalancingError(
                f"{self._owner}: {past} shared parameter(s) are reached without passing through the features; "
                "use at='shared', or give shared=model.shared_parameters() if the model is compiled"
            )
        if is_nested(features):
            raise BalancingError(
                f"{self._owner}: one of the features is computed from another, so gradients would count twice; "
                "give the heads copies, features = [f.view_as(f) for f in features], or use at='shared'"
            )
        return collect(graph.losses, features, others, True, graph.active, out, graph.objectives)

    def write(
        self, graph: LossGraph, gradients: Gradients, weights: Tensor, heads: Tensor | None, direction: Direction
    ) -> None:
        """Add the gradients of heads to ``.grad``, and pass the update on to the trunk."""
        gradients.accumulate_heads((weights if heads is None else heads).tolist())
        with span("combination"):
            combined = direction()
        graph.backward_from(gradients.inputs, combined)


class AtSubset:
    """Gradients are measured at given tensors; one backward of the weighted losses follows."""

    title = "subset"
    averages_rows = True

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def inputs(
        self, features: Tensor | Sequence[Tensor] | None, subset: Sequence[Tensor] | None, last: bool
    ) -> list[Tensor]:
        """The subset."""
        return _given(self._owner, "subset", subset, last)

    def rows(self, graph: LossGraph, inputs: list[Tensor] | None, out: Out | None) -> Gradients:
        """Each loss's gradients at the subset alone."""
        return collect(graph.losses, inputs or [], {}, keep_graph=True, active=graph.active, names=graph.objectives)

    def write(
        self, graph: LossGraph, gradients: Gradients, weights: Tensor, heads: Tensor | None, direction: Direction
    ) -> None:
        """Add the gradient of the weighted losses to ``.grad``."""
        graph.weighted_backward(weights, heads)


#: Where gradients are measured, and how an update gets from there to the parameters.
Place = AtShared | AtFeatures | AtSubset


def _given(owner: str, at: str, given: Tensor | Sequence[Tensor] | None, last: bool) -> list[Tensor]:
    """The tensors that were given for ``at``, each once.

    Raises ValueError or BalancingError if there are none.
    """
    if given is None or len(given) == 0:
        raise ValueError(f"{owner}: at={at!r} needs backward(..., {at}=...)")
    if not last:
        raise ValueError(f"{owner}: at={at!r} cannot collect micro-batches; use at='shared'")
    tensors = [given] if isinstance(given, Tensor) else given
    inputs = list(dict.fromkeys(tensor for tensor in tensors if tensor.requires_grad))
    if not inputs:
        raise BalancingError(f"{owner}: none of the {at} requires a gradient; is the trunk frozen?")
    return inputs
