"""Which device to run on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.arguments import ConfigError
from tasks import Batch

__all__ = ["compile_model", "describe_device", "move", "resolve_device", "synchronise", "use_threads"]


def resolve_device(name: str) -> torch.device:
    """``auto`` is the accelerator if there is one, else the CPU. Raises ConfigError if the device is not there."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"trainer.device must be auto, cpu, cuda, cuda:N or mps, got {name!r}") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise ConfigError(f"trainer.device={name} is not available on this machine; use trainer.device=auto or cpu")
    return device


def use_threads(count: int | None) -> None:
    """Let torch use this many CPU threads for one operation; ``None`` leaves its own choice."""
    if count is not None:
        torch.set_num_threads(count)


def describe_device(device: torch.device) -> str:
    """Name of the hardware, for the summary."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({_threads()})" if device.type == "cpu" else device.type


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''}"


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; copies from pinned memory overlap with computation."""

    def to(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return Batch(tuple(to(t) for t in batch.inputs), {name: to(t) for name, t in batch.targets.items()})


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read now is true."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def compile_model(model: Any) -> None:
    """Compile trunk and heads in place; the balancer and its several backward passes stay outside.

    Names in ``state_dict`` do not change.
    """
    import torch._functorch.config

    # a backward through a compiled graph may otherwise free buffers that the next objective's backward needs
    torch._functorch.config.donated_buffer = False
    model.features = torch.compile(model.features)
    model.heads = torch.compile(model.heads)
