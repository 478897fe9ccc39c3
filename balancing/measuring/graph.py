"""The autograd graph of the losses: leaves that each loss reaches, weighted backward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .call import Call
from .gradients import Gradients, add_grad
from .processes import averaged_gradients, several_processes
from .sharded import Shards, find_shards
from .sharing import Sharing


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


def _raise_if_hiding(node: Any) -> None:
    """Raise BalancingError for a node that hides parameters from the graph."""
    if type(node).__name__ == "CheckpointFunctionBackward":
        raise BalancingError(
            "reentrant activation checkpointing hides the parameters of its segments from the graph, so they would get no "
            "gradient; use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )


def _raise_if_any_hides(roots: Sequence[Tensor]) -> None:
    """Raise BalancingError if parameters are hidden from the graph of the roots."""
    stack: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    visited: set[Any] = set(stack)
    while stack:
        node = stack.pop()
        _raise_if_hiding(node)
        for child, _ in node.next_functions:
            if child is not None and child not in visited:
                visited.add(child)
                stack.append(child)


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


def _gradients_at(
    leaves: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    keep_graph: bool = False,
) -> Sequence[Tensor | None]:
    """Gradients of ``outputs`` at ``leaves``, averaged over processes; ``None`` where they do not reach."""
    if not leaves:
        return []
    if several_processes():
        return averaged_gradients(outputs, leaves, weights, keep_graph)
    return torch.autograd.grad(outputs, leaves, weights, retain_graph=keep_graph, allow_unused=True)


def _write(leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to ``.grad`` of the leaves that they reach."""
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            # a copy, as autograd may hand out views and aliases
            add_grad(leaf, gradient.clone() if leaf.grad is None else gradient)


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
        sharing: What earlier calls have seen of the leaves.
        remembers: Whether given contested leaves that the losses do not reach count as zero, and are not left out.
    """

    def __init__(
        self,
        owner: str,
        objectives: Sequence[str],
        losses: Sequence[Tensor],
        stacked: Tensor,
        call: Call,
        active: Sequence[int] | None,
        sharing: Sharing,
        remembers: bool,
    ) -> None:
        self.owner, self.objectives, self.active = owner, objectives, active
        self._stacked, self._call = stacked, call
        self.sharing, self._remembers = sharing, remembers
        sharing.begin()
        scaler = call.scaler
        self.losses = losses if scaler is None else [scaler.scale(loss) for loss in losses]
        self.is_scaled = scaler is not None and scaler.is_enabled()

    @cached_property
    def given_shared(self) -> dict[Tensor, None] | None:
        """The contested leaves if they were given."""
        return None if self._call.shared is None else dict.fromkeys(self._trainable(self._call.shared))

    @cached_property
    def groups(self) -> Mapping[str, Sequence[Tensor]] | None:
        """The groups of contested leaves if they were given."""
        given = self._call.groups
        return None if given is None else {name: self._trainable(leaves) for name, leaves in given.items()}

    @cached_property
    def _parameters(self) -> list[Tensor] | None:
        return None if self._call.parameters is None else list(dict.fromkeys(self._trainable(self._call.parameters)))

    def _trainable(self, given: Sequence[Tensor]) -> list[Tensor]:
        trainable = [leaf for leaf in given if leaf.requires_grad]
        return trainable if self.shards is None else self.shards.parameters(trainable)

    @cached_property
    def shards(self) -> Shards | None:
        """What is known about leaves that are in shards; ``None``: none is."""
        return find_shards(self.owner, self.losses, lambda: self._masks)

    @cached_property
    def _masks(self) -> dict[Tensor, int]:
        return find_leaves(self.losses)

    def leaves(self, roots: Sequence[Tensor], stop: Sequence[Tensor] = ()) -> dict[Tensor, int]:
        """:func:`find_leaves`, with parameters in place of leaves that stand in for them."""
        shards = self.shards
        masks = self._masks if roots is self.losses and not stop else find_leaves(roots, stop)
        return masks if shards is None else shards.renamed(masks)

    @cached_property
    def _given(self) -> list[Tensor]:
        """Every tensor that the caller named, whether a parameter or not."""
        given: list[Tensor] = [*(self.given_shared or ())]
        for tensors in (self._call.features, self._call.subset):
            given += [tensors] if isinstance(tensors, Tensor) else tensors or ()
        return given

    def loss_scale(self) -> float:
        """The factor in all gradients that the scaler caused."""
        if self._call.scaler is None or not self.is_scaled:
            return 1.0
        return float(self._call.scaler.scale(torch.ones((), device=self.losses[0].device)))

    def partition(self, stop: Sequence[Tensor] = ()) -> tuple[list[Tensor], dict[Tensor, int]]:
        """Contested leaves, and others with masks; paths through ``stop`` are not followed."""
        masks = self.allowed(self.leaves(self.losses, stop))
        if self.given_shared is None:
            contested = dict.fromkeys(leaf for leaf, mask in masks.items() if mask.bit_count() > 1)
        else:
            contested = self.given_shared
        others = {leaf: mask for leaf, mask in masks.items() if leaf not in contested}
        reached = [leaf for leaf in contested if leaf in masks]
        return list(contested) if reached and self._remembers else reached, others

    def allowed(self, masks: dict[Tensor, int]) -> dict[Tensor, int]:
        """Those of the leaves that may receive gradients: the given ones, or all parameters."""
        if self._parameters is None:
            return self.sharing.parameters(masks, self._given)
        chosen = set(self._parameters)
        return {leaf: mask for leaf, mask in masks.items() if leaf in chosen}

    def own_leaves(self, gradients: Gradients) -> dict[Tensor, int]:
        """Inputs that no second objective uses, with the index of the first; see :class:`Sharing`."""
        if self.given_shared is not None:
            return {}
        return self.sharing.learn(gradients, self.objectives, complete=self.active is None)

    def measure_unknown(self, contested: Sequence[Tensor]) -> None:
        """See who uses the leaves of which nothing is known, at the cost of a backward per loss."""
        unknown = self.sharing.unknown(contested) if self.given_shared is None else []
        if unknown:
            with span("backward of every loss, as nothing is known of some parameters"):
                if self.shards is not None:
                    gradients: Gradients = self.shards.collect(self.losses, unknown, {}, True, None, self.objectives)
                else:
                    rows: list[list[Tensor | None]] = [
                        list(torch.autograd.grad(v, unknown, retain_graph=True, allow_unused=True)) for v in self.losses
                    ]
                    gradients = Gradients(unknown, rows, [{} for _ in rows])
            gradients.synchronize()
            self.sharing.learn(gradients, self.objectives, complete=True)

    def _known_own_leaves(self, contested: Sequence[Tensor]) -> dict[Tensor, None]:
        """Those of the leaves that are known to belong to one objective; unknown ones are measured once."""
        if self.given_shared is not None:
            return {}
        self.measure_unknown(contested)
        return dict.fromkeys(leaf for leaf in contested if len(self.sharing.users(leaf, self.objectives)) == 1)

    def weighted_backward(self, weights: Tensor, heads: Tensor | None) -> None:
        """Add the weighted sum's gradient to ``.grad``, with weights ``heads`` where uncontested."""
        losses = self.losses if self.active is None else [self.losses[k] for k in self.active]
        if self._parameters is not None and not self._parameters:
            raise BalancingError(f"{self.owner}: none of the given parameters is trainable")
        if self._parameters is not None and heads is None:
            _raise_if_any_hides(losses)
        with span("backward of the weighted sum"):
            if heads is not None:
                contested, others = self.partition()
                own = self._known_own_leaves(contested)
                shared = [leaf for leaf in contested if leaf not in own]
                rest = [*others, *own]
                if self.shards is not None:
                    self.shards.backward(losses, shared, self._factors(weights), keep_graph=bool(rest))
                    self.shards.backward(losses, rest, self._factors(heads))
                else:
                    combined = _gradients_at(shared, losses, self._factors(weights), keep_graph=bool(rest))
                    # nothing is written before the graph is done with, as a hook may step the parameter
                    alone = _gradients_at(rest, losses, self._factors(heads))
                    _write([*shared, *rest], [*combined, *alone])
            elif self.shards is not None:
                self.shards.backward(losses, self._parameters, self._factors(weights))
            elif several_processes():
                leaves = list(self.allowed(find_leaves(losses))) if self._parameters is None else self._parameters
                _write(leaves, _gradients_at(leaves, losses, self._factors(weights)))
            elif self.active is None and not self.is_scaled:
                # one root and not K, which shows in a small model's step
                torch.autograd.backward(self._stacked, weights.to(self._stacked), inputs=self._parameters)
            else:
                torch.autograd.backward(losses, self._factors(weights), inputs=self._parameters)
        if self._parameters is not None and not self._reaches(self._parameters):
            raise BalancingError(f"{self.owner}: the losses reach none of the given parameters")

    def backward_from(self, features: Sequence[Tensor], gradients: Sequence[Tensor], heads: Tensor) -> None:
        """Continue the backward pass from the features, with ``gradients``, to the trunk.

        Leaves in shards get gradients by an ordinary backward alone: it starts at the losses, with weights ``heads``.
        """
        leaves = list(self.allowed(find_leaves(features)))
        with span("backward of the trunk"):
            if self.shards is not None:
                replaced = zip(features, gradients, strict=True)
                self.shards.backward(self.losses, self._parameters, self._factors(heads), replaced=replaced)
            elif several_processes():
                _write(leaves, _gradients_at(leaves, features, gradients))
            elif leaves:
                torch.autograd.backward(features, gradients, inputs=leaves)

    def _reaches(self, parameters: Sequence[Tensor]) -> bool:
        """Whether a backward has reached one of the parameters."""
        if self.shards is not None:  # which may be told to wait with their gradients
            return any(parameter in self.leaves(self.losses) for parameter in parameters)
        return any(leaf.grad is not None for leaf in parameters)

    def _factors(self, weights: Tensor) -> list[Tensor]:
        """Weights as gradients of the losses."""
        chosen = weights.to(self.losses[0]).unbind()
        indices = range(len(self.losses)) if self.active is None else self.active
        return [chosen[k].to(self.losses[k].dtype) for k in indices]
