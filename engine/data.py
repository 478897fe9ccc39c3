"""Batches: by index from tensors that live on the device, or through a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from engine.device import move
from engine.seeding import epoch_order
from tasks import Batch, DataError, TensorData

__all__ = ["batch_size", "batches_per_epoch", "evaluation_batches", "micro_batches", "training_batches"]

Split = TensorData | Dataset[Batch]


def batches_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches only: a short last one would weigh its samples more, and BatchNorm cannot take a batch of one."""
    return max(len(split) // batch_size, 1)  # type: ignore[arg-type]


def training_batches(
    split: Split, batch_size: int, seed: int, epoch: int, start: int, device: torch.device, workers: int
) -> Iterator[Batch]:
    """The batches of ``epoch`` from number ``start`` on, in an order that only ``seed`` and ``epoch`` decide.

    A data set with ``set_epoch(seed, epoch)`` is told both, so that its augmentations follow from them and the index.
    """
    if hasattr(split, "set_epoch"):
        split.set_epoch(seed, epoch)
    size = len(split)  # type: ignore[arg-type]
    order = epoch_order(size, seed, epoch)
    chunks = [order[i * batch_size : (i + 1) * batch_size] for i in range(start, batches_per_epoch(split, batch_size))]
    yield from _batches(split, chunks, device, workers)


def evaluation_batches(split: Split, batch_size: int, device: torch.device, workers: int) -> Iterator[Batch]:
    """Every sample once, in order."""
    yield from _batches(split, list(torch.arange(len(split)).split(batch_size)), device, workers)  # type: ignore[arg-type]


def batch_size(batch: Batch) -> int:
    """Number of samples."""
    return len(batch.inputs[0])


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """``batch`` in ``count`` parts, of one sample at least. Parts count by their size, whatever labels they lack."""
    count = min(count, batch_size(batch))
    if count == 1:
        return [batch]
    inputs = [tensor.tensor_split(count) for tensor in batch.inputs]
    targets = {name: tensor.tensor_split(count) for name, tensor in batch.targets.items()}
    return [
        Batch(tuple(part[i] for part in inputs), {name: part[i] for name, part in targets.items()})
        for i in range(count)
    ]


def _batches(split: Split, chunks: list[torch.Tensor], device: torch.device, workers: int) -> Iterator[Batch]:
    if isinstance(split, TensorData):
        for chunk in chunks:
            yield split.batch(chunk.to(device))
        return
    loader: DataLoader[Batch] = DataLoader(
        split,
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # without one of its own, a loader draws from the global generator, and a resumed run would draw once more
        generator=torch.Generator(),
    )
    try:
        for batch in loader:
            yield move(Batch(*batch), device)
    except DataError as error:  # one from a worker has that process's traceback in its message
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
