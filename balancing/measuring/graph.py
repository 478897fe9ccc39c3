"""The autograd graph of the losses: leaves that each loss reaches, weighted backward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .agreement import Agreement, Local
from .call import Call
from .gradients import Gradients
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
    gradients: Sequence[Tensor],
    keep_graph: bool = False,
) -> None:
    """Add gradients of ``outputs``, averaged over processes, to the ``leaves`` they reach."""
    if not leaves:
        return
    if several_processes():
        for leaf, mean in zip(leaves, averaged_gradients(outputs, leaves, gradients, keep_graph), strict=True):
            if mean is not None:
                leaf.grad = mean if leaf.grad is None else leaf.grad.add_(mean)
        return
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
        self.owner, self.objectives, self.active = owner, objectives, active
        self._stacked, self._given_shared, self._scaler, self._call = stacked, call.shared, call.scaler, call
        self._agreed: dict[Tensor, int] | None = None
        self._agreed_trunk: list[Tensor] = []
        scaler, parameters = call.scaler, call.parameters
        self.losses = losses if scaler is None else [scaler.scale(loss) for loss in losses]
        if parameters is not None:
            parameters = list(dict.fromkeys(leaf for leaf in parameters if leaf.requires_grad))
        self._parameters = parameters
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

    def agree(self, agreement: Agreement, at: str, given: Sequence[Tensor], at_once: bool) -> Tensor:
        """Take over the leaves that any process reaches; returns (K,) means of the losses.

        Args:
            agreement: Of the method.
            at: Where gradients are measured.
            given: The tensors that were given for that.
            at_once: Whether the weights come before the gradients.
        """
        call, size, stop = self._call, len(self.losses), given if at == "features" else ()
        masks = find_leaves(self.losses, stop)
        for leaf in find_leaves(stop) if stop else ():  # a bit more: the features reach the leaf
            masks[leaf] = masks.get(leaf, 0) | 1 << size
        ordered = [leaf for leaf in [*(call.shared or ()), *(given if at == "subset" else ())] if leaf.is_leaf]
        present = [loss.requires_grad for loss in self.losses]
        local = Local(
            self._stacked.detach(),
            present,
            self.allowed(masks),
            [*(call.parameters or ()), *ordered],
            ordered,
            (call.last, at_once),
        )
        means, self.present, masks = agreement.meet(local)
        self._agreed = masks
        if stop:
            self._agreed_trunk = [leaf for leaf, mask in masks.items() if mask >> size]
            self._agreed = {leaf: own for leaf, mask in masks.items() if (own := mask & ~(1 << size))}
        return means

    def masks(self, stop: Sequence[Tensor] = ()) -> dict[Tensor, int]:
        """Leaves that may receive gradients; paths through ``stop`` are not followed."""
        return self.allowed(find_leaves(self.losses, stop)) if self._agreed is None else self._agreed

    def trunk(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Leaves below the features that may receive gradients."""
        return list(self.allowed(find_leaves(features))) if self._agreed is None else self._agreed_trunk

    def complete(self, gradients: Gradients) -> Gradients:
        """The gradients, with zeros for an objective that is measured in other processes alone."""
        if self._agreed is not None:
            for k, row in enumerate(gradients.rows):
                reached = any(self._agreed.get(tensor, -1) >> k & 1 for tensor in gradients.inputs)
                if reached and all(gradient is None for gradient in row):
                    gradients.rows[k] = [torch.zeros_like(tensor) for tensor in gradients.inputs]
        return gradients

    def partition(self, stop: Sequence[Tensor] = ()) -> tuple[list[Tensor], dict[Tensor, int]]:
        """Contested leaves, and others with masks; paths through ``stop`` are not followed."""
        masks = self.masks(stop)
        if self.given_shared is None:
            contested = dict.fromkeys(leaf for leaf, mask in masks.items() if mask.bit_count() > 1)
        else:
            contested = self.given_shared
        others = {leaf: mask for leaf, mask in masks.items() if leaf not in contested}
        return [leaf for leaf in contested if leaf in masks], others

    def allowed(self, masks: dict[Tensor, int]) -> dict[Tensor, int]:
        """Those of the leaves that may receive gradients."""
        if self._parameters is None:
            return masks
        chosen = set(self._parameters)
        return {leaf: mask for leaf, mask in masks.items() if leaf in chosen}

    def weighted_backward(self, weights: Tensor, heads: Tensor | None) -> None:
        """Add the weighted sum's gradient to ``.grad``, with weights ``heads`` where uncontested."""
        losses = self.losses if self.active is None else [self.losses[k] for k in self.active]
        if self._parameters is not None and not self._parameters:
            raise BalancingError(f"{self.owner}: none of the given parameters is trainable")
        with span("backward of the weighted sum"):
            if heads is not None:
                contested, others = self.partition()
                _differentiate(losses, contested, self._factors(weights), keep_graph=True)
                _differentiate(losses, list(others), self._factors(heads))
            elif several_processes():
                _differentiate(losses, list(self.masks()), self._factors(weights))
            elif self.active is None and not self.is_scaled:
                # one root and not K, which shows in a small model's step
                torch.autograd.backward(self._stacked, weights.to(self._stacked), inputs=self._parameters)
            else:
                torch.autograd.backward(losses, self._factors(weights), inputs=self._parameters)
        if self._parameters is not None and all(leaf.grad is None for leaf in self._parameters):
            raise BalancingError(f"{self.owner}: the losses reach none of the given parameters")

    def backward_from(self, features: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Continue the backward pass from the features, with ``gradients``, to the trunk."""
        leaves = self.trunk(features)
        with span("backward of the trunk"):
            if several_processes():
                _differentiate(features, leaves, gradients)
            elif leaves:
                torch.autograd.backward(features, gradients, inputs=leaves)

    def _factors(self, weights: Tensor) -> list[Tensor]:
        """Weights as gradients of the losses."""
        chosen = weights.to(self.losses[0]).unbind()
        indices = range(len(self.losses)) if self.active is None else self.active
        return [chosen[k].to(self.losses[k].dtype) for k in indices]
