from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .gradients import Direction, Gradients
from .graph import LossGraph
from .layout import FlatRows
from .lean import Lean
from .processes import several_processes
from .segments import collect as collect_by_segments

#: Inputs and K -> where the rows go; ``None``: they stay as they come.
Out = Callable[[Sequence[Tensor], int], Tensor | FlatRows | None]


def collect(
    losses: Sequence[Tensor],
    inputs: Sequence[Tensor],
    others: dict[Tensor, int],
    keep_graph: bool,
    active: Sequence[int] | None = None,
    out: Out | None = None,
    names: Sequence[str] | None = None,
) -> Gradients:
    """Gradient of each loss at ``inputs``, and at those of ``others`` whose mask names it.

    For masks see :func:`find_leaves`.
    In several processes an objective has zeros at the others' leaves that it does not reach in this one.
    A traversal of the graph for each ``active`` loss (``None``: all); it is freed with the last unless ``keep_graph``.
    With ``out`` the rows are moved, as they come, into the (K, P) matrix that it may return for the inputs.
    """
    rows: list[list[Tensor | None]] = [[None] * len(inputs) for _ in losses]
    heads: list[dict[Tensor, Tensor]] = [{} for _ in losses]
    space = out(inputs, len(losses)) if out is not None and inputs else None
    flat = FlatRows.of(space, inputs) if isinstance(space, Tensor) else space
    gradients = Gradients(list(inputs), rows, heads, *(() if flat is None else (flat.matrix, flat.vectors)))
    chosen = range(len(losses)) if active is None else active
    here = [k for k in chosen if losses[k].requires_grad]  # the others are in other processes
    several = several_processes()
    for k in chosen:
        own = [leaf for leaf, mask in others.items() if mask >> k & 1]
        if several:
            heads[k] = {leaf: torch.zeros_like(leaf) for leaf in own}
        if k not in here or (not inputs and not own):
            continue
        keep = keep_graph or k != here[-1]
        with span(f"backward of {names[k] if names else k}"):
            pieces = torch.autograd.grad(losses[k], [*inputs, *own], retain_graph=keep, allow_unused=True)
        rows[k] = list(pieces[: len(inputs)])
        heads[k] |= {leaf: g for leaf, g in zip(own, pieces[len(inputs) :], strict=True) if g is not None}
        del pieces
        if flat is not None and any(gradient is not None and gradient.is_sparse for gradient in rows[k]):
            flat = gradients.matrix = gradients.vectors = None  # they cannot be flattened, nor measured
        if flat is not None:
            gradients.flatten(k, flat.pieces[k])
    if flat is not None:
        for k in set(range(len(losses))) - set(here):
            flat.matrix[k] = 0
    return gradients


class AtShared:
    """Gradients at the parameters that several losses reach, one backward per loss.

    Args:
        lean: Chooses segments, one after another of which is measured; ``None``: none.

    Attributes:
        title: Name of the place in messages.
        averages_rows: Whether the rows of several processes are averaged; their Gramians are added otherwise.
        finds_inputs: Whether the inputs come from the graph, so that some may turn out to be one objective's.
    """

    title = "shared parameters"
    averages_rows = True
    finds_inputs = True

    def __init__(self, lean: Lean | None = None) -> None:
        self._lean = lean

    def rows(self, graph: LossGraph, given: list[Tensor], out: Out | None) -> Gradients:
        """Each loss's gradients at the shared parameters and at its other leaves."""
        contested, others = graph.partition()
        if graph.active is not None:
            graph.measure_unknown(contested)
        if out is not None and graph.given_shared is None:
            # what will be released comes last, so that the matrix need not be copied
            contested.sort(key=graph.sharing.is_single)
        if not contested and (graph.given_shared or not others):
            which = "shared parameters" if graph.given_shared else "parameters"
            raise BalancingError(f"{graph.owner}: the losses reach none of the given {which}")
        if self._lean is not None and (segments := self._lean.segments(graph, contested)) is not None:
            return graph.complete(collect_by_segments(graph, contested, others, segments))
        if graph.shards is not None:
            keep = graph.keeps_graph
            return graph.shards.collect(graph.losses, contested, others, keep, graph.active, graph.objectives)
        gradients = collect(graph.losses, contested, others, graph.keeps_graph, graph.active, out, graph.objectives)
        return graph.complete(gradients)

    def write(
        self, graph: LossGraph, gradients: Gradients, weights: Tensor, heads: Tensor | None, direction: Direction
    ) -> None:
        """Add the update to ``.grad`` of the shared parameters and of the heads.

        Args:
            graph: The losses.
            gradients: What :meth:`rows` returned.
            weights: (K,) weights of the objectives.
            heads: (K,) weights of the gradients of heads, or ``None`` for ``weights``.
            direction: Makes the combination of the rows.
        """
        gradients.accumulate_heads((weights if heads is None else heads).tolist())
        with span("combination"):
            combined = direction()
        gradients.accumulate(*graph.permitted(gradients.inputs, combined))
