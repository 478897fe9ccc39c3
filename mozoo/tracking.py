"""The run folder: tables of numbers, and what a run is called."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from balancing import BalanceReport
from mozoo.arguments import ConfigError
from mozoo.checkpoint import saving, write_json, write_text
from mozoo.config import LoggerConfig
from mozoo.program import program
from mozoo.services import Service, start_services
from mozoo.words import shell_word
from tasks.results import with_split


def make_run_dir(name: str, seed: int, chosen: str | None) -> Path:
    """A new folder ``outputs/<name>/<timestamp>-seed<k>``, or ``chosen``. Raises ConfigError."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}"
    candidates = [Path("outputs", name, stem + suffix) for suffix in ("", *(f"-{i}" for i in range(2, 100)))]
    if chosen is not None:
        candidates = [Path(chosen)]
    for folder in candidates:
        try:
            if chosen is not None:
                check_empty(folder)
            folder.mkdir(parents=True, exist_ok=chosen is not None)
            return folder
        except FileExistsError:
            if chosen is not None:
                raise ConfigError(f"run_dir: {folder} is a file") from None
        except OSError as error:
            raise ConfigError(f"run_dir: cannot create {folder} ({error.strerror})") from None
    raise ConfigError(f"run_dir: too many runs started in {candidates[0].parent} within one second")


def check_empty(folder: Path) -> None:
    """Raise ConfigError if there is anything in ``folder``."""
    if folder.is_dir() and any(folder.iterdir()):
        remedy = "choose another folder"
        if (folder / "last.pt").is_file():
            remedy += f", or continue its run with: {program('train')} {shell_word('resume', folder)}"
        raise ConfigError(f"run_dir: {folder} is not empty; {remedy}")


class Table:
    """A CSV file that grows a row at a time; missing values are left empty.

    ``keep`` decides which rows of an earlier file stay, given as strings. All methods raise SaveError if the file cannot be
    written.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: Callable[[dict[str, str]], bool]) -> None:
        self.path = path
        rows = [row for row in read_rows(path) if keep(row)]
        if rows:
            start = io.StringIO(newline="")
            writer = csv.DictWriter(start, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
            write_text(path, start.getvalue())  # a run that is killed now has the rows that its checkpoint counts on
        with saving(path):
            self._file: TextIO = path.open("a" if rows else "w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns, restval="")
        if not rows:
            with saving(path):
                self._writer.writeheader()
            self.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        cells = {key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()}
        with saving(self.path):
            self._writer.writerow(cells)

    def flush(self) -> None:
        """Pass written rows to the operating system."""
        with saving(self.path):
            self._file.flush()

    def sync(self) -> None:
        """Bring written rows to the disk."""
        with saving(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish the file."""
        with saving(self.path):
            self._file.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Complete rows of a CSV file as strings; none if there is no file.

    Raises ConfigError for a damaged one.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is damaged ({error}); restore it, or remove it") from None


def check_tables(folder: Path) -> None:
    """Raise ConfigError for a table of a run that cannot be continued."""
    for name, keys in (("metrics.csv", ("epoch", "split")), ("balance.csv", ("step",))):
        for row in read_rows(folder / name):
            if any(key not in row or (key != "split" and not row[key].isdecimal()) for key in keys):
                raise ConfigError(
                    f"{folder / name} is damaged (a row without {' and '.join(keys)}); restore it, or remove it"
                )


class Tracker:
    """Writer of ``metrics.csv``, ``balance.csv`` and ``summary.json``, and to tracking services.

    Args:
        folder: The run folder.
        results: Column names of an evaluation.
        objectives: Of all phases.
        logger: Which services to use.
        done: (epochs, steps) before a resume; later rows are dropped.
        groups: Parts of the parameters for which conflicts are counted.
        alignment: Whether the agreement of all gradients is written as one number.
        live: Takes numbers as a service does.
    """

    def __init__(
        self,
        folder: Path,
        results: Sequence[str],
        objectives: Sequence[str],
        logger: LoggerConfig,
        done: tuple[int, int] | None,
        groups: Sequence[str] = (),
        alignment: bool = False,
        live: Service | None = None,
    ) -> None:
        self.folder = folder
        pairs = [(a, b) for i, a in enumerate(objectives) for b in objectives[i + 1 :]]
        columns = [f"{kind}/{name}" for kind in ("loss", "weight", "norm") for name in objectives]
        epochs, steps = done or (0, 0)
        self.metrics = Table(
            folder / "metrics.csv",
            ["epoch", "step", "split", "seconds", "lr", *results],
            lambda row: int(row["epoch"]) <= epochs and row["split"] != "test",
        )
        balance = ["step", "epoch", "phase", *columns, *(f"cosine/{a}/{b}" for a, b in pairs), "conflicts"]
        balance += [*(["alignment"] if alignment else ()), *(f"conflicts/{name}" for name in groups)]
        self._alignment = alignment
        self.balance = Table(folder / "balance.csv", balance, lambda row: int(row["step"]) <= steps)
        self._late: list[tuple[int, int, str, BalanceReport]] = []
        self._status = "failed"
        self._services = [*start_services(folder, logger, steps if done else None), *filter(None, [live])]
        self._unsent: list[tuple[Mapping[str, float], int]] = []
        self._sent = time.monotonic()

    def log_metrics(
        self, epoch: int, step: int, split: str, seconds: float, lr: float, values: Mapping[str, float]
    ) -> None:
        """One row per epoch and split."""
        row = {"epoch": epoch, "step": step, "split": split, "seconds": round(seconds, 3), "lr": lr}
        self.metrics.write({**row, **values})
        self.metrics.flush()
        self._send(with_split(values, split) | ({"lr": lr} if split == "train" else {}), step)

    def log_balance(self, step: int, epoch: int, phase: str, values: Mapping[str, float]) -> None:
        """One row of losses, weights and gradients of a step."""
        self.balance.write({"step": step, "epoch": epoch, "phase": phase, **values})
        self._send({f"balance/{name}": value for name, value in values.items()}, step)

    def log_report(self, step: int, epoch: int, phase: str, report: BalanceReport) -> None:
        """The same from a report; numbers on a device are written with the next ones."""
        self._write_late(before=step)
        self._late.append((step, epoch, phase, report.to_host()))
        if report.losses.device.type == "cpu":
            self._write_late()

    def _write_late(self, before: int | None = None) -> None:
        while self._late and (before is None or self._late[0][0] < before):
            step, epoch, phase, report = self._late.pop(0)
            values = report.as_dict()
            if self._alignment and report.alignment is not None:
                values["alignment"] = report.alignment
            self.log_balance(step, epoch, phase, values)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        """Pass numbers to the services, once a second at most, as each call wakes a thread."""
        self._unsent.append((values, step))
        if time.monotonic() - self._sent > 1:
            self._send_all()

    def _send_all(self) -> None:
        unsent, self._unsent, self._sent = self._unsent, [], time.monotonic()
        self.balance.flush()  # for a page that reads it
        for values, step in unsent:
            for service in self._services:
                service.log(values, step)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        self._status = summary["status"]
        write_json(self.folder / "summary.json", summary)

    def flush(self) -> None:
        """Bring the files on the disk up to date with what was logged."""
        self._write_late()
        self._send_all()
        self.metrics.sync()
        self.balance.sync()
        for service in self._services:
            service.flush()

    def close(self) -> None:
        """Finish all files."""
        self._write_late()
        self._send_all()
        self.metrics.close()
        self.balance.close()
        for service in self._services:
            service.close(self._status)
