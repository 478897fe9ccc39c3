"""One call of ``Balancer.backward`` seen from autograd: which leaves the losses reach, and how gradients get there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from balancing.errors import BalancingError
from balancing.processes import averaged_gradients, several_processes
from balancing.rows import Gradients
from balancing.spans import span

__all__ = ["Step", "collect", "find_leaves"]

Room = Callable[[Sequence[Tensor], int], Tensor]


def find_leaves(roots: Sequence[Tensor], stop: Iterable[Tensor] = ()) -> dict[Tensor, int]:
    """Map every trainable leaf of the graphs of ``roots`` to a bit mask of the roots that reach it.

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
    seen: set[Any] = set()
    for first in list(masks):
        stack: list[tuple[Any, bool]] = [(first, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
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


def _nested(tensors: Sequence[Tensor]) -> bool:
    """True if one of the tensors is computed from another."""
    wanted = {(tensor.grad_fn, tensor.output_nr) for tensor in tensors}
    stack: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            edges = [edge for edge in node.next_functions if edge[0] is not None]
            if any(edge in wanted for edge in edges):
                return True
            stack.extend(child for child, _ in edges)
    return False


def collect(
    losses: Sequence[Tensor],
    points: Sequence[Tensor],
    others: dict[Tensor, int],
    keep_graph: bool,
    active: Sequence[int] | None = None,
    room: Room | None = None,
    names: Sequence[str] | None = None,
) -> Gradients:
    """Gradient of each loss at ``points`` and at those of ``others`` whose mask (see :func:`find_leaves`) names it.

    A traversal of the graph for each ``active`` loss (``None``: all); it is freed with the last unless ``keep_graph``.
    With ``room`` the rows are moved, as they come, into the (K, P) matrix that it gives for the points.
    """
    rows: list[list[Tensor | None]] = [[None] * len(points) for _ in losses]
    heads: list[dict[Tensor, Tensor]] = [{} for _ in losses]
    matrix = room(points, len(losses)) if room is not None and points else None
    gradients = Gradients(list(points), rows, heads, matrix)
    chosen = range(len(losses)) if active is None else active
    for k in chosen:
        own = [leaf for leaf, mask in others.items() if mask >> k & 1]
        if not points and not own:
            continue
        keep = keep_graph or k != chosen[-1]
        with span(f"backward of {names[k] if names else k}"):
            found = torch.autograd.grad(losses[k], [*points, *own], retain_graph=keep, allow_unused=True)
        rows[k] = list(found[: len(points)])
        heads[k] = {leaf: g for leaf, g in zip(own, found[len(points) :], strict=True) if g is not None}
        if matrix is not None:
            del found
            gradients.flatten(k, matrix)
    if matrix is not None:
        for k in set(range(len(losses))) - set(chosen):
            matrix[k] = 0
    return gradients


def _differentiate(
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
    keep_graph: bool = False,
) -> None:
    """Add the gradients of ``outputs`` to those of ``leaves`` that they reach, averaged over processes."""
    if not leaves:
        return
    if several_processes():
        found: Sequence[Tensor | None] = averaged_gradients(outputs, leaves, gradients, keep_graph)
    else:
        found = torch.autograd.grad(outputs, leaves, gradients, retain_graph=keep_graph, allow_unused=True)
    for leaf, gradient in zip(leaves, found, strict=True):
        if gradient is not None:
            # a copy, as autograd may hand out views and aliases
            leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad.add_(gradient)


class Step:
    """The losses of one call, and the leaves that it may touch.

    Args:
        name: Of the method, for messages.
        losses: K scalars.
        shared: The contested leaves, or ``None`` to find them: those that several losses reach.
        parameters: The only leaves that receive gradients, or ``None`` for all.
        scaler: Scales the losses, so that ``.grad`` ends up scaled.
        active: Indices of the losses to differentiate, or ``None`` for all.
        objectives: Names of the losses, for a profiler.
        together: (K,) the losses as one tensor, if there is one.
    """

    def __init__(
        self,
        name: str,
        losses: Sequence[Tensor],
        shared: Sequence[Tensor] | None,
        parameters: Sequence[Tensor] | None,
        scaler: torch.amp.GradScaler | None,
        active: Sequence[int] | None = None,
        objectives: Sequence[str] | None = None,
        together: Tensor | None = None,
    ) -> None:
        self.name, self._active, self._names = name, active, objectives
        self._together = together
        self.losses = [loss if scaler is None else scaler.scale(loss) for loss in losses]
        self._given = shared
        if parameters is not None:
            parameters = list(dict.fromkeys(leaf for leaf in parameters if leaf.requires_grad))
        self._parameters = parameters
        self._scaler = scaler
        self.is_scaled = scaler is not None and scaler.is_enabled()

    @cached_property
    def _shared(self) -> dict[Tensor, None] | None:
        """The contested leaves if they were given; a weighted sum does not ask."""
        return None if self._given is None else dict.fromkeys(leaf for leaf in self._given if leaf.requires_grad)

    def loss_scale(self) -> float:
        """The factor in all gradients that the scaler caused."""
        if self._scaler is None or not self.is_scaled:
            return 1.0
        return float(self._scaler.scale(torch.ones((), device=self.losses[0].device)))

    def partition(self, stop: Sequence[Tensor] = ()) -> tuple[list[Tensor], dict[Tensor, int]]:
        """The contested leaves, and the others with their masks (see :func:`find_leaves`), on paths that avoid ``stop``."""
        masks = self._allowed(find_leaves(self.losses, stop))
        if self._shared is None:
            contested = dict.fromkeys(leaf for leaf, mask in masks.items() if mask.bit_count() > 1)
        else:
            contested = self._shared
        others = {leaf: mask for leaf, mask in masks.items() if leaf not in contested}
        return [leaf for leaf in contested if leaf in masks], others

    def collect(self, points: list[Tensor] | None, heads: bool, room: Room | None = None) -> Gradients:
        """Each loss's gradients at ``points`` (``None``: the contested leaves) and, with ``heads``, at its other leaves.

        Raises BalancingError if a contested leaf can be reached without passing through the points.
        """
        if not heads:
            return collect(self.losses, points or [], {}, keep_graph=True, active=self._active, names=self._names)
        contested, others = self.partition(stop=points or ())
        if points is None:
            if not contested and (self._shared or not others):
                which = "shared parameters" if self._shared else "parameters"
                raise BalancingError(f"{self.name}: the losses reach none of the given {which}")
            return collect(self.losses, contested, others, False, self._active, room, self._names)
        trunk = find_leaves(points)
        past = len(contested) + sum(leaf in trunk for leaf in others)
        if past:
            raise BalancingError(
                f"{self.name}: {past} shared parameter(s) are reached without passing through the features; "
                "use at='shared', or give shared=model.shared_parameters() if the model is compiled"
            )
        if _nested(points):
            raise BalancingError(
                f"{self.name}: one of the features is computed from another, so gradients would count twice; "
                "give the heads copies, features = [f.view_as(f) for f in features], or use at='shared'"
            )
        return collect(self.losses, points, others, True, self._active, room, self._names)

    def single_backward(self, weights: Tensor, heads: Tensor | None) -> None:
        """Write the gradient of the weighted sum; uncontested leaves get that of the sum with ``heads`` as weights, if given."""
        losses = self.losses if self._active is None else [self.losses[k] for k in self._active]
        if self._parameters is not None and not self._parameters:
            raise BalancingError(f"{self.name}: none of the given parameters is trainable")
        with span("backward of the weighted sum"):
            if heads is not None:
                contested, others = self.partition()
                _differentiate(losses, contested, self._factors(weights), keep_graph=True)
                _differentiate(losses, list(others), self._factors(heads))
            elif several_processes():
                leaves = list(find_leaves(losses)) if self._parameters is None else self._parameters
                _differentiate(losses, leaves, self._factors(weights))
            elif self._together is not None and self._active is None and not self.is_scaled:
                # in a small model's step it shows that this has one root, and not K
                torch.autograd.backward(self._together, weights.to(self._together), inputs=self._parameters)
            else:
                torch.autograd.backward(losses, self._factors(weights), inputs=self._parameters)
        if self._parameters is not None and all(leaf.grad is None for leaf in self._parameters):
            raise BalancingError(f"{self.name}: the losses reach none of the given parameters")

    def pass_on(self, features: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Continue the backward pass from the features, at which ``gradients`` arrived, to the trunk."""
        leaves = list(self._allowed(find_leaves(features)))
        with span("backward of the trunk"):
            if several_processes():
                _differentiate(features, leaves, gradients)
            elif leaves:
                torch.autograd.backward(features, gradients, inputs=leaves)

    def _allowed(self, masks: dict[Tensor, int]) -> dict[Tensor, int]:
        if self._parameters is None:
            return masks
        chosen = set(self._parameters)
        return {leaf: mask for leaf, mask in masks.items() if leaf in chosen}

    def _factors(self, weights: Tensor) -> list[Tensor]:
        """Weights as gradients of the losses, which need not be added up for their sum to be differentiated."""
        chosen = weights.to(self.losses[0]).unbind()
        indices = range(len(self.losses)) if self._active is None else self._active
        return [chosen[k].to(self.losses[k].dtype) for k in indices]
