"""Cuts of the autograd graph: a trunk as segments that are differentiated one after another."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: A node, and the number of the input at which a gradient arrives.
Edge = tuple[Any, int]

# What running parts of segments again may cost, as a share of a backward through the whole trunk per objective.
_AGAIN = 1.0
_GAIN = 0.75  # of the K gradients, above which segments save too little


@dataclass
class Segment:
    """A part of the graph between two cuts.

    Attributes:
        chunks: Leaves whose gradients are measured together, each with whether they are complete then, and not used below
            the segment, too. Each chunk starts at the upper border; the last one goes on to the lower border.
        border: Edges of the lower border, none of which is below another one.
    """

    chunks: list[dict[Tensor, bool]]
    border: Sequence[Edge]


@dataclass(slots=True)
class _Item:
    """Leaves right below a node, and the cut below it; ``None``: there is none.

    Attributes:
        leaves: Leaf -> whether no use of it is still to come.
        cut: Edges.
        width: Number of elements of a gradient at the cut.
    """

    leaves: dict[Tensor, bool]
    cut: Sequence[Edge] | None = None
    width: int = 0


def find_segments(roots: Sequence[Tensor], leaves: Iterable[Tensor], rows: int) -> list[Segment] | None:
    """Cut the graph below ``roots`` so that ``rows`` gradients at a chunk are about as large as one at all leaves.

    A cut is a set of edges through which every path to the leaves below runs once, so that gradients at these edges are
    complete when all above them has been differentiated. Where cuts are far from each other, a segment has several chunks.
    ``None``: segments would save too little memory for their time, as in a compiled graph, which is one node.
    """
    items = list(_items(roots, dict.fromkeys(leaves)))
    whole = _elements({leaf for item in items for leaf in item.leaves})
    size = max([math.ceil(whole / rows), *(_elements(item.leaves) for item in items)])
    while items and size <= _GAIN * whole:
        parts = list(_partition(items, size))
        chunks = [_split(part, size) for part in parts]
        if sum(map(_again, parts, chunks)) <= _AGAIN * whole:
            return [_segment(part, split) for part, split in zip(parts, chunks, strict=True)]
        size = math.ceil(1.25 * size)
    return None


def _items(roots: Sequence[Tensor], wanted: dict[Tensor, None]) -> Iterator[_Item]:
    """Walk the nodes that lead to wanted leaves from the last of the forward pass to the first."""
    ways: dict[Any, list[Edge]] = {}  # node -> nodes, or leaves, that it leads to
    missing: dict[Any, int] = {}  # node or leaf -> nodes still to come that lead to it
    for node in _children_first(roots):
        edges = [(_leaf(child), child, number) for child, number in node.next_functions if child is not None]
        targets = [(leaf if leaf in wanted else child, number) for leaf, child, number in edges]
        if targets := [(way, number) for way, number in targets if way in ways or way in wanted]:
            ways[node] = targets
            for way, _ in targets:
                missing[way] = missing.get(way, 0) + 1
    border: dict[Any, dict[int, None]] = {}
    partial: set[Any] = set()  # what has a part of its gradient alone
    heap: list[tuple[int, int, Any]] = []

    def touch(node: Any, number: int) -> None:
        border.setdefault(node, {})[number] = None
        if not missing.get(node, 0):
            heapq.heappush(heap, (-node._sequence_nr(), id(node), node))

    for root in roots:
        if root.grad_fn in ways:
            if root.grad_fn not in border:
                touch(root.grad_fn, root.output_nr)
            border[root.grad_fn][root.output_nr] = None
            partial.update({root.grad_fn} if missing.get(root.grad_fn, 0) else ())
    found = False
    while heap:
        node = heapq.heappop(heap)[-1]
        del border[node]
        leaves: dict[Tensor, bool] = {}
        for way, number in ways[node]:
            missing[way] -= 1
            if isinstance(way, Tensor):
                leaves[way] = missing[way] == 0
            else:
                touch(way, number)
            # gradients at a leaf may come in parts, but for hooks, which see the whole
            if missing[way] and (not isinstance(way, Tensor) or way._backward_hooks):
                partial.add(way)
            else:
                partial.discard(way)
        found = found or bool(leaves)
        item = _Item(leaves)
        if found and border and not partial:
            item.cut = [(below, number) for below, numbers in border.items() for number in numbers]
            item.width = sum(math.prod(below._input_metadata[number].shape) for below, number in item.cut)
        if leaves or item.cut:
            yield item


def _children_first(roots: Sequence[Tensor]) -> Iterator[Any]:
    """Every node below ``roots`` that is no leaf's, after all nodes that it leads to."""
    visited: set[Any] = set()
    stack = [(root.grad_fn, False) for root in roots if root.grad_fn is not None]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        elif node not in visited:
            visited.add(node)
            stack.append((node, True))
            stack += [(child, False) for child, _ in node.next_functions if child is not None and child.next_functions]


def _leaf(node: Any) -> Tensor | None:
    """The leaf whose gradient a node accumulates."""
    return None if node.next_functions else getattr(node, "variable", None)


def _partition(items: Sequence[_Item], size: int) -> Iterator[list[_Item]]:
    """Items from cut to cut, of about ``size`` elements."""
    start = 0
    while start < len(items):
        end = _end(items, start, size)
        yield list(items[start : end + 1])
        start = end + 1


def _end(items: Sequence[_Item], start: int, size: int) -> int:
    """The place of the cut below a segment that starts at ``start``: a narrow one, if it is not too early."""
    inside: set[Tensor] = set()
    filled = filled_at_best = 0
    best: int | None = None
    for index in range(start, len(items)):
        item = items[index]
        filled += _elements(item.leaves.keys() - inside)
        inside.update(item.leaves)
        if filled > size and best is not None:
            return best
        if item.cut and (best is None or 2 * filled_at_best < size or item.width <= items[best].width):
            best, filled_at_best = index, filled
    return len(items) - 1


def _split(part: Sequence[_Item], size: int) -> list[list[int]]:
    """Places of items of about ``size`` elements together: as many as fit with the last ones, and so on."""
    chunks = []
    left = list(reversed(range(len(part))))
    while left:
        chunk, rest, filled = [], [], 0
        for index in left:
            here = _elements(part[index].leaves)
            if chunk and filled + here > size:
                rest.append(index)
            else:
                chunk.append(index)
                filled += here
        chunks.append(chunk)
        left = rest
    return chunks[::-1]


def _again(part: Sequence[_Item], chunks: Sequence[Sequence[int]]) -> float:
    """Elements of leaves above which nodes run again, times half: for gradients of their inputs alone."""
    sizes = [_elements(item.leaves) for item in part]
    return sum(sum(sizes[: max(chunk) + 1]) - sum(sizes[index] for index in chunk) for chunk in chunks) / 2


def _segment(part: Sequence[_Item], chunks: Sequence[Sequence[int]]) -> Segment:
    last = {leaf: index for index, item in enumerate(part) for leaf in item.leaves}
    leaves = [
        {leaf: part[i].leaves[leaf] for i in sorted(chunk) for leaf in part[i].leaves if last[leaf] == i}
        for chunk in chunks
    ]
    return Segment(leaves, part[-1].cut or ())


def _elements(leaves: Iterable[Tensor]) -> int:
    return sum(leaf.numel() for leaf in leaves)
