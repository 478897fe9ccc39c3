"""Leaves of the autograd graph, by a walk over its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from ..errors import BalancingError


def find_leaves(roots: Sequence[Tensor], stop: Iterable[Tensor] = ()) -> dict[Tensor, int]:
    """Map every trainable leaf below ``roots`` to a bit mask of the roots that reach it.

    Bit k is set if ``roots[k]`` depends on the leaf. Paths that run through a tensor of ``stop`` are not followed.
    The graph is walked once, whatever the number of roots. A leaf that was frozen after the forward pass is left out.

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

    order: list[Any] = []  # every node after all nodes it leads to
    visited: set[Any] = set()
    for first in list(masks):
        stack: list[tuple[Any, bool]] = [(first, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in visited:
                _raise_if_hiding(node)
                visited.add(node)
                stack.append((node, True))
                stack.extend(
                    (edge[0], False) for edge in node.next_functions if edge[0] is not None and edge not in stopped
                )
    for node in reversed(order):
        mask = masks.get(node, 0)
        edges = node.next_functions
        if not edges:  # a function of the user's may have an attribute "variable", but it has edges
            leaf = getattr(node, "variable", None)
            if leaf is not None and leaf.requires_grad and leaf not in stopped_leaves:
                leaves[leaf] = leaves.get(leaf, 0) | mask
        for edge in edges:
            if edge[0] is not None and edge not in stopped:
                masks[edge[0]] = masks.get(edge[0], 0) | mask
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


def _raise_if_hiding(node: Any, owner: str = "") -> None:
    """Raise BalancingError for a node that hides parameters from the graph."""
    if type(node).__name__ == "CheckpointFunctionBackward":
        raise BalancingError(
            f"{owner and owner + ': '}reentrant activation checkpointing hides the parameters of its segments from the graph, "
            "so they would get no gradient; use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )


def raise_if_any_hides(owner: str, roots: Iterable[Tensor]) -> None:
    """Raise BalancingError, naming ``owner``, if parameters are hidden from the graph."""
    for node in nodes_below(roots):
        _raise_if_hiding(node, owner)


def is_nested(tensors: Sequence[Tensor]) -> bool:
    """True if one of the tensors is computed from another."""
    wanted = {(tensor.grad_fn, tensor.output_nr) for tensor in tensors if tensor.grad_fn is not None}
    return any(edge in wanted for node in nodes_below(tensors) for edge in node.next_functions)
