"""Jobs of the tables, the studies and the reproductions, each in a folder under outputs/.

An interrupted command goes on where it stopped, as a finished job is not run again. Jobs work in processes, with one CPU
thread each unless they take more.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import mozoo
import train
from mozoo import tools
from mozoo.comparison.runs import is_training_of


class Job(Protocol):
    """Picklable work for a process of its own, finished only if done with the settings of today."""

    @property
    def name(self) -> str: ...
    @property
    def finished(self) -> bool: ...
    def run(self) -> None: ...


@dataclass(frozen=True)
class Training:
    """A run of ``train.py`` on the CPU.

    Args:
        folder: The run folder.
        overrides: Of the command line.
        threads: CPU threads.
        resume: Go on with an unfinished attempt, instead of deleting it.
    """

    folder: Path
    overrides: tuple[str, ...]
    threads: int = 1
    resume: bool = False

    @property
    def name(self) -> str:
        """Of the folder and of the one that it is in."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def finished(self) -> bool:
        """Whether the folder holds a finished run with these overrides; others may differ in paths."""
        file = self.folder / "summary.json"
        return file.is_file() and self.summary()["status"] == "finished" and is_training_of(self.folder, self.overrides)

    @property
    def command(self) -> str:
        """The line for a shell."""
        return " ".join(["python train.py", *(f"'{each}'" if " " in each else each for each in self.overrides)])

    def run(self) -> None:
        """Train; an unfinished attempt that is not resumed, or one of other settings, goes first."""
        torch.set_num_threads(self.threads)
        resume = self.resume and is_training_of(self.folder, self.overrides)
        train_quietly(self.folder, [*self.overrides, "trainer.device=cpu", "logger.tensorboard=false"], resume)

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        content: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return content


def train_quietly(folder: Path, overrides: Sequence[str], resume: bool = False) -> dict[str, Any]:
    """Train into the folder, or resume from a checkpoint there, and return the summary."""
    if resume and (folder / "last.pt").is_file():
        composed = tools.saved_config(tools.load_checkpoint(folder / "last.pt")["config"])
        composed.resume = str(folder)
        config = tools.validate(composed)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        config = mozoo.compose([*overrides, f"run_dir='{folder}'"])
    with contextlib.redirect_stdout(io.StringIO()):
        return train.run(config)


def run_missing(jobs: Iterable[Job], processes: int) -> dict[str, BaseException]:
    """Run the jobs that are not finished. Returns name -> error; Ctrl-C ends the program.

    Args:
        jobs: Each in a folder of its own.
        processes: How many work at a time.
    """
    missing = [job for job in jobs if not job.finished]
    failures: dict[str, BaseException] = {}
    if not missing:
        return failures
    count, context = max(1, min(processes, len(missing))), get_context("spawn")
    with progress() as bars:
        bar = bars.add_task("running", total=len(missing))
        with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending = {pool.submit(job.run): job.name for job in missing}
            try:
                for future in as_completed(pending):
                    problem = future.exception()
                    if problem is not None:
                        failures[pending[future]] = problem
                    bars.update(bar, advance=1, description=pending[future])
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                sys.exit("interrupted; the same command goes on where this one stopped")
    return failures


def progress(auto_refresh: bool = True) -> Progress:
    """A progress bar on standard error."""
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    return Progress(*columns, console=Console(stderr=True), auto_refresh=auto_refresh)
