"""Gradients of which each process holds its shard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .gradients import Gradients
from .processes import average_over_processes, several_processes


def is_dtensor(tensor: Tensor) -> bool:
    """Whether the tensor is distributed, as the parameters of ``fully_shard`` and ``parallelize_module``."""
    module = sys.modules.get("torch.distributed.tensor")  # loaded by whoever made such a tensor
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Tensor:
    """This process's part of a tensor, the same object at every step."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor


@dataclass
class ShardedGradients(Gradients):
    """Gradients of which each process holds its shard, averaged over the processes already.

    ``inputs`` and the keys of ``heads`` are the local parts of the parameters. Matrices and functions of coordinates
    see whole gradients, as in one process, and so does what a method remembers.

    Attributes:
        owners: Local part -> its parameter, a DTensor; or the tensor itself, which every process holds.
        device: Where the processes can communicate.
    """

    owners: dict[Tensor, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")

    def __add__(self, other: Gradients) -> ShardedGradients:
        total = super().__add__(other)
        return ShardedGradients(total.inputs, total.rows, total.heads, None, self._all_owners(other), self.device)

    def products(self, other: Gradients) -> Tensor:
        inputs, size = self._all_inputs(other), len(self.rows)
        rows = [part._at(inputs, k) for part in (self, other) for k in range(size)]
        both = ShardedGradients(inputs, rows, [], None, self._all_owners(other), self.device)
        block = both.gramian()[:size, size:]
        return (block + block.T) / 2

    def synchronize(self) -> None:
        """Nothing, as the rows are averages over the processes."""

    def gramian(self) -> Tensor:
        """(K, K) inner products of the whole rows, float64 on the CPU, from float64 products of the shards."""
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64)
        for copies, positions in self._by_copies().items():
            rows = [[row[p] for p in positions] for row in self.rows]
            total += Gradients([self.inputs[p] for p in positions], rows, [])._products(exact=True) / copies
        return self._sum(total)

    def length(self, parts: Sequence[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for copies, positions in self._by_copies().items():
            total += torch.stack([parts[p].double().square().sum() for p in positions]).sum().cpu() / copies
        return self._sum(total).sqrt()

    def width(self) -> int:
        return sum(self.owners[tensor].numel() for tensor in self.inputs)

    def combine_coordinates(self, combine: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """As for whole gradients, which are gathered one parameter at a time."""
        total = []
        for p, tensor in enumerate(self.inputs):
            pieces = [None if (shard := row[p]) is None else self._whole(tensor, shard) for row in self.rows]
            for row in self.rows:
                row[p] = None
            present = [[piece] for piece in pieces if piece is not None]
            if not present:
                total.append(torch.zeros_like(tensor))
                continue
            (whole,) = Gradients(present[0], [[piece] for piece in pieces], []).combine_coordinates(combine)
            total.append(self._shard(tensor, whole))
        return total

    def jacobian(self) -> Tensor:
        """(K, P) matrix of the whole rows, which the caller may overwrite."""
        if self.matrix is None:
            device, dtype = self.inputs[0].device, self.inputs[0].dtype
            for tensor in self.inputs:
                dtype = torch.promote_types(dtype, tensor.dtype)
            self.matrix = torch.zeros(len(self.rows), self.width(), dtype=dtype, device=device)
            for vector, row in zip(self.matrix, self.rows, strict=True):
                for piece, tensor, shard in zip(self._cut(vector), self.inputs, row, strict=True):
                    if shard is not None:
                        piece.copy_(self._whole(tensor, shard))
        return self.matrix

    def split(self, vector: Tensor) -> list[Tensor]:
        """The shards, shaped like the inputs, of a whole (P,) vector."""
        return [self._shard(tensor, piece) for tensor, piece in zip(self.inputs, self._cut(vector), strict=True)]

    def accumulate(self, leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        for tensor, gradient in zip(leaves, gradients, strict=True):
            parameter = self.owners[tensor]
            gradient = gradient.to(tensor.dtype)
            if parameter is not tensor:
                gradient = _dtensor(gradient, parameter, parameter.placements)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _all_owners(self, other: Gradients) -> dict[Tensor, Any]:
        return self.owners | other.owners if isinstance(other, ShardedGradients) else self.owners

    def _cut(self, vector: Tensor) -> list[Tensor]:
        """Views of a whole (P,) vector, shaped like the parameters."""
        owners = [self.owners[tensor] for tensor in self.inputs]
        pieces = vector.split([owner.numel() for owner in owners])
        return [piece.view(owner.shape) for piece, owner in zip(pieces, owners, strict=True)]

    def _whole(self, tensor: Tensor, shard: Tensor) -> Tensor:
        parameter = self.owners[tensor]
        return shard if parameter is tensor else _dtensor(shard, parameter, parameter.placements).full_tensor()

    def _shard(self, tensor: Tensor, whole: Tensor) -> Tensor:
        """This process's part of a tensor that every process has as a whole."""
        parameter = self.owners[tensor]
        if parameter is tensor:
            return whole
        replicate = sys.modules["torch.distributed.tensor"].Replicate()
        everywhere = _dtensor(whole.contiguous(), parameter, [replicate] * parameter.device_mesh.ndim)
        return everywhere.redistribute(placements=parameter.placements).to_local()

    def _by_copies(self) -> dict[int, list[int]]:
        """Number of processes that hold the same part -> positions of the inputs."""
        found: dict[int, list[int]] = {}
        for p, tensor in enumerate(self.inputs):
            parameter = self.owners[tensor]
            copies = dist.get_world_size()
            if parameter is not tensor:
                dims = enumerate(parameter.placements)
                copies //= prod(parameter.device_mesh.size(dim) for dim, placement in dims if _cuts(placement))
            found.setdefault(copies, []).append(p)
        return found

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if not several_processes():
            return values
        mine = values.to(self.device)
        average_over_processes([mine])
        return mine.to(values.device) * dist.get_world_size()


def _cuts(placement: Any) -> bool:
    # _StridedShard is a Shard in some versions and a class of its own in others
    return not placement.is_replicate() and not placement.is_partial()


def _dtensor(part: Tensor, parameter: Any, placements: Sequence[Any]) -> Any:
    """A tensor as large as the parameter, of which this process has ``part``."""
    cls, shape, stride = type(parameter.data), parameter.shape, parameter.stride()
    return cls.from_local(part, parameter.device_mesh, placements, run_check=False, shape=shape, stride=stride)
