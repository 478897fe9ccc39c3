"""Names for the parts of a step, for torch's profiler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["span"]


def span(name: str) -> AbstractContextManager[Any]:
    """Let a running profiler count what follows as ``span: <name>``; without a profiler it costs nothing."""
    running = torch.autograd._profiler_enabled()
    return torch.profiler.record_function(f"span: {name}") if running else nullcontext()
