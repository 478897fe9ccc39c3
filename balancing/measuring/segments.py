"""Gradients measured segment by segment, of which inner products alone are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..spans import span
from .cuts import Edge, Segment
from .gradients import Gradients
from .graph import LossGraph
from .layout import aligned
from .processes import several_processes

# Up to so many elements of a leaf, float64 products take less time than a look at whether those of float32 are enough.
_SMALL = 1 << 13


@dataclass
class SegmentGradients(Gradients):
    """Gradients that were averaged over processes, measured and dropped.

    ``rows`` have numbers in place of gradients: zero, or not finite, as the gradient is. Combinations come from a backward
    of the weighted losses, and so do gradients of heads.

    Attributes:
        graph: The losses, in ``objectives`` of which the rows are.
        own: Leaves outside the inputs.
        blocks: Leaf -> (K, K) inner products of the gradients there.
    """

    graph: LossGraph = field(kw_only=True)
    objectives: Sequence[int] = field(kw_only=True)
    own: list[Tensor] = field(kw_only=True)
    blocks: dict[Tensor, Tensor] = field(default_factory=dict)
    _at_own: list[Tensor | None] = field(default_factory=list)

    def zeros(self) -> list[Tensor | None]:
        return [torch.zeros(()) for _ in self.inputs]

    def synchronize(self) -> None:
        """Note what this process reaches; blocks are of averages over processes already."""
        if several_processes():
            self.filled = [not self.reaches(k) for k in range(len(self.rows))]

    def release(self, owners: Mapping[Tensor, int], active: Sequence[int] | None) -> None:
        self.own += [leaf for leaf, k in owners.items() if k >= 0 and (active is None or k in active)]
        kept = [p for p, leaf in enumerate(self.inputs) if leaf not in owners]
        self.inputs, self.rows = [self.inputs[p] for p in kept], [[row[p] for p in kept] for row in self.rows]

    def among(self, indices: Sequence[int]) -> Gradients:
        chosen = list(indices)
        rows, heads = [list(self.rows[k]) for k in chosen], [self.heads[k] for k in chosen]
        blocks = {leaf: block[chosen][:, chosen] for leaf, block in self.blocks.items()}
        return replace(self, rows=rows, heads=heads, blocks=blocks, objectives=[self.objectives[k] for k in chosen])

    def gramian(self) -> Tensor:
        """(K, K) inner products of the rows, float64 on the CPU."""
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64)
        return sum((self.blocks[leaf] for leaf in self.inputs if leaf in self.blocks), total)

    def combine(self, weights: Sequence[float]) -> list[Tensor]:
        """``sum_k weights[k] rows[k]`` of this process, one for each input, by one backward."""
        keep = self.graph.keeps_graph or self.graph.groups is not None  # each group has weights of its own
        found = self._weighted(self.inputs, weights, keep)
        for p, tensor in enumerate(self.inputs):
            gradient = found[p]
            # a copy, as autograd may hand out views and aliases
            found[p] = torch.zeros_like(tensor) if gradient is None else gradient.clone()
        return [gradient for gradient in found if gradient is not None]

    def accumulate_heads(self, weights: Sequence[float]) -> None:
        """Find the gradients of heads, to be written when the graph is done with."""
        self._at_own = self._weighted(self.own, weights, keep_graph=True)

    def accumulate(self, leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        pairs = list(zip(self.own, self._at_own, strict=True))
        if several_processes():
            pairs = [(leaf, torch.zeros_like(leaf) if gradient is None else gradient) for leaf, gradient in pairs]
        reached = {leaf: gradient.clone() for leaf, gradient in pairs if gradient is not None}
        super().accumulate([*reached, *leaves], [*reached.values(), *gradients])

    def _weighted(self, leaves: Sequence[Tensor], weights: Sequence[float], keep_graph: bool) -> list[Tensor | None]:
        graph, weight_of = self.graph, dict(zip(self.objectives, weights, strict=True))
        active = range(len(graph.losses)) if graph.active is None else graph.active
        pairs = [(graph.losses[k], weight_of[k]) for k in active if k in weight_of]
        pairs = [(loss, weight) for loss, weight in pairs if loss.requires_grad]  # others are in other processes
        if not pairs or not leaves:
            return [None] * len(leaves)
        losses, factors = [loss for loss, _ in pairs], [torch.full_like(loss, weight) for loss, weight in pairs]
        with span("backward of the weighted sum"):
            return [*torch.autograd.grad(losses, leaves, factors, retain_graph=keep_graph, allow_unused=True)]


def collect(
    graph: LossGraph, inputs: Sequence[Tensor], others: Mapping[Tensor, int], segments: Sequence[Segment]
) -> SegmentGradients:
    """Measure the gradient of each loss at ``inputs``, segment by segment from the losses down.

    In each segment there is a backward per loss, from the gradients at its upper border to its leaves and its lower border;
    then the block of the Gramian is taken, and gradients at the lower border are all that is left.
    """
    size = len(graph.losses)
    chosen = range(size) if graph.active is None else graph.active
    rows: list[list[Tensor | None]] = [[None] * len(inputs) for _ in range(size)]
    # of objectives that are not chosen, leaves outside the inputs get nothing
    own = [leaf for leaf, mask in others.items() if any(mask >> k & 1 for k in chosen)]
    gradients = SegmentGradients(list(inputs), rows, [{} for _ in rows], graph=graph, objectives=range(size), own=own)
    places = {leaf: p for p, leaf in enumerate(inputs)}
    present: dict[Tensor, list[bool]] = {}
    walk = _Walk(graph, chosen)
    for number, segment in enumerate(segments):
        for chunk in segment.chunks:
            with span(f"backwards of segment {number}"):
                found = walk.differentiate(chunk, segment.border if chunk is segment.chunks[-1] else None)
            for leaf in chunk:
                column = [row.pop(leaf, None) for row in found]
                odd = leaf.is_complex() or any(gradient is not None and gradient.is_sparse for gradient in column)
                present[leaf] = [gradient is not None for gradient in column]
                if odd:  # which balancers refuse
                    for row, gradient in zip(rows, column, strict=True):
                        row[places[leaf]] = gradient
                else:
                    gradients.blocks[leaf] = _products(leaf, column)
                del column
    for leaf, block in gradients.blocks.items():
        gradients.blocks[leaf] = block = block.cpu()
        for row, square, here in zip(rows, block.diagonal(), present[leaf], strict=True):
            row[places[leaf]] = square if here else None
    return gradients


class _Walk:
    """Gradients of the losses at the border that the walk has come to.

    Args:
        graph: The losses.
        chosen: Indices of those that are differentiated.
    """

    def __init__(self, graph: LossGraph, chosen: Sequence[int]) -> None:
        self._upper: list[dict[Edge, Tensor]] = [{} for _ in graph.losses]
        for k in chosen:
            loss = graph.losses[k]
            if loss.grad_fn is not None:
                self._upper[k] = {(loss.grad_fn, loss.output_nr): torch.ones_like(loss)}
        self._hooked: dict[Edge, None] = {}

    def differentiate(self, leaves: Sequence[Tensor], border: Sequence[Edge] | None) -> list[dict[Tensor, Tensor]]:
        """Gradients at ``leaves``, by objective; go on to ``border``, if there is one."""
        rows = []
        for upper in self._upper:
            found, lower = self._backward(upper, leaves, border or ())
            rows.append(found)
            if border is not None:
                upper.clear()
                upper.update(lower)
        return rows

    def _backward(
        self, upper: Mapping[Edge, Tensor], leaves: Sequence[Tensor], border: Sequence[Edge]
    ) -> tuple[dict[Tensor, Tensor], dict[Edge, Tensor]]:
        if not upper or not (leaves or border):
            return {}, {}
        edges = [GradientEdge(*edge) for edge in border]
        # where a node runs, its gradient is that before hooks; else that after them, to which they would be applied again
        below = [GradientEdge(*_first(edge)) for edge in self._hooked if edge in border]
        found = _grad(upper, [*leaves, *edges, *below])
        pairs = zip(leaves, found, strict=False)
        lower = {edge: g for edge, g in zip(border, found[len(leaves) :], strict=False) if g is not None}
        hooked = [
            edge
            for edge, g in lower.items()
            if edge not in self._hooked and _grad({edge: g}, [GradientEdge(*edge)])[0] is not g
        ]
        if hooked:
            self._hooked.update(dict.fromkeys(hooked))
            return self._backward(upper, leaves, border)
        return {leaf: gradient for leaf, gradient in pairs if gradient is not None}, lower


def _grad(outputs: Mapping[Edge, Tensor], inputs: Sequence[Any]) -> Sequence[Tensor | None]:
    roots = [GradientEdge(*edge) for edge in outputs]
    return torch.autograd.grad(roots, inputs, list(outputs.values()), retain_graph=True, allow_unused=True)


def _first(edge: Edge) -> Edge:
    """An edge below the node of another."""
    return next((node, number) for node, number in edge[0].next_functions if node is not None)


def _products(leaf: Tensor, column: list[Tensor | None]) -> Tensor:
    """(K, K) inner products of the gradients at a leaf, averaged over processes; float64."""
    part = Gradients([leaf], [[gradient] for gradient in column], [])
    part.synchronize()
    vectors = aligned([gradient for (gradient,) in part.rows], leaf) if leaf.numel() <= _SMALL else None
    if vectors is None or leaf.device.type == "mps":
        return part.gramian()
    block = torch.stack(vectors).double()
    return block @ block.T
