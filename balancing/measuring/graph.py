"""The autograd graph of the losses: leaves that each loss reaches, weighted backward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .call import Call
from .processes import averaged_gradients, several_processes


def find_leaves(roots: Sequence[Tensor], stop: Iterable[Tensor] = ()) -> dict[Tensor, int]:
    """Map every trainable leaf below ``roots`` to a bit mask of the roots that reach it.

    Bit k is set if ``roots[k]`` depends on the leaf. Paths that run through a tensor of ``stop`` are not followed.
    The graph is walked once, whatever the number of roots.
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
                visited.add(node)
                stack.append((node, True))
                stack.extend(
                    (edge[0], False) for edge in node.next_functions if edge[0] is not None and edge not in stopped
                )
    for node in reversed(order):
        mask = masks.get(node, 0)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf not in stopped_leaves:
            leaves[leaf] = leaves.get(leaf, 0) | mask
        for edge in node.next_functions:
            if edge[0] is not None and edge not in stopped:
                masks[edge[0]] = masks.get(edge[0], 0) | mask
    return leaves


def is_nested(tensors: Sequence[Tensor]) -> bool:
    """True if one of the tensors is computed from another."""
    wanted = {(tensor.grad_fn, tensor.output_nr) for tensor in tensors}
    stack: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            edges = [edge for edge in node.next_functions if edge[0] is not None]
            if any(edge in wanted for edge in edges):
                return True
            stack.extend(child for child, _ in edges)
    return False


def _differentiate(
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
    keep_graph: bool = False,
) -> None:
    """Add gradients of ``outputs``, averaged over processes, to the ``leaves`` they reach."""
    if not leaves:
        return
    if several_processes():
        reached: Sequence[Tensor | None] = averaged_gradients(outputs, leaves, gradients, keep_graph)
    else:
        reached = torch.autograd.grad(outputs, leaves, gradients, retain_graph=keep_graph, allow_unused=True)
    for leaf, gradient in zip(leaves, reached, strict=True):
        if gradient is not None:
            # a copy, as autograd may hand out views and aliases
            leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad.add_(gradient)


class LossGraph:
    """The losses of one call, and the leaves that it may touch.

    Args:
        owner: Name of the method, for messages.
        objectives: Names of the losses, for a profiler.
        losses: K scalars.
        stacked: (K,) the losses as one tensor.
        call: Holds the contested leaves, or ``None`` to find them (those that several losses reach); the only leaves that
            receive gradients, or ``None`` for all; a scaler of the losses, with which ``.grad`` ends up scaled.
        active: Indices of the losses to differentiate, or ``None`` for all.
    """

    def __init__(
        self,
        owner: str,
        objectives: Sequence[str],
        losses: Sequence[Tensor],
        stacked: Tensor,
        call: Call,
        active: Sequence[int] | None,
    ) -> None:
        self.owner, self.objectives, self.active, self.groups = owner, objectives, active, call.groups
        self._stacked, self._given_shared, self._scaler = stacked, call.shared, call.scaler
        scaler, parameters = call.scaler, call.parameters
        self.losses = losses if scaler is None else [scaler.scale(loss) for loss in losses]
        if parameters is not None:
            parameters = list(dict.fromkeys(leaf for leaf in parameters if leaf.requires_grad))
        self._parameters = parameters
        self.keeps_graph, self.creates_graph = call.keeps_graph, call.create_graph
        self.is_scaled = scaler is not None and scaler.is_enabled()

    @cached_property
    def given_shared(self) -> dict[Tensor, None] | None:
        """The contested leaves if they were given."""
        given = self._given_shared
        return None if given is None else dict.fromkeys(leaf for leaf in given if leaf.requires_grad)

    def loss_scale(self) -> float:
        """The factor in all gradients that the scaler caused."""
        if self._scaler is None or not self.is_scaled:
            return 1.0
        return float(self._scaler.scale(torch.ones((), device=self.losses[0].device)))

    def partition(self, stop: Sequence[Tensor] = ()) -> tuple[list[Tensor], dict[Tensor, int]]:
        """Contested leaves, and others with masks; paths through ``stop`` are not followed."""
        masks = self.allowed(find_leaves(self.losses, stop))
        if self.given_shared is None:
            contested = dict.fromkeys(leaf for leaf, mask in masks.items() if mask.bit_count() > 1)
        else:
            contested = self.given_shared
        others = {leaf: mask for leaf, mask in masks.items() if leaf not in contested}
        return [leaf for leaf in contested if leaf in masks], others

    def shares_leaves(self, k: int) -> bool:
        """Whether loss k reaches a leaf that another one reaches."""
        return any(mask >> k & 1 and mask.bit_count() > 1 for mask in find_leaves(self.losses).values())

    def allowed(self, masks: dict[Tensor, int]) -> dict[Tensor, int]:
        """Those of the leaves that may receive gradients."""
        if self._parameters is None:
            return masks
        chosen = set(self._parameters)
        return {leaf: mask for leaf, mask in masks.items() if leaf in chosen}

    def leaves_with_gradients(self) -> list[Tensor]:
        """Leaves of the losses that have a ``.grad``."""
        return [leaf for leaf in self.allowed(find_leaves(self.losses)) if leaf.grad is not None]

    def weighted_backward(self, weights: Tensor, heads: Tensor | None) -> None:
        """Add the weighted sum's gradient to ``.grad``, with weights ``heads`` where uncontested."""
        losses = self.losses if self.active is None else [self.losses[k] for k in self.active]
        if not losses and not several_processes():
            return
        if self._parameters is not None and not self._parameters:
            raise BalancingError(f"{self.owner}: none of the given parameters is trainable")
        with span("backward of the weighted sum"):
            if heads is not None:
                contested, others = self.partition()
                _differentiate(losses, contested, self._factors(weights), keep_graph=True)
                _differentiate(losses, list(others), self._factors(heads), self.keeps_graph)
            elif several_processes():
                leaves = list(find_leaves(losses)) if self._parameters is None else self._parameters
                _differentiate(losses, leaves, self._factors(weights), self.keeps_graph)
            elif self.active is None and not self.is_scaled:
                # one root and not K, which shows in a small model's step
                self._backward([self._stacked], [weights.to(self._stacked)])
            else:
                self._backward(losses, self._factors(weights))
        if self._parameters is not None and all(leaf.grad is None for leaf in self._parameters):
            raise BalancingError(f"{self.owner}: the losses reach none of the given parameters")

    def backward_from(self, features: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Continue the backward pass from the features, with ``gradients``, to the trunk."""
        leaves = list(self.allowed(find_leaves(features)))
        with span("backward of the trunk"):
            if several_processes():
                _differentiate(features, leaves, gradients, self.keeps_graph)
            elif leaves:
                torch.autograd.backward(features, gradients, self.keeps_graph, inputs=leaves)

    def _backward(self, roots: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
        torch.autograd.backward(roots, factors, self.keeps_graph, self.creates_graph, inputs=self._parameters)

    def _factors(self, weights: Tensor) -> list[Tensor]:
        """Weights as gradients of the losses."""
        chosen = weights.to(self.losses[0]).unbind()
        indices = range(len(self.losses)) if self.active is None else self.active
        return [chosen[k].to(self.losses[k].dtype) for k in indices]
