"""Requests to stop, by signals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any

from mozoo.distributed import Processes


class StopRequest:
    """Context in which SIGTERM and SIGINT request a stop, and a second one ends the process.

    Under torchrun a second one counts as the first, since its agent repeats what the terminal sent; it kills by itself
    after half a minute. Outside the main thread, where Python allows no handlers, signals are not handled.
    All ``processes`` stop together.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self.asked = self._agreed = False
        self._processes = processes or Processes()
        self._handling = ExitStack()

    def agreed(self) -> bool:
        """Whether any process got a request. All processes must call this equally often."""
        self._agreed = self._agreed or self._processes.any(self.asked)
        return self._agreed

    def __enter__(self) -> StopRequest:
        self._handling.enter_context(_handled_by(self._handle))
        return self

    def __exit__(self, *exception: object) -> None:
        self._handling.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and self._processes.size == 1:
            sys.exit(128 + number)
        self.asked = True


def interruptible() -> AbstractContextManager[None]:
    """Both signals raise KeyboardInterrupt in here, which cleans up unfinished files."""
    return _handled_by(signal.default_int_handler)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Both signals go to ``handler``, SIGINT also in a background job that ignores it."""
    previous: dict[int, Any] = {}
    with suppress(ValueError):  # not in the main thread
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for each, before in previous.items():
            signal.signal(each, before)
