"""Averages over the processes of ``torch.distributed``; in a single process nothing happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..spans import span

_AVAILABLE = dist.is_available()
_BUCKET = 1 << 23  # elements that travel together, 32 MB of float32: few messages, and no second copy of everything


#: A bucket, its flat copy and the message under way; ``None`` for an empty bucket.
_Sent = tuple[list[Tensor], Tensor, Any]


def several_processes() -> bool:
    """True inside a process group of two or more."""
    return _AVAILABLE and dist.is_initialized() and dist.get_world_size() > 1


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over all processes: an all-reduce per bucket."""
    if not tensors or not several_processes():
        return
    with span("all-reduce"):
        for sent in [_send(bucket) for bucket in _buckets(tensors)]:
            _receive(*sent)


def averaged_gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], gradients: Sequence[Tensor], keep_graph: bool = False
) -> list[Tensor | None]:
    """``torch.autograd.grad``, averaged over processes.

    A bucket of gradients travels while others are still computed. The leaves must be the same in all processes, in one
    order. A leaf that the outputs reach in some processes only counts as zero in the others; in none, it gives ``None``.
    """
    backwards = list(reversed(leaves))  # about the order in which gradients come
    found: list[Tensor | None] = [None] * len(backwards)
    sizes = [len(bucket) for bucket in _buckets(backwards)]
    buckets = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
    number_of = [number for number, size in enumerate(sizes) for _ in range(size)]
    missing = [*sizes]
    travelling: list[_Sent] = []

    def note(place: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            found[place] = gradient.clone()  # as autograd may hand out views and aliases
        missing[number_of[place]] -= 1
        # buckets leave in the same order everywhere, each when it and those before it are complete
        while len(travelling) < len(buckets) and missing[len(travelling)] == 0:
            send(buckets[len(travelling)])

    def send(bucket: slice) -> None:
        pairs = list(zip(found[bucket], backwards[bucket], strict=True))
        pieces = [torch.zeros_like(leaf) if gradient is None else gradient for gradient, leaf in pairs]
        here = [float(gradient is not None) for gradient, _ in pairs]
        counts = pieces[0].new_ones(len(here)) if all(here) else pieces[0].new_tensor(here)
        travelling.append(_send([*pieces, counts]))

    roots = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if output.requires_grad]
    hooks = [leaf.register_hook(partial(note, place)) for place, leaf in enumerate(backwards)]
    try:
        if roots:
            ends, factors = zip(*roots, strict=True)
            torch.autograd.grad(ends, backwards, factors, retain_graph=keep_graph, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    for bucket in buckets[len(travelling) :]:
        send(bucket)
    with span("all-reduce"):
        for bucket, sent in zip(buckets, travelling, strict=True):
            _receive(*sent)
            *pieces, counts = sent[0]
            if any(gradient is None for gradient in found[bucket]):
                found[bucket] = [piece if n != 0 else None for piece, n in zip(pieces, counts.tolist(), strict=True)]
    return found[::-1]


def gather(mine: Any) -> list[Any]:
    """What every process has, by rank."""
    everyone: list[Any] = [None] * dist.get_world_size()
    with span("all-gather"):
        dist.all_gather_object(everyone, mine)
    return everyone


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
