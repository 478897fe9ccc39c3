"""The autograd graph of the losses: leaves that each loss reaches, weighted backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .agreement import Local
from .call import Call, named_tensors
from .gradients import Gradients
from .leaves import find_leaves, raise_if_any_hides
from .processes import average_over_processes, several_processes
from .sharded import Shards, find_shards
from .sharing import Sharing
from .step_losses import StepLosses
from .writing import gradients_at, replaced_gradients, write_grads


class LossGraph:
    """The losses of one call, and the leaves that it may touch.

    Args:
        owner: Name of the method, for messages.
        objectives: Names of the losses, for a profiler.
        step: The losses.
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
        step: StepLosses,
        call: Call,
        active: Sequence[int] | None,
        sharing: Sharing,
        remembers: bool,
    ) -> None:
        self.owner, self.objectives, self.active = owner, objectives, active
        self._stacked, self._present, self._call, scaler = step.stacked, step.present, call, call.scaler
        self.sharing, self._remembers = sharing, remembers
        sharing.begin()
        self._agreed: dict[Tensor, int] | None = None
        self._agreed_trunk: list[Tensor] = []
        self._trunk: tuple[list[Tensor], list[Tensor]] = [], []  # features, and the leaves below them
        self.entering: dict[Any, int] = {}  # node that leads to where the last walk stopped -> mask of the losses
        self.losses: Sequence[Tensor] = step.values if scaler is None else [scaler.scale(loss) for loss in step.values]
        self.keeps_graph, self.creates_graph = call.keeps_graph, call.create_graph
        self.is_scaled = scaler is not None and scaler.is_enabled()
        self.root = None if self.is_scaled else step.stacked  # of one traversal of the whole graph

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
        self.entering = {}
        masks = self._masks if roots is self.losses and not stop else find_leaves(roots, stop, self.entering)
        return masks if shards is None else shards.renamed(masks)

    @cached_property
    def _given(self) -> list[Tensor]:
        """Every tensor that the caller named, whether a parameter or not."""
        features, subset = named_tensors(self._call.features), named_tensors(self._call.subset)
        return [*(self.given_shared or ()), *features, *subset]

    def loss_scale(self) -> float:
        """The factor in all gradients that the scaler caused."""
        if self._call.scaler is None or not self.is_scaled:
            return 1.0
        return float(self._call.scaler.scale(torch.ones((), device=self.losses[0].device)))

    def reached_here(self, at: str, given: Sequence[Tensor], at_once: bool) -> Local:
        """What this process tells the others.

        Args:
            at: Where gradients are measured.
            given: The tensors that were given for that.
            at_once: Whether the weights come before the gradients.
        """
        call, stop = self._call, given if at == "features" else ()
        if self.shards is not None:
            here = all(loss.requires_grad for loss, there in zip(self.losses, self._present, strict=True) if there)
            return Local(self._stacked.device, {}, (), (), (call.last, at_once), here)
        masks = find_leaves(self.losses, stop) if stop else self._masks
        for leaf in find_leaves(stop) if stop else ():  # a bit more: the features reach the leaf
            masks[leaf] = masks.get(leaf, 0) | 1 << len(self.losses)
        ordered = [leaf for leaf in [*(call.shared or ()), *(given if at == "subset" else ())] if leaf.is_leaf]
        known = [*(call.parameters or ()), *ordered]
        return Local(self._stacked.device, self.allowed(masks), known, ordered, (call.last, at_once))

    def reached_anywhere(self, masks: dict[Tensor, int]) -> None:
        """Take over the leaves that any process, or micro-batch, reaches."""
        size = len(self.losses)
        self._agreed_trunk = [leaf for leaf, mask in masks.items() if mask >> size]
        self._agreed = {leaf: own for leaf, mask in masks.items() if (own := mask & ~(1 << size))}

    def masks(self, stop: Sequence[Tensor] = ()) -> dict[Tensor, int]:
        """Leaves that may receive gradients; paths through ``stop`` are not followed."""
        return self.allowed(self.leaves(self.losses, stop)) if self._agreed is None else self._agreed

    def trunk(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Leaves below the features that may receive gradients."""
        if self._agreed is None and [*map(id, self._trunk[0])] != [*map(id, features)]:
            self._trunk = [*features], list(self.allowed(self.leaves(features)))
        return self._trunk[1] if self._agreed is None else self._agreed_trunk

    def complete(self, gradients: Gradients, features: int = 0) -> Gradients:
        """The gradients, with zeros for an objective that is measured in other processes alone.

        ``features``: how many of the inputs are features, which no two processes have in common.
        """
        if self._agreed is None:
            return gradients
        if features:
            flags = [float(any(g is not None for g in row[:features])) for row in gradients.rows]
            shares = torch.tensor(flags, device=self._stacked.device)
            average_over_processes([shares])
            reached = (shares > 0).tolist()
        else:
            union = 0
            for leaf in gradients.inputs:
                union |= self._agreed.get(leaf, -1)
            reached = [bool(union >> k & 1) for k in range(len(gradients.rows))]
        for k, row in enumerate(gradients.rows):
            if reached[k] and all(gradient is None for gradient in row):
                gradients.rows[k] = gradients.zeros()
        return gradients

    def partition(self, stop: Sequence[Tensor] = ()) -> tuple[list[Tensor], dict[Tensor, int]]:
        """Contested leaves, and others with masks; paths through ``stop`` are not followed."""
        masks = self.masks(stop)
        if self.given_shared is None:
            several = [leaf for leaf, mask in masks.items() if mask.bit_count() > 1]
            return several, {leaf: mask for leaf, mask in masks.items() if mask.bit_count() < 2}
        contested = self.given_shared
        others = {leaf: mask for leaf, mask in masks.items() if leaf not in contested}
        reached = [leaf for leaf in contested if leaf in masks]
        if reached and self._remembers:
            reached = list(self.allowed(dict.fromkeys(self.given_shared, 0)))
        return reached, others

    def shares_leaves(self, k: int) -> bool:
        """Whether loss k reaches a leaf that another one reaches, in any process."""
        masks = self.leaves(self.losses) if self._agreed is None else self._agreed
        return any(mask >> k & 1 and mask.bit_count() > 1 for mask in masks.values())

    def allowed(self, masks: dict[Tensor, int]) -> dict[Tensor, int]:
        """Those of the leaves that may receive gradients: the given ones, or all parameters."""
        if self._parameters is None:
            return self.sharing.parameters(masks, self._given)
        chosen = set(self._parameters)
        return {leaf: mask for leaf, mask in masks.items() if leaf in chosen}

    def permitted(self, leaves: list[Tensor], gradients: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Both for the given parameters alone: a method may remember gradients of others."""
        if not self._remembers or self._parameters is None:
            return leaves, gradients
        kept = self.allowed({leaf: i for i, leaf in enumerate(leaves)})
        return list(kept), [gradients[i] for i in kept.values()]

    def leaves_with_gradients(self) -> list[Tensor]:
        """Leaves of the losses that have a ``.grad``."""
        return [leaf for leaf in self.allowed(self.leaves(self.losses)) if leaf.grad is not None]

    def own_leaves(self, gradients: Gradients, complete: bool) -> dict[Tensor, int]:
        """Inputs that one objective alone uses, with its index; see :meth:`Sharing.learn`."""
        return self.sharing.learn(gradients, self.objectives, complete) if self.given_shared is None else {}

    def measure_unknown(self, contested: Sequence[Tensor]) -> list[Tensor]:
        """Leaves of which nothing is known even after a backward per loss, if some were unknown."""
        unknown = [] if self.given_shared is not None else self.sharing.unknown(contested, self.objectives)
        if unknown:
            # a leaf that all use shows which losses have a gradient in this step
            unknown += [p for p in contested if len(self.sharing.users(p, self.objectives)) == len(self.losses)][:1]
            with span("backward of every loss, as nothing is known of some parameters"):
                here = [k for k, loss in enumerate(self.losses) if loss.requires_grad]
                if self.shards is not None:
                    gradients: Gradients = self.shards.collect(self.losses, unknown, {}, True, here, self.objectives)
                else:
                    gradients = Gradients(
                        unknown, [[None] * len(unknown) for _ in self.losses], [{} for _ in self.losses]
                    )
                    for k in here:
                        found = torch.autograd.grad(self.losses[k], unknown, retain_graph=True, allow_unused=True)
                        gradients.rows[k] = [*found]
            gradients.synchronize()
            self.sharing.learn(gradients, self.objectives, complete=True)
        return unknown and self.sharing.unknown(contested, self.objectives)

    def _known_own_leaves(self, contested: Sequence[Tensor]) -> dict[Tensor, None]:
        """Leaves that are known to belong to one objective; unknown ones are measured once."""
        if self.given_shared is not None:
            return {}
        unknown = {*self.measure_unknown(contested)}
        known = [leaf for leaf in contested if leaf not in unknown]
        return dict.fromkeys(leaf for leaf in known if len(self.sharing.users(leaf, self.objectives)) == 1)

    def weighted_backward(self, weights: Tensor, heads: Tensor | None) -> None:
        """Add the weighted sum's gradient to ``.grad``, with weights ``heads`` where uncontested."""
        losses = self.losses if self.active is None else [self.losses[k] for k in self.active]
        if not losses and not several_processes():
            return
        if self._parameters is not None and not self._parameters:
            raise BalancingError(f"{self.owner}: none of the given parameters is trainable")
        if self._parameters is not None and heads is None:
            raise_if_any_hides(self.owner, losses)
        with span("backward of the weighted sum"):
            if heads is not None:
                contested, others = self.partition()
                own = self._known_own_leaves(contested)
                shared = [leaf for leaf in contested if leaf not in own]
                rest = [*others, *own]
                if self.shards is not None:
                    self.shards.backward(losses, shared, self._factors(weights), bool(rest) or self.keeps_graph)
                    self.shards.backward(losses, rest, self._factors(heads), self.keeps_graph)
                else:
                    combined = gradients_at(shared, losses, self._factors(weights), bool(rest) or self.keeps_graph)
                    # nothing is written before the graph is done with, as a hook may step the parameter
                    alone = gradients_at(rest, losses, self._factors(heads), self.keeps_graph)
                    write_grads([*shared, *rest], [*combined, *alone])
            elif self.shards is not None:
                self.shards.backward(losses, self._parameters, self._factors(weights), self.keeps_graph)
            elif several_processes():
                leaves = list(self.masks())
                write_grads(leaves, gradients_at(leaves, losses, self._factors(weights), self.keeps_graph))
            elif self.active is None and self.root is not None:
                self._backward([self.root], [weights.to(self.root)])  # not K roots, which take longer
            else:
                self._backward(losses, self._factors(weights))
        if self._parameters is not None and not self._reaches(self._parameters):
            raise BalancingError(f"{self.owner}: the losses reach none of the given parameters")

    def backward_from(self, features: Sequence[Tensor], gradients: Sequence[Tensor], heads: Tensor) -> None:
        """Continue the backward pass from the features, with ``gradients``, to the trunk.

        Leaves in shards get gradients by an ordinary backward alone: it starts at the losses, with weights ``heads``.
        """
        leaves, pairs = self.trunk(features), list(zip(features, gradients, strict=True))
        with span("backward of the trunk"):
            if self.shards is not None:
                self.shards.backward(self.losses, self._parameters, self._factors(heads), self.keeps_graph, pairs)
                return
            hooked = [(tensor, new) for tensor, new in pairs if tensor._backward_hooks]  # which have seen every loss
            with replaced_gradients(hooked):
                if several_processes():
                    write_grads(leaves, gradients_at(leaves, features, gradients, self.keeps_graph))
                elif leaves:
                    torch.autograd.backward(features, gradients, self.keeps_graph, inputs=leaves)

    def _backward(self, roots: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
        torch.autograd.backward(roots, factors, self.keeps_graph, self.creates_graph, inputs=self._parameters)

    def _reaches(self, parameters: Sequence[Tensor]) -> bool:
        """Whether a backward has reached one of the parameters."""
        if self.shards is not None:  # which may be told to wait with their gradients
            return any(parameter in self.leaves(self.losses) for parameter in parameters)
        return any(leaf.grad is not None for leaf in parameters)

    def _factors(self, weights: Tensor) -> list[Tensor]:
        """Weights as gradients of the losses."""
        chosen = weights.to(self._stacked).unbind()
        indices = range(len(self.losses)) if self.active is None else self.active
        return [chosen[k].to(self.losses[k].dtype) for k in indices]
