"""Search for the largest batch that fits, by training steps with many sizes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mozoo.arguments import ConfigError
from mozoo.config import Config
from mozoo.data import batch_size, training_batches
from mozoo.device import describe_device, resolve_device, synchronize
from mozoo.page import number
from mozoo.run import Run
from tasks import Batch

GIB = 2**30
_RESERVE = 0.1
Step = Callable[[Run, Batch], Any]


@dataclass(frozen=True)
class Try:
    """Memory and speed of two steps with one size."""

    size: int  # samples per step
    memory: int  # bytes at the peak
    speed: float  # samples per second in the second step; 0 without one
    fits: bool  # whether both steps stayed within the limit


def search(config: Config, limit: int | None, build: Callable[[Config], Run], step: Step) -> int:
    """Recommended ``trainer.batch_size`` for ``limit`` bytes; prints each size and its memory.

    Raises ConfigError if not even the first size fits, or memory cannot be measured on the device.
    """
    console = Console(highlight=False, soft_wrap=True)
    device = resolve_device(config.trainer.device)
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and not Path("/proc/self/statm").exists()):
        raise ConfigError(f"on {device.type} of this system memory cannot be measured; use CUDA, or the CPU on Linux")
    limit = limit or _available(device)
    unit = 8 * config.trainer.grad_accum_steps
    _release(device)
    before = _resident() if device.type == "cpu" else 0
    run = build(config)
    run.train_mode()
    samples = len(run.splits.train)  # type: ignore[arg-type]
    most = max(samples // unit * unit, unit)
    console.print(f"{config.model['name']} on {describe_device(device)}, up to {limit / GIB:.3g} GiB")
    console.print(f"{'batch':>8}  {'memory, GiB':>11}  {'samples/s':>9}")
    tried: list[Try] = []

    def attempt(size: int) -> bool:
        tried.append(last := take_two_steps(run, step, size, limit, before))
        speed = number(last.speed) if last.fits else "too large"
        console.print(f"{size:>8}  {last.memory / GIB:>11.3f}  {speed:>9}")
        return last.fits

    largest = bisect(attempt, unit, most)
    if largest == 0:
        raise ConfigError(
            f"not even trainer.batch_size={unit} fits into {limit / GIB:.3g} GiB; try a smaller model, "
            "trainer.precision=bf16, trainer.grad_checkpointing=true, or more memory=GIB"
        )
    recommended = with_reserve(tried, largest, limit, unit)
    note = ", as many as there are samples to train on" if largest == most else ""
    console.print(f"largest that fits: {largest}{note}")
    console.print(f"recommended, with a tenth of the memory to spare: trainer.batch_size={recommended}")
    return recommended


def bisect(fits: Callable[[int], bool], unit: int, most: int) -> int:
    """A fitting multiple of ``unit`` up to ``most``, within 2 % of the largest; 0 if none fits."""
    good, size = 0, unit
    while fits(size):
        if size == most:
            return most
        good, size = size, min(2 * size, most)
    bad = size
    while bad - good > max(unit, good // 50):
        middle = (good + bad) // 2 // unit * unit
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def with_reserve(tried: Sequence[Try], largest: int, limit: int, unit: int) -> int:
    """The largest size that leaves a tenth of ``limit``, on a line through the measured memory."""
    known = sorted((each.size, each.memory) for each in tried if each.fits)
    (first, low), (last, high) = known[0], known[-1]
    if last == largest and high < limit / 1000:
        return largest  # so little memory cannot be told from none, and has room to grow
    size = largest * (1 - _RESERVE)
    if high > low:
        size = first + ((1 - _RESERVE) * limit - low) * (last - first) / (high - low)
    return min(max(int(size) // unit * unit, unit), largest)


def take_two_steps(run: Run, step: Step, size: int, limit: int, before: int = 0) -> Try:
    """Memory and speed of two steps; ``before`` are bytes of the process without ``run``."""
    config, device = run.config, run.device
    split, workers = run.splits.train, config.trainer.num_workers
    speed, fits, batch = 0.0, True, None
    with _watch(device, before) as peak:
        try:
            batch = next(training_batches(split, size, config.seed, 0, 0, device, workers))
            for _ in range(2):  # an optimizer makes its state in the first
                synchronize(device)
                start = time.perf_counter()
                step(run, batch)
                synchronize(device)
                speed = batch_size(batch) / (time.perf_counter() - start)
        except (torch.OutOfMemoryError, MemoryError):
            fits = False
        except RuntimeError as error:
            if not any(text in str(error) for text in ("allocate memory", "enough memory")):  # of the CPU's allocator
                raise
            fits = False
        del batch
        for optimizer in run.phases:
            optimizer.zero_grad()
    return Try(size, peak[0], speed, fits and peak[0] <= limit)


def _available(device: torch.device) -> int:
    """Free bytes; on the CPU half of them, as each size may double the memory of the last."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 // 2


@contextlib.contextmanager
def _watch(device: torch.device, before: int) -> Iterator[list[int]]:
    """A list of one number, at the end the bytes at the peak, on the CPU beyond ``before``."""
    _release(device)
    peak = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_reserved(device)
        _release(device)
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _resident() - before)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        _release(device)


def _release(device: torch.device) -> None:
    """Return unused memory to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
