"""Gradients at tensors that the caller gives: the features, or a subset of the parameters."""

from __future__ import annotations

from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .agreement import Agreement
from .call import Call, named_tensors
from .gradients import Direction, Gradients
from .graph import LossGraph
from .leaves import is_nested
from .looped import AtShared, Out, collect
from .processes import several_processes
from .together import collect_together


class AtFeatures:
    """Gradients at the input of the heads; one backward goes on from there to the trunk."""

    title = "features"
    averages_rows = False
    finds_inputs = False

    def rows(self, graph: LossGraph, given: list[Tensor], out: Out | None) -> Gradients:
        """Gradients at the features and own leaves.

        Raises BalancingError for shared leaves past the features.
        """
        contested, others = graph.partition(stop=given)
        entering = graph.entering
        trunk = set(graph.trunk(given))
        if graph.given_shared is None and graph.shards is None:
            past = [leaf for leaf in contested if leaf in trunk or graph.sharing.is_shared(leaf, graph.objectives)]
        else:
            past = contested
        self._raise_if_any(graph, len(past) + sum(leaf in trunk for leaf in others))
        if is_nested(given):
            raise BalancingError(
                f"{graph.owner}: one of the features is computed from another, so gradients would count twice; "
                "give the heads copies, features = [f.view_as(f) for f in features], or use at='shared'"
            )
        if graph.shards is not None:  # gradients of heads come with those of the trunk
            graph.shards.require_own_samples()
            return collect(graph.losses, given, {}, True, graph.active, out, graph.objectives)
        if not contested and graph.active is None and not several_processes():
            found = collect_together(graph.losses, graph.root, given, others, entering, out)
            if found is not None:
                return found
        # heads whose outputs were merged; their gradients tell whose they are
        inputs = [*given, *contested]
        gradients = collect(graph.losses, inputs, others, True, graph.active, out, graph.objectives)
        gradients = graph.complete(gradients, features=len(given))
        heads = Gradients(contested, [row[len(given) :] for row in gradients.rows], gradients.heads)
        owners = graph.sharing.learn(heads, graph.objectives, complete=graph.active is None, certain=True)
        self._raise_if_any(graph, len(contested) - len(owners))
        gradients.release(owners, graph.active)
        return gradients

    def _raise_if_any(self, graph: LossGraph, count: int) -> None:
        if count:
            raise BalancingError(
                f"{graph.owner}: {count} shared parameter(s) are reached without passing through the features; "
                "give the features of the same forward pass, use at='shared', or give shared=model.shared_parameters() if the model is compiled"
            )

    def write(
        self, graph: LossGraph, gradients: Gradients, weights: Tensor, heads: Tensor | None, direction: Direction
    ) -> None:
        """Add the gradients of heads to ``.grad``, and pass the update on to the trunk."""
        heads = weights if heads is None else heads
        gradients.accumulate_heads(heads.tolist())
        with span("combination"):
            combined = direction()
        graph.backward_from(gradients.inputs, combined, heads)


class AtSubset:
    """Gradients are measured at given tensors; one backward of the weighted losses follows."""

    title = "subset"
    averages_rows = True
    finds_inputs = False

    def rows(self, graph: LossGraph, given: list[Tensor], out: Out | None) -> Gradients:
        """Each loss's gradients at the subset alone."""
        if graph.shards is not None:
            return graph.shards.collect(graph.losses, given, {}, True, graph.active, graph.objectives)
        rows = collect(graph.losses, given, {}, keep_graph=True, active=graph.active, names=graph.objectives)
        return graph.complete(rows)

    def write(
        self, graph: LossGraph, gradients: Gradients, weights: Tensor, heads: Tensor | None, direction: Direction
    ) -> None:
        """Add the gradient of the weighted losses to ``.grad``."""
        graph.weighted_backward(weights, heads)


#: Where gradients are measured, and how an update gets from there to the parameters.
Place = AtShared | AtFeatures | AtSubset
#: Value of the option ``at`` -> the place.
PLACES: dict[str, Place] = {"shared": AtShared(), "features": AtFeatures(), "subset": AtSubset()}


def given_tensors(owner: str, at: str, call: Call) -> list[Tensor]:
    """The tensors that were given for ``at``, each once; none for ``shared``.

    Raises ValueError or BalancingError if there are none that can be differentiated.
    """
    if at == "shared":
        return []
    given = call.features if at == "features" else call.subset
    if given is None or len(given) == 0:
        raise ValueError(f"{owner}: at={at!r} needs backward(..., {at}=...)")
    if not call.last:
        raise ValueError(f"{owner}: at={at!r} cannot collect micro-batches; use at='shared'")
    tensors = named_tensors(given)
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise ValueError(f"{owner}: {at}= must be a tensor, or a list or mapping of tensors")
    differentiable = list(dict.fromkeys(tensor for tensor in tensors if tensor.requires_grad))
    if not differentiable:
        raise BalancingError(
            f"{owner}: none of the {at} requires a gradient; is the trunk frozen, or are they detached?"
        )
    return differentiable


def find_place(graph: LossGraph, agreement: Agreement, at: str, call: Call, at_once: bool) -> list[Tensor]:
    """:func:`given_tensors`, and the leaves that other processes reach.

    Args:
        graph: The losses, which take over the leaves.
        agreement: Of the method.
        at: Where gradients are measured.
        call: Holds the tensors.
        at_once: Whether the weights come before the gradients, so that no tensors are needed.
    """
    if not several_processes():
        return [] if at_once else given_tensors(graph.owner, at, call)
    try:
        given = [] if at_once else given_tensors(graph.owner, at, call)
        here = graph.reached_here(at, given, at_once)
    except Exception as error:
        agreement.fail(error, graph.losses[0].device)
        raise
    masks = agreement.meet(here)
    if graph.shards is None:
        graph.reached_anywhere(masks)
    return given
