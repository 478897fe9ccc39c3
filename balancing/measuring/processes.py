"""Averages over the processes of ``torch.distributed``; in a single process nothing happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..spans import span

_BUCKET = 1 << 23  # elements that travel together, 32 MB of float32: few messages, and no second copy of everything


#: A bucket, its flat copy and the message under way; ``None`` for an empty bucket.
_Sent = tuple[list[Tensor], Tensor, Any]


def several_processes() -> bool:
    """True inside a process group of two or more."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over all processes: an all-reduce per bucket."""
    if not tensors or not several_processes():
        return
    with span("all-reduce"):
        for sent in [_send(bucket) for bucket in _buckets(tensors)]:
            _receive(*sent)


def averaged_gradients(
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
    keep_graph: bool = False,
) -> list[Tensor | None]:
    """``torch.autograd.grad``, averaged over processes.

    A bucket of gradients travels while others are still computed. Leaves that the outputs do not reach give ``None``; they must be the same in all processes.
    """
    waiting = {leaf: number for number, bucket in enumerate(_buckets(list(reversed(leaves)))) for leaf in bucket}
    missing = [0] * (max(waiting.values(), default=-1) + 1)
    for number in waiting.values():
        missing[number] += 1
    arrived: list[list[Tensor]] = [[] for _ in missing]
    reached: dict[Tensor, Tensor] = {}
    travelling: list[_Sent] = []

    def note(leaf: Tensor, gradient: Tensor) -> None:
        number = waiting[leaf]
        reached[leaf] = gradient.clone()  # as autograd may hand out views and aliases
        arrived[number].append(leaf)
        # buckets leave in the same order everywhere, each when it and those before it are complete
        while len(travelling) < len(missing) and len(arrived[len(travelling)]) == missing[len(travelling)]:
            send(len(travelling))

    def send(number: int) -> None:
        travelling.append(_send([reached[leaf] for leaf in waiting if waiting[leaf] == number and leaf in reached]))

    hooks = [leaf.register_hook(lambda gradient, leaf=leaf: note(leaf, gradient)) for leaf in leaves]
    try:
        torch.autograd.grad(outputs, leaves, gradients, retain_graph=keep_graph, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    while len(travelling) < len(missing):
        send(len(travelling))
    with span("all-reduce"):
        for sent in travelling:
            _receive(*sent)
    return [reached.get(leaf) for leaf in leaves]


def sum_over_samples(gramian: Tensor, device: torch.device) -> Tensor:
    """The Gramian of the whole batch's features, from those of all processes.

    Their samples are disjoint, so inner products add. Each process differentiates the mean over its own part of the
    batch, hence the square of the number of processes. ``device`` is one on which the processes can communicate.
    """
    if not several_processes():
        return gramian
    mine = gramian.to(device)
    average_over_processes([mine])
    return mine.to(gramian.device) / dist.get_world_size()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and (filled + tensor.numel() > _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.numel()
    if bucket:
        yield bucket


def _send(bucket: list[Tensor]) -> _Sent:
    if not bucket:
        return bucket, torch.empty(0), None
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    return bucket, flat, dist.all_reduce(flat, async_op=True)


def _receive(bucket: list[Tensor], flat: Tensor, message: Any) -> None:
    if not bucket:
        return
    message.wait()
    flat /= dist.get_world_size()
    for tensor, piece in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.copy_(piece.view_as(tensor))
