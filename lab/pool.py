"""Jobs in worker processes, with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["work_through"]


def work_through(jobs: Mapping[str, Callable[[], object]], processes: int) -> dict[str, BaseException]:
    """Call every job, with one CPU thread each. Returns what went wrong, by name; Ctrl-C ends the program.

    Args:
        jobs: Name -> what to call; it must be picklable.
        processes: How many work at a time.
    """
    failures: dict[str, BaseException] = {}
    if not jobs:
        return failures
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    count, context = max(1, min(processes, len(jobs))), get_context("spawn")
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("running", total=len(jobs))
        with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending = {pool.submit(job): name for name, job in jobs.items()}
            try:
                for future in as_completed(pending):
                    problem = future.exception()
                    if problem is not None:
                        failures[pending[future]] = problem
                    progress.update(bar, advance=1, description=pending[future])
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                sys.exit("interrupted; the same command goes on where this one stopped")
    return failures
