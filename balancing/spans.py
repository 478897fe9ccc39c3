"""Contexts that cost nothing where they have nothing to do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_NOTHING = nullcontext()


def span(name: str) -> AbstractContextManager[Any]:
    """Context that a running profiler lists as ``span: <name>``; without one it costs nothing."""
    running = torch.autograd._profiler_enabled()
    return torch.profiler.record_function(f"span: {name}") if running else _NOTHING


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Context in which autocast is off on a type of device; free where it is off anyway."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING
