"""Leaves of the autograd graph, by a walk over its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from ..errors import BalancingError


def find_leaves(
    roots: Sequence[Tensor], stop: Iterable[Tensor] = (), entering: dict[Any, int] | None = None
) -> dict[Tensor, int]:
    """Map every trainable leaf below ``roots`` to a bit mask of the roots that reach it.

    Bit k is set if ``roots[k]`` depends on the leaf. Paths that run through a tensor of ``stop`` are not followed.
    The graph is walked once, whatever the number of roots. A leaf that was frozen after the forward pass is left out.
    ``entering`` is filled with the nodes that lead to a tensor of ``stop``, and masks of the roots that reach them.

    Raises:
        BalancingError: A segment with reentrant activation checkpointing, whose parameters are not in the graph.
    """
    stopped = {(tensor.grad_fn, tensor.output_nr) for tensor in stop if tensor.grad_fn is not None}
    stopped_leaves = {tensor for tensor in stop if tensor.grad_fn is None}
    masks: dict[Any, int] = {}
    leaves: dict[Tensor, int] = {}
    for bit, root in enumerate(roots):
        if (root.grad_fn, root.output_nr) in stopped:
            continue
        if root.grad_fn is not None:
            masks[root.grad_fn] = masks.get(root.grad_fn, 0) | 1 << bit
        elif root.requires_grad and root not in stopped_leaves:
            leaves[root] = leaves.get(root, 0) | 1 << bit

    below: dict[Any, list[Any]] = {}  # node -> those that it leads to
    order: list[Any] = []  # every node after all nodes it leads to
    stack: list[Any] = []
    for first in list(masks):
        stack.append(first)
        while stack:
            node = stack.pop()
            if node is None:  # marks a node below which all is done
                order.append(stack.pop())
            elif node not in below:
                edges = node.next_functions
                if not edges:
                    below[node] = []
                    order.append(node)
                    continue
                if stopped:
                    children = [edge[0] for edge in edges if edge[0] is not None and edge not in stopped]
                else:
                    children = [child for child, _ in edges if child is not None]
                below[node] = children
                stack += (node, None, *children)
    for kind in {*map(type, order)}:
        _raise_if_hiding(kind)
    for node in reversed(order):
        mask, children = masks[node], below[node]
        for child in children:
            masks[child] = masks.get(child, 0) | mask
        # a function of the user's may have an attribute "variable", but it has edges
        if not children and not node.next_functions:
            leaf = getattr(node, "variable", None)
            if leaf is not None and leaf.requires_grad and leaf not in stopped_leaves:
                leaves[leaf] = leaves.get(leaf, 0) | mask
    if entering is not None:
        entering |= {node: masks[node] for node in order if not stopped.isdisjoint(node.next_functions)}
    return leaves


def nodes_below(roots: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of the graph below ``roots``, once."""
    stack: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    visited = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in visited:
                visited.add(child)
                stack.append(child)


def _raise_if_hiding(kind: type, owner: str = "") -> None:
    """Raise BalancingError for a kind of node that hides parameters from the graph."""
    if kind.__name__ == "CheckpointFunctionBackward":
        raise BalancingError(
            f"{owner and owner + ': '}reentrant activation checkpointing hides the parameters of its segments from the graph, "
            "so they would get no gradient; use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )


def raise_if_any_hides(owner: str, roots: Iterable[Tensor]) -> None:
    """Raise BalancingError, naming ``owner``, if parameters are hidden from the graph."""
    for node in nodes_below(roots):
        _raise_if_hiding(type(node), owner)


def is_nested(tensors: Sequence[Tensor]) -> bool:
    """True if one of the tensors is computed from another."""
    if len(tensors) < 2:
        return False
    wanted = {(tensor.grad_fn, tensor.output_nr) for tensor in tensors if tensor.grad_fn is not None}
    return any(edge in wanted for node in nodes_below(tensors) for edge in node.next_functions)
