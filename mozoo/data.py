"""Batches: by index from tensors that live on the device, or through a DataLoader."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from mozoo.device import move
from mozoo.distributed import Processes
from mozoo.seeding import epoch_order
from tasks import Batch, DataError, Task, TensorData
from tasks.criteria import Criterion

Split = TensorData | Dataset[Batch]
Shares = list[dict[str, torch.Tensor]]
Losses = Mapping[str, torch.Tensor | None]  # None: without labels

_SENDER_IS_KNOWN = hasattr(signal, "sigwaitinfo")  # of a signal: neither on macOS nor on Windows


class WorkerError(RuntimeError):
    """A process that loads data has ended, or has no shared memory; the message says which."""


def batches_per_epoch(split: Split, batch_size: int) -> int:
    """Number of full batches; a short last one would weigh its samples more."""
    if (order := getattr(split, "order", None)) is not None:
        return order.count(batch_size)
    return max(len(split) // batch_size, 1)  # type: ignore[arg-type]


def batch_indices(split: Split, batch_size: int, seed: int, epoch: int, number: int) -> torch.Tensor:
    """(B,) indices of the samples in a training batch, the same in all processes."""
    return _epoch(split, batch_size, seed, epoch)[number]


def _epoch(split: Split, batch_size: int, seed: int, epoch: int) -> list[torch.Tensor]:
    """The indices of every batch: in an order of the data's own, or all samples shuffled."""
    if (own := getattr(split, "order", None)) is not None:
        return own.batches(batch_size, seed, epoch)
    order = epoch_order(len(split), seed, epoch)  # type: ignore[arg-type]
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(batches_per_epoch(split, batch_size))]


def training_batches(
    split: Split,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int,
    device: torch.device,
    workers: int,
    processes: Processes = Processes(),  # noqa: B008  it never changes
    halves: bool = False,
) -> Iterator[Batch]:
    """The batches of ``epoch`` from number ``start`` on; the order depends on seed and epoch.

    Each process gets its part of every batch; parts are disjoint and of equal size. With ``halves`` the two halves of its part
    are parts of the two halves of the batch, which then are those of one process. A data set with
    ``set_epoch(seed, epoch)`` gets both, so that its augmentations follow from them and the index.
    """
    if hasattr(split, "set_epoch"):
        split.set_epoch(seed, epoch)
    chunks = _epoch(split, batch_size, seed, epoch)[start:]
    if min(map(len, chunks), default=processes.size) < processes.size * (2 if halves else 1):
        raise DataError(
            f"a training batch has {min(map(len, chunks))} samples, too few for {processes.size} processes; start fewer, or add data"
        )
    if halves and processes.size > 1:
        parts = [torch.cat([_part(half, processes) for half in chunk.tensor_split(2)]) for chunk in chunks]
    else:
        parts = [_part(chunk, processes) for chunk in chunks]
    yield from _batches(split, parts, device, workers)


def _part(indices: torch.Tensor, processes: Processes) -> torch.Tensor:
    """The part of this process, as large as that of every other."""
    size = len(indices) // processes.size
    return indices[processes.rank * size : (processes.rank + 1) * size]


def evaluation_batches(
    split: Split,
    batch_size: int,
    device: torch.device,
    workers: int,
    processes: Processes = Processes(),  # noqa: B008
) -> Iterator[Batch]:
    """Every sample once, in order; several processes take whole batches in turn."""
    chunks = list(torch.arange(len(split)).split(batch_size))  # type: ignore[arg-type]
    yield from _batches(split, chunks[processes.rank :: processes.size], device, workers)


def label_shares(task: Task, parts: Sequence[Batch], objectives: Sequence[str], processes: Processes) -> Shares | None:
    """Weight of each part's mean loss in the mean of the batch: its share of the labels.

    Times the number of processes, whose losses are averaged later. ``None`` if there is one part and one process,
    or no part at all, as for balancers that compute losses themselves.
    """
    if not parts or (len(parts) == 1 and processes.size == 1):
        return None
    counts = torch.stack([task.label_counts(part, objectives) for part in parts])
    counts = counts if counts.device.type == "mps" else counts.double()  # it has no float64
    whole = processes.all_reduce_sum(counts.sum(0)).clamp(min=torch.finfo(torch.float32).tiny)
    shares = (processes.size * counts / whole).float()
    return [dict(zip(objectives, share.unbind(), strict=True)) for share in shares]


def weigh_losses(losses: Losses, shares: Shares | None) -> Losses:
    """Losses times the shares of all these parts together; see :func:`label_shares`."""
    if shares is None:
        return losses
    return {
        name: None if loss is None else sum(share[name] for share in shares) * loss for name, loss in losses.items()
    }


def sparse_objectives(task: Task, train: Split) -> frozenset[str]:
    """Objectives of which a training batch may hold no label, where labels are in memory."""
    rows: Any = train.indices if isinstance(train, Subset) else range(len(train))  # type: ignore[arg-type]
    data: Any = train.dataset if isinstance(train, Subset) else train
    if hasattr(data, "sparse"):
        return data.sparse
    targets: Mapping[str, torch.Tensor] = getattr(data, "targets", {})
    if hasattr(data, "reference_targets"):
        targets = data.reference_targets(rows)
    criteria = {o.name: o.criterion for o in task.objectives if o.name in targets}
    return frozenset(name for name, criterion in criteria.items() if _lacks_labels(criterion, targets[name]))


def _lacks_labels(criterion: Criterion, labels: torch.Tensor) -> bool:
    if getattr(criterion, "complete", False):
        return False
    if labels.numel() == len(labels) and not labels.is_floating_point():  # of classes, whose counts may be weighted
        return any(float(criterion.num_labels(value[None])) == 0 for value in labels.unique())
    if labels.is_floating_point() and int(criterion.num_labels(labels)) == labels.numel():
        return False
    if labels.numel() == len(labels):
        return True
    return any(float(criterion.num_labels(sample)) == 0 for sample in labels.split(1))


def present_losses(
    task: Task, batch: Batch, losses: Mapping[str, torch.Tensor], sparse: Collection[str], processes: Processes
) -> Losses:
    """The losses; ``None`` for ``sparse`` objectives of which no process has a label."""
    names = [name for name in losses if name in sparse]
    if not names:
        return losses
    counts = processes.all_reduce_sum(task.label_counts(batch, names)).tolist()
    absent = {name for name, count in zip(names, counts, strict=True) if count == 0}
    return {name: None if name in absent else loss for name, loss in losses.items()}


def batch_size(batch: Batch) -> int:
    """Number of samples in this process's part."""
    return len(batch.inputs[0])


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """``batch`` in ``count`` parts, of one sample at least."""
    if count == 1:
        return [batch]
    count = min(count, batch_size(batch))
    inputs = [tensor.tensor_split(count) for tensor in batch.inputs]
    targets = {name: tensor.tensor_split(count) for name, tensor in batch.targets.items()}
    pieces = range(count)
    return [Batch(tuple(x[i] for x in inputs), {name: y[i] for name, y in targets.items()}) for i in pieces]


def _batches(split: Split, chunks: list[torch.Tensor], device: torch.device, workers: int) -> Iterator[Batch]:
    if isinstance(split, TensorData):
        for chunk in chunks:
            yield split.batch(chunk.to(device))
        return
    loader: DataLoader[Batch] = DataLoader(
        split,
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        # children of this process, as _obey_only_the_parent needs: since Python 3.14 a server would start them by default
        multiprocessing_context="fork" if workers and _SENDER_IS_KNOWN else None,
        pin_memory=device.type == "cuda",
        # without one of its own, a loader draws from the global generator, and a resumed run would draw once more
        generator=torch.Generator(),
        worker_init_fn=_obey_only_the_parent,
    )
    try:
        with _sigterm_blocked():
            batches = iter(loader)  # starts the workers
        for batch in batches:
            yield move(Batch(*batch), device)
    except DataError as error:  # one from a worker has that process's traceback in its message
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
    except RuntimeError as error:
        if not _of_a_worker(str(error)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise WorkerError(
            f"a loader process ended or found no room ({reason}); fewer trainer.num_workers need less memory, and --shm-size gives a "
            "container more"
        ) from None


def _of_a_worker(message: str) -> bool:
    return any(
        words in message for words in ("DataLoader worker", "DataLoader timed out", "shared memory", "unable to mmap")
    )


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM in processes started in here, until they recognize its sender."""
    if not _SENDER_IS_KNOWN:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_only_the_parent(worker: int) -> None:
    """Ignore signals that do not come from the parent, whose last step needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not _SENDER_IS_KNOWN:
        return

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
