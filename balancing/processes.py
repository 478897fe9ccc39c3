"""Averages over the processes of ``torch.distributed``; in a single process nothing happens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_over_processes", "several_processes", "sum_over_samples"]


def several_processes() -> bool:
    """True inside a process group of two or more."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over all processes: one all-reduce of one flat bucket.

    Does nothing in a single process.
    """
    if not tensors or not several_processes():
        return
    bucket = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(bucket)
    bucket /= dist.get_world_size()
    for tensor, piece in zip(tensors, bucket.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def sum_over_samples(gramian: Tensor, device: torch.device) -> Tensor:
    """The Gramian of the whole batch's features from every process's own: samples are disjoint, so inner products add.

    Each process differentiates the mean over its own part of the batch, hence the square of the number of processes.
    ``device`` is one on which the processes can communicate.
    """
    if not several_processes():
        return gramian
    mine = gramian.to(device)
    average_over_processes([mine])
    return mine.to(gramian.device) / dist.get_world_size()
