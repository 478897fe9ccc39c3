"""Progress of a run: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from balancing import BalanceReport
from mozoo.visible import printable
from tasks.results import ResultKey, objectives_of

_ROWS = 8  # objectives that fit below the bar
_IN_UNITS = "mae"  # metric in the unit of its objective


class _LastingConsole(Console):
    """A console that goes on without its reader, who may go away as ``| head -1`` does."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is flushed at exit goes there as well
        os.close(nowhere)


class Display:
    """A progress bar with a row per objective, and one line per epoch above. A context manager.

    Where the output is no terminal, only the lines are printed, and :meth:`step` does nothing. A run of ``total`` steps may
    have ``done`` some before it was resumed.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.console = _LastingConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
        columns = ("{task.description}", BarColumn(bar_width=None), MofNCompleteColumn(), "{task.fields[speed]}")
        times = (TimeElapsedColumn(), "left", TimeRemainingColumn())
        self._bar = Progress(*columns, *times, console=self.console, expand=True)
        self._line = self._bar.add_task("starting", total=total, completed=done, speed="")
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(self._bar, console=self.console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def live(self) -> bool:
        """True on a terminal, where :meth:`step` shows something."""
        return self._live is not None

    def step(
        self,
        step: int,
        epoch: int,
        losses: Mapping[str, float],
        steps_per_second: float,
        reports: Sequence[BalanceReport] = (),
    ) -> None:
        """Show the steps done, the epoch (from 1), mean training losses, weights and conflicts.

        ``reports`` are those of the latest step, one per phase. Reading them waits for the device.
        """
        if self._live is None:
            return
        speed = f"{steps_per_second:.0f} step/s" if steps_per_second >= 10 else f"{steps_per_second:.2g} step/s"
        self._bar.update(self._line, completed=step, description=f"epoch {epoch}", speed=speed)
        weighted = [(r.objectives, r.weights, r.present) for r in reports if r.weights is not None]
        rows = [zip(names, weights.tolist(), present, strict=True) for names, weights, present in weighted]
        weights = {name: value for row in rows for name, value, here in row if here}
        columns = [Column("objective", no_wrap=True), *(Column(name, justify="right") for name in ("loss", "weight"))]
        table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name, loss in list(losses.items())[:_ROWS]:
            table.add_row(Text(printable(name)), f"{loss:.4g}", f"{weights[name]:.4g}" if name in weights else "")
        notes = [f"and {len(losses) - _ROWS} more objectives"] if len(losses) > _ROWS else []
        shares = [report.conflicts for report in reports if report.conflicts is not None]
        if shares:
            notes.append(f"{sum(shares) / len(shares):.0%} of the pairs of gradients in conflict")
        self._live.update(Group(self._bar, table, *(Text(note, style="dim") for note in notes)))

    def epoch(self, number: int, total: int, train: Mapping[str, float], val: Mapping[str, float], best: bool) -> None:
        """Print the results of an epoch, keyed ``<objective>/<metric>``, in one line."""
        note = "  (best so far)" if best else ""
        self.say(f"epoch {number}/{total}  train {_brief(train)}  |  val {_brief(val)}{note}")

    def say(self, text: str, end: str = "\n") -> None:
        """Print a line."""
        self.console.print(printable(text), end=end)

    def results(self, title: str, values: Mapping[str, float]) -> None:
        """Print a table of final results, a row per objective."""
        rows: dict[str, list[str]] = {}
        for name, value in values.items():
            key = ResultKey.parse(name)
            rows.setdefault(key.objective, []).append(f"{key.metric} {value:.4g}")
        table = Table("objective", "results", title=Text(printable(title)), title_justify="left")
        for objective, cells in rows.items():
            table.add_row(printable(objective), printable("   ".join(cells)))
        self.console.print(table)


def _brief(values: Mapping[str, float]) -> str:
    """``<objective>/<metric> value`` in one line.

    Of many objectives, the means of metrics that have no unit.
    """
    objectives = objectives_of(values)
    if len(objectives) <= _ROWS:
        return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        if (metric := ResultKey.parse(name).metric) != _IN_UNITS:
            groups.setdefault(metric, []).append(value)
    means = "  ".join(f"{metric} {sum(group) / len(group):.4g}" for metric, group in groups.items())
    return f"{means}  (means of {len(objectives)} objectives)"
