"""Parameters in shards, whose gradients are reduced by hooks during an ordinary backward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import BalancingError
from ..spans import span
from .processes import average_over_processes
from .sharded_gradients import ShardedGradients, is_dtensor, local
from .writing import accumulate_grad, replaced_gradients


@dataclass(frozen=True)
class _Record:
    """What ``fully_shard`` knows about a parameter, in private attributes of torch."""

    state: Any
    group: Any
    entry: Any

    def reduces(self) -> bool:
        """Whether the next backward reduces its gradient, and nothing but that."""
        group, entry = self.group, self.entry
        on = group.reduce_grads and group.all_reduce_grads and self.state._state_ctx.is_last_backward
        waiting = (entry.unsharded_accumulated_grad, entry._unsharded_param.grad, group._partial_reduce_output)
        return on and all(value is None for value in waiting)

    def check(self) -> None:
        """Raise AttributeError if this version of torch has other attributes."""
        self.reduces(), self.over_all(), self.entry.sharded_param, self.group.modules

    def over_all(self) -> bool:
        """Whether each process has its own part of the batch."""
        return self.group.mesh_info.mesh.size() == dist.get_world_size()


def _records(owner: str) -> dict[Tensor, _Record]:
    """Unsharded parameter, a leaf of the graph -> FSDP's record, for all models of this process.

    Raises BalancingError if this version of torch keeps them elsewhere.
    """
    module = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if module is None or not module.__subclasses__():  # fully_shard was never called
        return {}
    records = {}
    try:
        states = sys.modules["torch.distributed._composable_state"]._module_state_mapping
        for state in {reference() for reference in [*states.values()]}:
            groups = getattr(state, "_fsdp_param_groups", None)
            if groups is None:  # earlier versions have one group, and states of other wrappers none
                groups = [group] if (group := getattr(state, "_fsdp_param_group", None)) is not None else []
            for group in groups:
                for entry in group.fsdp_params:
                    if hasattr(entry, "_unsharded_param"):
                        record = records[entry._unsharded_param] = _Record(state, group, entry)
                        record.check()
    except (AttributeError, KeyError) as error:
        raise BalancingError(
            f"{owner}: torch {torch.__version__} keeps the parameters of fully_shard in another way than torch 2.14 "
            f"({error}), so that their gradients cannot be found"
        ) from error
    return records


class Shards:
    """The leaves of a graph some of whose gradients are reduced by hooks, or are DTensors.

    Args:
        owner: Name of the method, for messages.
        losses: K scalars.
        leaves: Leaf -> the parameter in whose ``.grad`` its gradient arrives: its shard, or the leaf itself.
        records: FSDP's records of leaves that it made, of this graph or others.

    Raises:
        BalancingError: Parameters in shards over some of the processes alone.
    """

    def __init__(
        self, owner: str, losses: Sequence[Tensor], leaves: Mapping[Tensor, Any], records: Mapping[Tensor, _Record]
    ) -> None:
        self._owner, self._records = owner, [records[leaf] for leaf in leaves if leaf in records]
        self._parameters = {leaf: record.entry.sharded_param for leaf, record in records.items()} | dict(leaves)
        self._leaves = {parameter: leaf for leaf, parameter in leaves.items()}
        self._losses = losses
        self._flat = any(_is_flat(leaf) for leaf in leaves)
        self._check_meshes()
        # modules that are sharded together unshard when the last output is reached, which a single loss may not do
        together = {record.group.modules[0] for record in self._records if len(record.group.modules) > 1}
        for module in together:
            for loss in filter(lambda loss: loss.requires_grad, losses):
                loss.register_hook(lambda _, module=module: module.unshard())

    def parameters(self, given: Iterable[Tensor]) -> list[Tensor]:
        """The parameters that are given as such or as leaves of a graph.

        A module holds the leaves between forward and backward, where it does not give them up in the meantime.
        """
        return [self._parameters.get(tensor, tensor) for tensor in given]

    def renamed(self, masks: Mapping[Tensor, int]) -> dict[Tensor, int]:
        """Masks of leaves as masks of parameters."""
        return {self._parameters.get(leaf, leaf): mask for leaf, mask in masks.items()}

    def require_own_samples(self) -> None:
        """Raise BalancingError unless each process has its own part of the batch."""
        sharded = {record.entry.sharded_param for record in self._records}
        others = any(is_dtensor(parameter) for parameter in self._leaves if parameter not in sharded)
        if others or not all(record.over_all() for record in self._records):
            raise BalancingError(
                f"{self._owner}: with tensor parallelism several processes have the same samples, so that gradients at "
                "the features cannot be added up; use at='shared'"
            )

    def collect(
        self,
        losses: Sequence[Tensor],
        inputs: Sequence[Tensor],
        others: Mapping[Tensor, int],
        keep_graph: bool,
        active: Sequence[int] | None,
        names: Sequence[str] | None,
    ) -> ShardedGradients:
        """Gradient of each loss at parameters, by a backward of its own, through the hooks.

        As :func:`balancing.measuring.looped.collect`. What was in ``.grad`` before is there again afterwards.
        """
        self._check_hooks()
        inputs = list(dict.fromkeys(self.parameters(inputs)))
        rows: list[list[Tensor | None]] = [[None] * len(inputs) for _ in losses]
        heads: list[dict[Tensor, Tensor]] = [{} for _ in losses]
        plain: list[Tensor] = []
        chosen = range(len(losses)) if active is None else active
        for k in chosen:
            own = [parameter for parameter, mask in others.items() if mask >> k & 1]
            keep = keep_graph or k != chosen[-1]
            with span(f"backward of {names[k] if names else k}"):
                pieces = self._gradients([losses[k]], [*inputs, *own], None, keep, [*inputs, *own])
            reached = any(piece is not None for piece in pieces[: len(inputs)])
            for p, parameter in enumerate([*inputs, *own]):
                if self._is_plain(parameter) and (reached or p >= len(inputs)):
                    piece = pieces[p]
                    pieces[p] = piece = torch.zeros_like(parameter) if piece is None else piece
                    plain.append(piece)
            rows[k] = pieces[: len(inputs)]
            pairs = zip(own, pieces[len(inputs) :], strict=True)
            heads[k] = {parameter: piece for parameter, piece in pairs if piece is not None}
        average_over_processes(plain)
        return ShardedGradients(inputs, rows, heads, device=losses[0].device)

    def backward(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Tensor] | None,
        factors: Sequence[Tensor],
        keep_graph: bool = False,
        replaced: Iterable[tuple[Tensor, Tensor]] = (),
    ) -> None:
        """Add the gradient of the weighted sum to ``.grad`` of the ``parameters``, or of all.

        ``replaced`` are tensors in between, each with what takes the place of its gradient.
        """
        chosen = [p for p in (self._leaves if parameters is None else parameters) if p in self._leaves]
        if parameters is not None and self._flat:
            raise BalancingError(
                f"{self._owner}: FullyShardedDataParallel computes the gradients of all its parameters together; "
                "leave parameters= out, or use fully_shard"
            )
        plain = [parameter for parameter in chosen if self._is_plain(parameter)]
        with replaced_gradients(replaced):
            gradients = self._gradients(losses, None if parameters is None else chosen, factors, keep_graph, plain)
        reached = {p: g for p, g in zip(plain, gradients, strict=True) if g is not None}
        accumulate_grad(list(reached), list(reached.values()))

    def _gradients(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Tensor] | None,
        factors: Sequence[Tensor] | None,
        keep_graph: bool,
        apart: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """The local gradients of ``apart`` from a backward to the ``parameters``, or to all.

        ``.grad`` of ``apart`` does not change.
        """
        inputs = None if parameters is None else [self._leaves[p] for p in parameters if p in self._leaves]
        if inputs is not None and not inputs:
            return [None] * len(apart)
        if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in apart):
            raise BalancingError(
                f"{self._owner}: a parameter has a post-accumulate-grad hook, which would run with the gradient of one "
                "objective or process; take the optimizer's step after backward"
            )
        earlier = [parameter.grad for parameter in apart]
        for parameter in apart:
            parameter.grad = None
        try:
            torch.autograd.backward(losses, factors, retain_graph=keep_graph, inputs=inputs)
            return [_as_the_parameter(parameter) for parameter in apart]
        finally:
            for parameter, gradient in zip(apart, earlier, strict=True):
                parameter.grad = gradient

    def _is_plain(self, parameter: Tensor) -> bool:
        """Whether nobody else averages its gradient over processes."""
        return not is_dtensor(parameter) and not _is_flat(parameter)

    def _check_meshes(self) -> None:
        """Raise BalancingError unless all processes hold the same parameters."""
        world = dist.get_world_size()
        sizes = {parameter.device_mesh.size() for parameter in self._leaves if is_dtensor(parameter)}
        data = {record.group.mesh_info.mesh.size() for record in self._records}
        # beside tensor parallelism, parameters that it does not cut lie over the processes with different samples
        if sizes - {world} and not (world in sizes and sizes == {world} | data and len(data) == 1):
            raise BalancingError(
                f"{self._owner}: parameters lie over {min(sizes)} of {world} processes; the device mesh of fully_shard "
                "and parallelize_module must hold all processes"
            )

    def _check_hooks(self) -> None:
        """Raise BalancingError if a backward per loss would not give its gradient alone."""
        if self._flat:
            raise BalancingError(
                f"{self._owner}: FullyShardedDataParallel has the gradients of one ordinary backward alone; "
                "use fully_shard, or a method that weighs losses"
            )
        if not all(record.reduces() for record in self._records):
            raise BalancingError(
                f"{self._owner}: fully_shard was told not to reduce gradients, or has some that are not reduced; leave "
                "set_requires_gradient_sync, set_requires_all_reduce and set_is_last_backward on, and give "
                "micro-batches with last=False"
            )


def find_shards(owner: str, losses: Sequence[Tensor], leaves: Callable[[], Iterable[Tensor]]) -> Shards | None:
    """What is known about the leaves of a graph, if they are in shards; ``None`` if none is.

    ``leaves`` is not called where nothing can be in shards. Raises BalancingError as :class:`Shards`.
    """
    if not (dist.is_available() and dist.is_initialized()) or "torch.distributed.tensor" not in sys.modules:
        return None
    records = _records(owner)
    found = {leaf: records[leaf].entry.sharded_param if leaf in records else leaf for leaf in leaves()}
    if not any(is_dtensor(parameter) or _is_flat(parameter) for parameter in found.values()):
        return None
    return Shards(owner, losses, found, records)


def _as_the_parameter(parameter: Any) -> Tensor | None:
    """The local part of ``.grad``, cut as the parameter is."""
    gradient = parameter.grad
    if gradient is not None and is_dtensor(gradient) and gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
    return None if gradient is None else local(gradient)


def _is_flat(tensor: Tensor) -> bool:
    """Whether the tensor holds the parameters of a FullyShardedDataParallel module."""
    return getattr(tensor, "_is_flat_param", False)
