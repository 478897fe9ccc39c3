"""The largest batch that fits, tried out: for any model, task and balancer, with the overrides of train.py.

python scripts/largest_batch.py model=dense_resnet18 trainer.precision=bf16 balancer=pcgrad
python scripts/largest_batch.py memory=4 model=shared_trunk        # GiB that may be used; on the CPU half of what is free

Two training steps are taken with every size. Sizes are doubled until one does not fit, or holds every training sample; then the
limit is closed in on, to a multiple of 8 (times trainer.grad_accum_steps) within 2 %. On CUDA a size does not fit if the device runs
out of memory, on the CPU if the process grows by more than `memory`, model, data and optimizer included. What is recommended
leaves a tenth of the memory free.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import torch

    from engine import Config, Run

GIB = 2**30
RESERVE = 0.1
STEP = 8


@dataclass(frozen=True)
class Try:
    """What two steps with one size took.

    Attributes:
        size: Samples per step.
        memory: Bytes at the peak.
        speed: Samples per second in the second step; 0 if it did not come to that.
        fits: Whether both steps were taken within the limit.
    """

    size: int
    memory: int
    speed: float
    fits: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Try sizes, print a line for each, and return the one that is recommended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="memory=GIB, or as for train.py")
    given = parser.parse_args(arguments).overrides
    import engine

    with engine.reporting():
        chosen = [item.removeprefix("memory=") for item in given if item.startswith("memory=")]
        config = engine.compose([item for item in given if not item.startswith("memory=")])
        return search(config, _as_bytes(chosen[-1]) if chosen else None)
    raise AssertionError("engine.reporting ends the process")


def _as_bytes(text: str) -> int:
    import engine

    try:
        limit = int(float(text) * GIB)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise engine.ConfigError(f"memory is a number of GiB greater than 0, got {text!r}")
    return limit


def search(config: Config, limit: int | None) -> int:
    """Largest recommended ``trainer.batch_size``; prints what was tried. Raises ConfigError if not even the first size fits."""
    from rich.console import Console

    import engine
    import train

    console = Console(highlight=False, soft_wrap=True)
    device = engine.resolve_device(config.trainer.device)
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and not Path("/proc/self/statm").exists()):
        raise engine.ConfigError(
            f"on {device.type} of this system memory cannot be measured; use CUDA, or the CPU on Linux"
        )
    limit = limit or available(device)
    unit = STEP * config.trainer.grad_accum_steps
    _release(device)
    before = _resident() if device.type == "cpu" else 0
    run = train.build(config)
    run.model.train()
    samples = len(run.task.splits(config.data_dir).train)  # type: ignore[arg-type]
    most = max(samples // unit * unit, unit)
    console.print(f"{config.model['name']} on {engine.describe_device(device)}, up to {limit / GIB:.3g} GiB")
    console.print(f"{'batch':>8}  {'memory, GiB':>11}  {'samples/s':>9}")
    tried: list[Try] = []

    def attempt(size: int) -> bool:
        tried.append(take_two_steps(run, size, limit, before))
        memory, speed = tried[-1].memory / GIB, tried[-1].speed
        console.print(f"{size:>8}  {memory:>11.3f}  {f'{speed:.4g}' if tried[-1].fits else 'too large':>9}")
        return tried[-1].fits

    largest = bisect(attempt, unit, most)
    if largest == 0:
        raise engine.ConfigError(
            f"not even trainer.batch_size={unit} fits into {limit / GIB:.3g} GiB; try a smaller model, "
            "trainer.precision=bf16, trainer.grad_checkpointing=true, or more memory=GIB"
        )
    recommended = with_reserve(tried, largest, limit, unit)
    note = ", as many as there are samples to train on" if largest == most else ""
    console.print(f"largest that fits: {largest}{note}")
    console.print(f"recommended, with a tenth of the memory to spare: trainer.batch_size={recommended}")
    return recommended


def bisect(fits: Callable[[int], bool], unit: int, most: int) -> int:
    """A multiple of ``unit`` that fits, within 2 % of the largest; 0 if none does. ``most``, the last to try, is one too."""
    good, size = 0, unit
    while fits(size):
        if size == most:
            return most
        good, size = size, min(2 * size, most)
    bad = size
    while bad - good > max(unit, good // 50):
        middle = (good + bad) // 2 // unit * unit
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def with_reserve(tried: Sequence[Try], largest: int, limit: int, unit: int) -> int:
    """The largest size whose memory, on the line through the measured ones, leaves a tenth of ``limit``."""
    known = sorted((each.size, each.memory) for each in tried if each.fits)
    (first, low), (last, high) = known[0], known[-1]
    if high <= low:
        return max(int(largest * (1 - RESERVE)) // unit * unit, unit)
    size = first + ((1 - RESERVE) * limit - low) * (last - first) / (high - low)
    return min(max(int(size) // unit * unit, unit), largest)


def take_two_steps(run: Run, size: int, limit: int, before: int = 0) -> Try:
    """Two steps with ``size`` samples; ``before``: bytes that the process had before ``run`` was built, on the CPU."""
    import torch

    import engine
    import train

    config, device = run.config, run.device
    split, workers = run.task.splits(config.data_dir).train, config.trainer.num_workers
    speed, fits, batch = 0.0, True, None
    with _watch(device, before) as peak:
        try:
            batch = next(engine.training_batches(split, size, config.seed, 0, 0, device, workers))
            for _ in range(2):  # an optimizer makes its state in the first
                engine.synchronize(device)
                start = time.perf_counter()
                train.train_step(run, batch)
                engine.synchronize(device)
                speed = engine.batch_size(batch) / (time.perf_counter() - start)
        except (torch.OutOfMemoryError, MemoryError):
            fits = False
        except RuntimeError as error:
            told = ("allocate memory", "enough memory")  # by the CPU's allocator
            if not any(text in str(error) for text in told):
                raise
            fits = False
        del batch
        for optimizer in run.phases:
            optimizer.zero_grad()
    return Try(size, peak[0], speed, fits and peak[0] <= limit)


def available(device: torch.device) -> int:
    """Bytes: all that is free on the device; on the CPU half of that, as a try may take twice what the one before took."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 // 2
    return 0


@contextlib.contextmanager
def _watch(device: torch.device, before: int) -> Iterator[list[int]]:
    """A list of one number, which at the end is how many bytes were in use at the peak, on the CPU beyond ``before``."""
    import torch

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
    """Give memory that is no longer used back."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(_read("/proc/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


if __name__ == "__main__":
    main()
