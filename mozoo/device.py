"""Which device to run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from balancing import allow_several_backwards
from mozoo.arguments import ConfigError
from mozoo.config import TrainerConfig
from mozoo.distributed import Processes, broadcast_model
from tasks import Batch


def resolve_device(name: str, processes: Processes = Processes()) -> torch.device:  # noqa: B008  it never changes
    """The torch device of a name. Raises ConfigError if it is not there.

    ``auto`` is the accelerator if there is one, else the CPU. Of several processes on CUDA each has the device that it chose
    when it joined. ``cuda:N`` becomes the current device.
    """
    if processes.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"trainer.device must be auto, cpu, cuda, cuda:N or mps, got {name!r}") from None
    available = {
        "cpu": not device.index,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise ConfigError(f"trainer.device={name} is not available on this machine; use trainer.device=auto or cpu")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # events and random generators are those of the current one
    return device


@contextmanager
def own_threads() -> Iterator[None]:
    """Restore the number of threads afterwards: a sweep has many runs in one process."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def silence_profiler() -> None:
    """Keep torch's profiler from writing to the error output.

    It reports a missing GPU as an error there, and reads the variable at the first profile of a process.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def describe_device(device: torch.device) -> str:
    """Name of the hardware, for the summary."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' if threads > 1 else ''})" if device.type == "cpu" else device.type


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; copies from pinned memory overlap with computation."""
    targets = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.targets.items()}
    return Batch(tuple(tensor.to(device, non_blocking=True) for tensor in batch.inputs), targets)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work, e.g. before reading a clock."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def place_model(
    model: Any, device: torch.device, trainer: TrainerConfig, processes: Processes, derivatives: bool = False
) -> Any:
    """The model on its device, in the chosen memory format, the same in all processes.

    ``derivatives``: its losses hold derivatives with respect to its inputs, which need more than the ten bits of TF32.
    Raises ConfigError for an option that the model or the device does not support.
    """
    if device.type == "cuda":
        tf32 = trainer.tf32 and not derivatives
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
    if trainer.grad_checkpointing:
        able = [module for module in model.modules() if hasattr(module, "set_grad_checkpointing")]
        if not able:
            raise ConfigError("trainer.grad_checkpointing=true needs a timm trunk, which this model does not have")
        for module in able:
            try:
                module.set_grad_checkpointing(True)
            except (AssertionError, NotImplementedError, AttributeError):
                raise ConfigError(
                    f"trainer.grad_checkpointing=true: {type(module).__name__} of timm cannot do it; leave it out, or choose another trunk"
                ) from None
    if trainer.batch_size == trainer.grad_accum_steps * processes.size and any(
        isinstance(module, nn.BatchNorm1d) for module in model.modules()
    ):
        raise ConfigError(
            "BatchNorm has no statistics of one sample, and trainer.batch_size, trainer.grad_accum_steps and the number of "
            "processes leave no more for a part of a batch; use a larger batch or another norm"
        )
    if processes.size > 1 and trainer.batchnorm == "synchronized":
        if device.type != "cuda":
            raise ConfigError("trainer.batchnorm=synchronized needs CUDA; choose averaged")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device)
    if trainer.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if processes.size > 1:
        broadcast_model(model)
    return model


def compile_model(model: Any) -> None:
    """Compile trunk and heads in place, not the backward passes; ``state_dict`` stays the same."""
    allow_several_backwards()
    model.features = torch.compile(model.features)
    model.heads = torch.compile(model.heads)
