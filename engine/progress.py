"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Display"]


class Display:
    """A progress bar over all steps, and one line per epoch above it. A context manager.

    Args:
        total: Steps of the whole run.
        done: Steps that a resumed run has behind it.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._total, self._done = total, done

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._line = self._bar.add_task("starting", total=self._total, completed=self._done, speed="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def live(self) -> bool:
        """True on a terminal, where the bar wants updates."""
        return self._bar is not None

    def step(self, step: int, epoch: int, losses: Mapping[str, float], steps_per_second: float) -> None:
        """Move the bar."""
        if self._bar is not None:
            text = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
            self._bar.update(
                self._line, completed=step, description=f"epoch {epoch}  {text}", speed=f"{steps_per_second:.0f} step/s"
            )

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def results(self, title: str, values: Mapping[str, float]) -> None:
        """Print a table of final results, a row per objective."""
        objectives = list(dict.fromkeys(name.split("/")[0] for name in values))
        table = Table(title=title, title_justify="left")
        table.add_column("objective")
        table.add_column("results")
        for objective in objectives:
            own = {name.split("/", 1)[1]: value for name, value in values.items() if name.split("/")[0] == objective}
            table.add_row(objective, "   ".join(f"{key} {value:.4g}" for key, value in own.items()))
        self.console.print(table)
