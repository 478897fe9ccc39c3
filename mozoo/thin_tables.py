"""The tables of a run in bounded memory: means over neighboring rows where there are many."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mozoo.arguments import ConfigError

FEWEST = 500  # points that a long table keeps at least; at most it has twice as many
_KINDS = 64  # values of the column that divides a table
_CELLS = 4_000_000  # of a file with more, a random sample of the rows is read
_AT_ONCE = 20_000  # cells
Series = tuple[list[float], list[float]]


@dataclass(frozen=True)
class ThinTable:
    """Rows of one kind, in their order.

    Attributes:
        columns: Name -> (N,) means of the finite values; not a number where there is none.
        merged: How many rows that were read one row here is the mean of; 1 for a table of up to 1,000 rows.
        last: The last row of the file, as it is.
    """

    columns: Mapping[str, np.ndarray]
    merged: int
    last: Mapping[str, float]

    def series(self, name: str, x: str) -> Series:
        """(x, y) of the rows that have a finite value in column ``name``; empty without that column."""
        if name not in self.columns:
            return [], []
        known = np.isfinite(self.columns[name])
        return self.columns[x][known].tolist(), self.columns[name][known].tolist()


NOTHING = ThinTable({}, 1, {})


def read_thin(path: Path, by: str) -> dict[str, ThinTable]:
    """Value of column ``by`` -> its rows, of a CSV file that may be larger than the memory.

    Other columns are numbers. Of more than four million cells, a random sample of the rows is read, and the last one.
    An incomplete last row is left out; there is nothing if there is no file. Raises ConfigError for a damaged one.
    """
    if not path.is_file():
        return {}
    found: dict[str, _Means] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
            if by not in header:
                return {}
            place = header.index(by)
            names = header[:place] + header[place + 1 :]
            share = _CELLS / max(_lines(path) * len(header), 1)
            for row in csv.reader(_sample(file, share) if share < 1 else file):
                if len(row) != len(header):
                    continue
                kind = row.pop(place)
                if kind not in found:
                    if len(found) == _KINDS:
                        raise ValueError(f"more than {_KINDS} values of {by}")
                    found[kind] = _Means(len(names))
                found[kind].add(row)
        return {kind: means.table(names) for kind, means in found.items()}
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{path} is damaged ({' '.join(str(error).split())}); restore it, or remove it") from None


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def _sample(lines: Iterable[str], share: float) -> Iterator[str]:
    """This share of the lines, each with the same probability, and the last two."""
    draw, before, last = random.Random(0).random, "", ""
    for line in lines:
        if draw() < share and before:
            yield before
        before, last = last, line
    yield from filter(None, (before, last))  # the last may be incomplete


class _Means:
    """Sums over pieces of as many rows each, which double when there are too many pieces."""

    def __init__(self, width: int) -> None:
        self.sums, self.counts = np.zeros((2 * FEWEST, width)), np.zeros((2 * FEWEST, width), np.int32)
        self.rows, self.size = 0, 1
        self.waiting: list[list[float]] = []
        self.last: list[float] = []
        self.chunk = max(_AT_ONCE // max(width, 1), 1)

    def add(self, row: Sequence[str]) -> None:
        """Take over a row of numbers and empty cells."""
        self.last = [float(cell) if cell else math.nan for cell in row]
        self.waiting.append(self.last)
        if len(self.waiting) >= self.chunk:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self.waiting:
            return
        values = np.array(self.waiting)
        known = np.isfinite(values)
        values[~known] = 0.0
        end = self.rows + len(values)
        while (end - 1) // self.size >= len(self.sums):
            for part in (self.sums, self.counts):
                part[:FEWEST] = part[0::2] + part[1::2]
                part[FEWEST:] = 0
            self.size *= 2
        pieces = np.arange(self.rows, end) // self.size
        starts = np.flatnonzero(np.diff(pieces, prepend=-1))
        self.sums[pieces[starts]] += np.add.reduceat(values, starts)
        self.counts[pieces[starts]] += np.add.reduceat(known, starts, dtype=np.int32)
        self.rows, self.waiting = end, []

    def table(self, names: Sequence[str]) -> ThinTable:
        """What was added."""
        self._sum_up()
        count = -(-self.rows // self.size)
        with np.errstate(invalid="ignore"):
            means = self.sums[:count] / self.counts[:count]
        return ThinTable(dict(zip(names, means.T, strict=True)), self.size, dict(zip(names, self.last, strict=True)))
