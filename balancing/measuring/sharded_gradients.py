"""Gradients of which each process holds its shard."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .gradients import Gradients
from .layout import flat_rows
from .processes import average_over_processes, several_processes


def is_dtensor(tensor: Tensor) -> bool:
    """Whether the tensor is distributed, as the parameters of ``fully_shard`` are."""
    module = sys.modules.get("torch.distributed.tensor")  # loaded by whoever made such a tensor
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Tensor:
    """This process's part of a tensor."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor


@dataclass
class ShardedGradients(Gradients):
    """Gradients of which each process holds its shard, averaged over the processes already.

    ``inputs`` are parameters, DTensors or tensors that every process holds; rows and heads are this process's parts.
    Matrices and functions of coordinates see whole gradients, as in one process, and so does what a method remembers.

    Attributes:
        device: Where the processes can communicate.
    """

    sends_heads = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def synchronize(self) -> None:
        """Nothing, as the rows are averages over the processes."""

    def gramian(self) -> Tensor:
        """(K, K) inner products of the whole rows, float64 on the CPU.

        They are sums over the processes, from float64 products of the shards.
        """
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64)
        for copies, positions in self._by_copies().items():
            rows = [[row[p] for p in positions] for row in self.rows]
            total += Gradients([local(self.inputs[p]) for p in positions], rows, [])._products(exact=True) / copies
        return self._sum(total)

    def length(self, parts: Sequence[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for copies, positions in self._by_copies().items():
            total += torch.stack([parts[p].double().square().sum() for p in positions]).sum().cpu() / copies
        return self._sum(total).sqrt()

    def combine(self, weights: Sequence[float]) -> list[Tensor]:
        return Gradients([local(tensor) for tensor in self.inputs], self.rows, []).combine(weights)

    def column(self, p: int, drop: bool) -> list[Tensor | None]:
        shards = super().column(p, drop)
        return [None if shard is None else _whole(self.inputs[p], shard) for shard in shards]

    def placed(self, p: int, whole: Tensor) -> Tensor:
        return _shard(self.inputs[p], whole)

    def jacobian(self) -> Tensor:
        """(K, P) matrix of the whole rows, which the caller may overwrite."""
        if self.matrix is None:
            self.matrix = flat_rows(self.inputs, len(self.rows)).zero_()
            for vector, row in zip(self.matrix, self.rows, strict=True):
                for piece, parameter, shard in zip(super().split(vector), self.inputs, row, strict=True):
                    if shard is not None:
                        piece.copy_(_whole(parameter, shard))
        return self.matrix

    def split(self, vector: Tensor) -> list[Tensor]:
        """The shards, one for each input, of a whole (P,) vector."""
        return [self.placed(p, piece) for p, piece in enumerate(super().split(vector))]

    def accumulate(self, leaves: Sequence[Any], gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(leaves, gradients, strict=True):
            gradient = gradient.to(parameter.dtype)
            if is_dtensor(parameter):
                gradient = _dtensor(gradient, parameter, parameter.placements)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _by_copies(self) -> dict[int, list[int]]:
        """Number of processes that hold the same part -> positions of the inputs."""
        found: dict[int, list[int]] = {}
        parameter: Any
        for p, parameter in enumerate(self.inputs):
            copies = dist.get_world_size()
            if is_dtensor(parameter):
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


def _whole(parameter: Any, shard: Tensor) -> Tensor:
    return _dtensor(shard, parameter, parameter.placements).full_tensor() if is_dtensor(parameter) else shard


def _shard(parameter: Any, whole: Tensor) -> Tensor:
    """This process's part of a tensor that every process has as a whole."""
    if not is_dtensor(parameter):
        return whole
    replicate = sys.modules["torch.distributed.tensor"].Replicate()
    everywhere = _dtensor(whole.contiguous(), parameter, [replicate] * parameter.device_mesh.ndim)
    return everywhere.redistribute(placements=parameter.placements).to_local()


def _cuts(placement: Any) -> bool:
    # _StridedShard is a Shard in some versions and a class of its own in others
    return not placement.is_replicate() and not placement.is_partial()


def _dtensor(part: Tensor, parameter: Any, placements: Sequence[Any]) -> Any:
    """A tensor as large as the parameter, of which this process has ``part``."""
    cls, shape, stride = type(parameter.data), parameter.shape, parameter.stride()
    return cls.from_local(part, parameter.device_mesh, placements, run_check=False, shape=shape, stride=stride)
