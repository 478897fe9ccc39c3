"""A page that shows a run while it trains."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mozoo.report import write_page
from tasks import Task

_FIRST = 2.0  # seconds until there is something to see
_WITHIN = 15.0  # between two pages of one epoch
_SHARE = 0.1  # of the time, at most, is for pages
_RELOAD = 5.0


class LivePage:
    """Writer of ``report.html`` during training, which takes numbers as a tracking service does.

    It writes after the first two seconds, at the end of each epoch, and within longer ones every 15 seconds; less often if that
    would take more than a tenth of the time. Whatever fails here is a warning, and ends the page, not the training.

    Args:
        folder: The run folder, whose tables are shown.
        task: Of the run.
        facts: Makes the content of ``summary.json`` as it is now.
        resumed: Whether there were pages before, which an open browser shows.
    """

    def __init__(self, folder: Path, task: Task, facts: Callable[[], Mapping[str, Any]], resumed: bool) -> None:
        self._folder, self._task, self._facts = folder, task, facts
        self._next = {"log": time.monotonic() + (0.0 if resumed else _FIRST), "flush": 0.0}
        self._works = True

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the page if the last one is old."""
        self._write_after("log")

    def flush(self) -> None:
        """Write the page at the end of an epoch."""
        self._write_after("flush")

    def close(self, status: str) -> None:
        """Write the page of a run that failed; others get their report."""
        if status == "failed":
            self._write("failed", None)

    def _write_after(self, event: str) -> None:
        if time.monotonic() < self._next[event]:
            return
        import matplotlib.figure  # noqa: F401  takes longer than a page, once

        start = time.monotonic()
        self._write("running", _RELOAD)
        end = time.monotonic()
        pause = (end - start) / _SHARE
        self._next = {"log": end + max(pause, _WITHIN), "flush": end + pause}

    def _write(self, status: str, reload: float | None) -> None:
        if not self._works:
            return
        try:
            summary = {**self._facts(), "status": status, "written": f"written at {time.strftime('%H:%M:%S')}"}
            write_page(self._folder, self._task, summary, {}, reload=reload)
        except Exception as error:
            self._works = False
            reason = " ".join(str(error).split())
            warnings.warn(f"trainer.watch: no page any more, as it cannot be written ({reason})", stacklevel=2)
