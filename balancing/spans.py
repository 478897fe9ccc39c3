from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def span(name: str) -> AbstractContextManager[Any]:
    """Context that a running profiler lists as ``span: <name>``; without one it costs nothing."""
    running = torch.autograd._profiler_enabled()
    return torch.profiler.record_function(f"span: {name}") if running else nullcontext()
