"""Ask a run to stop, politely."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

__all__ = ["StopRequest"]


class StopRequest:
    """True once SIGTERM or SIGINT arrived; a second signal acts as usual, at once. A context manager.

    Outside the main thread, where Python allows no handlers, it stays false.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self.asked

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
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for known, handler in self._previous.items():
            signal.signal(known, handler)  # type: ignore[arg-type]
