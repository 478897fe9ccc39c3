"""Time and memory of steps: variants take turns, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.progress import track

from mozoo import memory

#: Wall and processor time.
Seconds = tuple[float, float]


def timed(step: Callable[[], object]) -> Seconds:
    """Seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - processor


def take_turns(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    title: str,
    before: Callable[[], object] = lambda: None,
    warm_up: int = 2,
    alternate: bool = False,
) -> dict[str, list[Seconds]]:
    """Seconds of each variant in each round, with a progress bar.

    Args:
        variants: Name -> what is timed.
        rounds: How often each is timed.
        title: Of the progress bar.
        before: Is called before each, and is not timed.
        warm_up: Rounds that come first and do not count.
        alternate: Whether every other round goes through them backwards.
    """
    seconds: dict[str, list[Seconds]] = {name: [] for name in variants}
    for turn in track(range(rounds + warm_up), description=title):
        for name in reversed(list(variants)) if alternate and turn % 2 == 0 else variants:
            before()
            spent = timed(variants[name])
            if turn >= warm_up:
                seconds[name].append(spent)
    return seconds


def medians(seconds: Mapping[str, list[Seconds]], processor: bool = False) -> dict[str, float]:
    """Variant -> median of the wall time, or of the ``processor`` time."""
    return {name: statistics.median(pair[processor] for pair in spent) for name, spent in seconds.items()}


def peak_bytes(step: Callable[[], object]) -> int:
    """Peak of the bytes that ``step`` allocates beyond those allocated before, on the CPU."""
    _, most = memory.peak_bytes(torch.device("cpu"), step)
    assert most is not None  # as on the CPU torch tells
    return most
