"""Cuts of the autograd graph: a trunk as segments that are differentiated one after another."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: A node, and the number of the input at which a gradient arrives.
Edge = tuple[Any, int]

# What running parts of segments again may cost, as a share of a backward through the whole trunk per objective.
_AGAIN = 1.0
# The node of a module with a full backward hook, which keeps gradients at the output for the hook at the input.
_HOOKED = "BackwardHookFunctionBackward"
_GAIN = 0.75  # of the K gradients, above which segments save too little


@dataclass
class Segment:
    """A part of the graph between two cuts.

    Attributes:
        chunks: Leaves whose gradients are measured together, from the upper border down to their last use, wherever that is.
            The last chunk goes on to the lower border.
        border: Edges of the lower border, none of which is below another one.
    """

    chunks: list[list[Tensor]]
    border: Sequence[Edge]


@dataclass(slots=True)
class _Item:
    """Leaves right below a node which no earlier node leads to, and the cut below it.

    Attributes:
        number: Place of the node in the walk.
        leaves: In the order of the node.
        cut: Edges; ``None``: there is no cut.
        width: Number of elements of a gradient at the cut.
        depth: Largest number of a node that leads to one of the leaves.
    """

    number: int
    leaves: list[Tensor]
    cut: Sequence[Edge] | None = None
    width: int = 0
    depth: int = 0

    def size(self) -> int:
        return sum(leaf.numel() for leaf in self.leaves)


def find_segments(roots: Sequence[Tensor], leaves: Iterable[Tensor], rows: int) -> list[Segment] | None:
    """Cut the graph so that ``rows`` gradients at a chunk are about as large as one in all.

    A cut is a set of edges through which every path from ``roots`` to the leaves below runs once, so that gradients at these
    edges are complete when all above them has been differentiated. Where cuts are far from each other, a segment has several
    chunks. ``None``: segments would save too little memory for their time, as in a compiled graph, which is one node.
    """
    items = list(_items(roots, dict.fromkeys(leaves)))
    whole = sum(item.size() for item in items)
    size = max([math.ceil(whole / rows), *(item.size() for item in items)])
    while items and size <= _GAIN * whole:
        parts = list(_partition(items, size))
        chunks = [_split(part, size) for part in parts]
        if _again(items, parts, chunks) <= _AGAIN * whole:
            return [
                Segment([[leaf for item in chunk for leaf in item.leaves] for chunk in split], part[-1].cut or ())
                for part, split in zip(parts, chunks, strict=True)
            ]
        size = math.ceil(1.25 * size)
    return None


def _items(roots: Sequence[Tensor], wanted: dict[Tensor, None]) -> Iterator[_Item]:
    """Walk the nodes that lead to wanted leaves from the last of the forward pass to the first."""
    ways: dict[Any, list[Edge]] = {}  # node -> nodes, or leaves, that it leads to
    missing: dict[Any, int] = {}  # node -> edges to it that are still to come
    for node in _children_first(roots):
        if type(node).__name__ == _HOOKED:
            return
        edges = [(_leaf(child), child, number) for child, number in node.next_functions if child is not None]
        targets = [(leaf if leaf in wanted else child, number) for leaf, child, number in edges]
        if targets := [(way, number) for way, number in targets if way in ways or way in wanted]:
            ways[node] = targets
            for way, _ in targets:
                missing[way] = missing.get(way, 0) + 1
    border: dict[Any, dict[int, None]] = {}
    partial: set[Any] = set()  # nodes that have a part of their gradient alone
    heap: list[tuple[int, int, Any]] = []
    order = itertools.count()  # of nodes of several threads with the same number

    def touch(node: Any, number: int) -> None:
        border.setdefault(node, {})[number] = None
        if missing.get(node, 0):
            partial.add(node)
        else:
            partial.discard(node)
            heapq.heappush(heap, (-node._sequence_nr(), next(order), node))

    for node, number in dict.fromkeys((root.grad_fn, root.output_nr) for root in roots):
        if node in ways and node not in border:
            touch(node, number)
        elif node in ways:
            border[node][number] = None
    first: dict[Tensor, _Item] = {}
    count = 0
    while heap:
        node = heapq.heappop(heap)[-1]
        del border[node]
        item = _Item(count, [])
        for way, number in ways[node]:
            if isinstance(way, Tensor):
                if way not in first:
                    first[way] = item
                    item.leaves.append(way)
                first[way].depth = count
            else:
                missing[way] -= 1
                touch(way, number)
        if first and border and not partial:
            item.cut = [(below, number) for below, numbers in border.items() for number in numbers]
            item.width = sum(math.prod(below._input_metadata[number].shape) for below, number in item.cut)
        if item.leaves or item.cut:
            yield item
        count += 1


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
    """The last item of the segment from ``start`` on, below which is a narrow cut."""
    filled = filled_at_best = 0
    best: int | None = None
    for index in range(start, len(items)):
        item = items[index]
        filled += item.size()
        if filled > size and best is not None:
            return best
        if item.cut and (best is None or 2 * filled_at_best < size or item.width <= items[best].width):
            best, filled_at_best = index, filled
    return len(items) - 1


def _split(part: Sequence[_Item], size: int) -> list[list[_Item]]:
    """Items of about ``size`` elements together: as many as fit with the deepest, and so on."""
    chunks = []
    left = sorted((item for item in part if item.leaves), key=lambda item: -item.depth)
    while left:
        chunk: list[_Item] = []
        rest: list[_Item] = []
        filled = 0
        for item in left:
            if chunk and filled + item.size() > size:
                rest.append(item)
            else:
                chunk.append(item)
                filled += item.size()
        chunks.append(chunk)
        left = rest
    return chunks[::-1] or [[]]


def _again(
    items: Sequence[_Item], parts: Sequence[Sequence[_Item]], chunks: Sequence[Sequence[Sequence[_Item]]]
) -> float:
    """Elements of leaves whose nodes run again, times half: for gradients of their inputs."""
    again = 0
    for part, split in zip(parts, chunks, strict=True):
        for chunk in split:
            depth = max([part[-1].number] * (chunk is split[-1]) + [item.depth for item in chunk])
            run = sum(item.size() for item in items if part[0].number <= item.number <= depth)
            again += run - sum(item.size() for item in chunk)
    return again / 2
