"""Ask a run to stop, politely."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from engine.distributed import Processes

__all__ = ["StopRequest", "interruptible"]


class StopRequest:
    """SIGTERM and SIGINT ask for a stop; a second one ends the process at once. A context manager.

    Under torchrun a second one counts as the first, since its agent repeats what the terminal sent; it kills by itself
    after half a minute. Outside the main thread, where Python allows no handlers, nobody can ask.

    Args:
        processes: Among whom a stop is agreed on.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self.asked = False
        self._processes = processes or Processes()
        self._agreed = False
        self._previous: dict[int, Any] = {}

    def agreed(self) -> bool:
        """Whether any process was asked. All processes must call this equally often."""
        self._agreed = self._agreed or self._processes.any(self.asked)
        return self._agreed

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and self._processes.size == 1:
            sys.exit(128 + number)
        self.asked = True


@contextmanager
def interruptible() -> Iterator[None]:
    """Before there is anything to save, both signals raise KeyboardInterrupt, so that unfinished files are cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous: dict[int, Any] = {}
    try:
        for each in (signal.SIGTERM, signal.SIGINT):  # the latter, too: a shell lets its background jobs ignore it
            previous[each] = signal.signal(each, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
