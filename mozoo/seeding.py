"""Seeds, and the state of the global random generators."""

from __future__ import annotations

import os
import random
from typing import Any

import torch


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed Python and torch on every device; optionally choose deterministic kernels."""
    random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(deterministic)  # off again, too: a sweep runs in one process
    torch.backends.cudnn.benchmark = not deterministic


def rng_state() -> dict[str, Any]:
    """State of the global generators, in containers for ``torch.load(weights_only=True)``."""
    version, words, gauss = random.getstate()
    # 625 numbers as a tensor: pickled one by one they took a fifth of the time to save a checkpoint
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": (version, torch.tensor(words), gauss)}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()  # of this process's device; all processes draw the same numbers
    return state


def load_rng_state(state: dict[str, Any]) -> None:
    """Inverse of :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def epoch_order(size: int, seed: int, epoch: int) -> torch.Tensor:
    """(size,) permutation of the training samples, a function of seed and epoch alone."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
