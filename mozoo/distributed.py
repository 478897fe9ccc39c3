"""Several processes, started by ``torchrun``, that train one model together.

There is no wrapper around the model: parameters are sent from process 0 at the start, every process sees its part of each
batch, and the balancers average losses and gradients (:mod:`balancing.measuring.processes`). All processes draw from equal random
generators, so whatever is drawn for a whole batch is the same everywhere.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch import Tensor, nn

from balancing.measuring.processes import average_over_processes
from mozoo.arguments import ConfigError

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)  # the first process may have to render or download a data set


@dataclass(frozen=True)
class Processes:
    """The processes that train together; all call the same methods in the same order."""

    rank: int = 0  # number of this process; 0 writes all files
    size: int = 1
    local_rank: int = 0  # number of this process on its machine
    control: dist.ProcessGroup | None = None  # for messages between processors: gloo, whatever carries the gradients

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def main_first(self, action: Callable[[], T]) -> T:
        """Call ``action`` in process 0, then in the first of every machine, then in all others."""
        if self.size == 1:
            return action()
        mine = 0 if self.main else 1 if self.local_rank == 0 else 2
        results = []
        for place in range(3):
            if place == mine:
                results.append(action())
            try:
                dist.barrier(self.control)
            except RuntimeError as error:  # gloo's, if the process whose turn it was has ended
                raise error if isinstance(error, dist.DistError) else dist.DistError(str(error)) from None
        return results[0]

    def broadcast(self, value: T | None) -> T:
        """The value of process 0, in every process."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, group=self.control)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; sent between processors, not devices."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, group=self.control)
        return bool(votes.item())

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values


def process_place() -> tuple[int, int, int]:
    """Number of this process, how many there are, and its number on this machine.

    Read from what ``torchrun`` sets. Raises ConfigError for values that make no sense.
    """
    size = _launched("WORLD_SIZE", "1", least=1)
    if size == 1:
        return 0, 1, 0
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(
                f"WORLD_SIZE={size} is set without {name}; start several processes with torchrun, or unset it"
            )
    _launched("MASTER_PORT", "0", least=1, below=65536)
    return _launched("RANK", "0", below=size), size, _launched("LOCAL_RANK", "0", below=size)


def _launched(name: str, default: str, least: int = 0, below: int = 2**31) -> int:
    text = os.environ.get(name, default)
    if not text.isascii() or not text.isdigit() or not least <= int(text) < below:
        limit = "" if below == 2**31 else f" and below {below}"
        raise ConfigError(
            f"the environment has {name}={text!r}, which must be a whole number of at least {least}{limit}; "
            "start several processes with torchrun, or unset it"
        )
    return int(text)


@contextlib.contextmanager
def join_processes(settings: Mapping[str, Any]) -> Iterator[Processes]:
    """Join the processes that torchrun started, if any. All but process 0 print errors only.

    Args:
        settings: The configuration, which must be the same in all; ``trainer.device`` is one for each process.

    Raises:
        ConfigError: A device that is not one for each process, a sweep of several runs, or settings that differ.
    """
    device, (rank, size, local_rank) = settings["trainer"]["device"], process_place()
    if size == 1:
        yield Processes()
        return
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigError("a sweep (-m) cannot run under torchrun; start torchrun once for every run")
    kind = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"trainer.device={device} is one device; several processes take auto, cuda or cpu")
    if kind == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank} of this machine finds {torch.cuda.device_count()} CUDA devices; "
                "start torchrun with --nproc-per-node=gpu, or set trainer.device=cpu"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_PATIENCE)
    control: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    processes = Processes(rank, size, local_rank, control)
    try:
        _check_same(processes.gather(settings))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if processes.main else nowhere):
            yield processes
    finally:
        dist.destroy_process_group()


def _check_same(settings: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError with the first option in which a process differs from process 0."""
    for rank, mine in enumerate(settings):
        if (different := _difference(settings[0], mine)) is not None:
            key, first, other = different
            raise ConfigError(
                f"the processes have different options: {key} is {first!r} in process 0 and {other!r} in process {rank}"
            )


def _difference(a: Any, b: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        inner = (_difference(a.get(name), b.get(name), f"{key}.{name}".lstrip(".")) for name in {**a, **b})
        return next((different for different in inner if different is not None), None)
    return None if a == b else (key, a, b)


def broadcast_model(model: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            dist.broadcast(tensor, src=0)


def average_buffers(model: nn.Module) -> None:
    """Replace floating-point buffers (BatchNorm statistics) by their mean over processes."""
    average_over_processes([buffer for buffer in model.buffers() if buffer.is_floating_point()])
