"""Inputs of a table: numbers, dates and categories, prepared like those of training.

number, date   missing -> median or mean of training; standardized; with an indicator if some were missing in training
category       a code for each text that is frequent enough in training; code 0 for any other
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import islice
from typing import Any, Literal

import numpy as np

from tasks.table_files import TextTable, is_missing, looks_numeric, moment
from tasks.task import DataError

InputType = Literal["number", "category", "date"]
Impute = Literal["median", "mean"]

_BINS = 24  # of a stored distribution
_SHOWN = 30  # categories in it
_EPOCH = date(2000, 1, 1).toordinal()
_OTHER_DATE = re.compile(r"\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}\b.*")
_DATES = "dates? They are read as 2026-11-28 or 28.11.2026"
_LEADING_ZERO = re.compile(r"(?:^|\0)0\d")


@dataclass(frozen=True)
class Settings:
    """How inputs are prepared.

    Args:
        missing: Spellings of a missing cell.
        impute: What takes the place of missing numbers, of the training rows.
        min_count: Training rows that a category needs for a code of its own.
    """

    missing: Collection[str]
    impute: Impute
    min_count: int


@dataclass(frozen=True)
class NumberInput:
    """A column of numbers or dates (days since 2000).

    Args:
        name: Of the column.
        type: ``number`` or ``date``.
        fill: What takes the place of missing ones.
        mean: That is subtracted.
        std: That is divided by.
        indicator: Whether a second input says which were missing.
        missing: Share of training rows without a number.
        edges: Ends of the stored distribution.
        counts: Training rows in equal parts between them.
    """

    name: str
    type: str
    fill: float
    mean: float
    std: float
    indicator: bool
    missing: float
    edges: tuple[float, float]
    counts: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of inputs."""
        return 1 + self.indicator

    def encode(self, values: np.ndarray) -> list[np.ndarray]:
        """Columns (N,) from numbers (N,) with NaN where they are missing."""
        absent = np.isnan(values)
        standardized = (np.where(absent, self.fill, values) - self.mean) / self.std
        return [standardized, absent.astype(np.float64)] if self.indicator else [standardized]

    def summary(self) -> str:
        """What became of the column, in a few words."""
        return self.type


@dataclass(frozen=True)
class CategoryInput:
    """A column of categories.

    Args:
        name: Of the column.
        values: Texts with codes of their own, from 1 on; "" for missing ones.
        missing: Share of training rows without a text.
        counts: Training rows with any other text, and with each of the ``values``.
    """

    name: str
    values: tuple[str, ...]
    missing: float
    counts: tuple[int, ...]

    @property
    def codes(self) -> int:
        """Number of codes."""
        return 1 + len(self.values)

    def encode(self, cells: Sequence[str], missing: Collection[str]) -> np.ndarray:
        """(N,) codes."""
        known = {text: code for code, text in enumerate(self.values, start=1)}
        codes = {cell: known.get("" if is_missing(cell, missing) else cell, 0) for cell in set(cells)}
        return np.fromiter(map(codes.__getitem__, cells), np.int64, len(cells))

    def summary(self) -> str:
        """What became of the column, in a few words."""
        rare = f", other for {self.counts[0]:,} rows" if self.counts[0] else ""
        texts = list(filter(None, self.values))
        dates = f": {_DATES}" if texts and all(map(_OTHER_DATE.fullmatch, texts)) else ""
        return f"category ({len(self.values)}{rare}{dates})"


Input = NumberInput | CategoryInput


def input_state(column: Input) -> dict[str, Any]:
    """Everything about an input, as JSON can hold it."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(column).items()}


def restore_input(state: Mapping[str, Any]) -> Input:
    """Inverse of :func:`input_state`."""
    arguments: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in state.items()}
    return CategoryInput(**arguments) if "values" in arguments else NumberInput(**arguments)


class Reader:
    """Columns of one table as numbers and texts, each read once."""

    def __init__(self, table: TextTable, settings: Settings) -> None:
        self.table, self.settings = table, settings
        self._numbers: dict[str, np.ndarray] = {}

    def is_number(self, name: str) -> bool:
        """Whether all known cells are numbers, and not all are missing."""
        first = (cell for (cell,) in islice(self.table.rows([name]), 1000))
        if any(
            c.isalpha() and c not in "eE" for cell in first if not is_missing(cell, self.settings.missing) for c in cell
        ):
            return False  # as most texts, without looking at all of them
        try:
            return bool(np.isfinite(self.numbers(name)).any())
        except DataError:
            return False

    def numbers(self, name: str, remedy: str = "") -> np.ndarray:
        """(N,) numbers, NaN where missing. Raises DataError naming the first cell that is none."""
        if name not in self._numbers:
            self._numbers[name] = self.table.numbers(name, self.settings.missing, remedy)
        return self._numbers[name]

    def check_alike(self, name: str, known: Mapping[str, int], remedy: str) -> None:
        """Raise DataError if a column of texts would be one of numbers or dates but for a few cells.

        Args:
            name: Of the column.
            known: Text -> in how many rows it is, without missing ones.
            remedy: How to have it taken as texts.
        """
        rows = sum(known.values())
        for what, fits in (("number", looks_numeric), ("date", moment)):
            strange: dict[str, int] = {}
            for cell, count in known.items():
                if not fits(cell):
                    strange[cell] = count
                    if len(strange) > 1 and 10 * sum(strange.values()) > rows:
                        break  # texts
            else:
                share = 2 if len(strange) == 1 else 10  # one text that is frequent may stand for missing ones
                if strange and share * sum(strange.values()) <= rows:
                    cells = self.table.cells(name)
                    row = min(map(cells.index, strange))
                    advice = f"write a {what}, leave the cell empty, add its spelling to task.missing, or {remedy}"
                    message = f"{cells[row]!r} is no {what}, but most other cells of {name!r} are; {advice}"
                    raise self.table.error(row, message)

    def dates(self, name: str) -> np.ndarray:
        """(N,) days since 2000, NaN where missing. Raises DataError for a cell that is no date."""
        cells = self.table.cells(name)
        days = {cell: _days(cell, self.settings.missing) for cell in set(cells)}
        values = np.fromiter(map(days.__getitem__, cells), np.float64, len(cells))
        if np.isinf(values).any():
            row = int(np.isinf(values).argmax())
            form = "a date such as 2026-11-28 or 2026-11-28 19:30"
            remedy = f"task.types={{{name}: category}}, or task.ignore=[{name}]"
            raise self.table.error(
                row, f"{cells[row]!r} is no {name}, which must be {form}; write it so, or set {remedy}"
            )
        return values

    def values(self, name: str, kind: str) -> np.ndarray:
        """Numbers or dates."""
        return self.dates(name) if kind == "date" else self.numbers(name, f", or set task.types={{{name}: category}}")


def _days(cell: str, missing: Collection[str]) -> float:
    if is_missing(cell, missing):
        return math.nan
    found = moment(cell)
    if found is None:
        return math.inf
    seconds = found.hour * 3600 + found.minute * 60 + found.second
    offset = found.utcoffset()
    return found.toordinal() - _EPOCH + (seconds - (offset.total_seconds() if offset else 0)) / 86400


def day(days: float) -> date:
    """The date of so many days since 2000, of those that a calendar has."""
    return date.fromordinal(min(max(_EPOCH + round(days), 1), date.max.toordinal()))


def infer_type(reader: Reader, name: str) -> tuple[InputType | None, str]:
    """What a column holds; ``None`` and the reason, if it is not worth an input."""
    table, missing = reader.table, reader.settings.missing
    stored = table.columns[name]
    if isinstance(stored, np.ndarray) or reader.is_number(name):
        numbers = reader.numbers(name)
        known = numbers[~np.isnan(numbers)]
        if not len(known):
            return None, "no cell is filled in"
        dense = (known == np.floor(known)).all() and known.max() - known.min() < len(known)
        if dense and len(known) > 20 and len(np.unique(known)) == len(known):
            return None, "a different whole number in each row, without gaps: a row number?"
        if not isinstance(stored, np.ndarray) and any(map(_has_leading_zero, stored)):
            return "category", ""  # such as postal codes
        return "number", ""
    counts = Counter(table.cells(name))
    known_texts = {cell: count for cell, count in counts.items() if not is_missing(cell, missing)}
    rows = sum(known_texts.values())
    if not rows:
        return None, "no cell is filled in"
    if all(math.isfinite(_days(cell, ())) for cell in known_texts):
        return "date", ""
    reader.check_alike(name, known_texts, f"set task.types={{{name}: category}}")
    if 2 * len(known_texts) > rows and len(known_texts) > 2:
        if all(map(_OTHER_DATE.fullmatch, known_texts)):
            return None, _DATES
        return None, f"{len(known_texts):,} different texts in {rows:,} rows: a name or free text?"
    return "category", ""


def _has_leading_zero(text: str) -> bool:
    """Whether a cell in a text of :class:`TextTable` begins with a zero and a digit."""
    return (text.startswith("0") or "\x000" in text) and _LEADING_ZERO.search(text) is not None


def fit_input(reader: Reader, name: str, kind: InputType, train: np.ndarray) -> Input | None:
    """An input fitted to the training rows; ``None`` if it is the same in all of them."""
    settings = reader.settings
    if kind == "category":
        cells = reader.table.cells(name)
        texts = Counter(cells[row] for row in train.tolist())
        counts: Counter[str] = Counter()
        for text, count in texts.items():
            counts["" if is_missing(text, settings.missing) else text] += count
        values = tuple(sorted(text for text, count in counts.items() if count >= settings.min_count))
        if len(counts) < 2 or not values:
            return None
        other = sum(count for text, count in counts.items() if text not in set(values))
        shares = (other, *(counts[value] for value in values))
        return CategoryInput(name, values, counts[""] / len(train), shares)
    values_of = reader.values(name, kind)[train]
    known = values_of[~np.isnan(values_of)]
    if not len(known) or (known == known[0]).all():
        return None
    fill = float(np.median(known) if settings.impute == "median" else known.mean())
    low, high = float(known.min()), float(known.max())
    histogram = np.histogram(known, _BINS, (low, high))[0]
    share = 1 - len(known) / len(values_of)
    std = float(known.std())
    if not std > 0 or not math.isfinite(std):
        raise DataError(
            f"{reader.table.owner}: {reader.table.source}: the numbers of {name!r} cannot be standardised (from {low:g} to {high:g}); "
            f"rescale them, or leave them out: task.ignore=[{name}]"
        )
    counts_of = tuple(histogram.tolist())
    return NumberInput(name, kind, fill, float(known.mean()), std, share > 0, share, (low, high), counts_of)


def encode_inputs(reader: Reader, inputs: Sequence[Input]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (N, F) float32, and codes (N, C) int64."""
    count = len(reader.table)
    width = sum(column.width for column in inputs if isinstance(column, NumberInput))
    codes = [column for column in inputs if isinstance(column, CategoryInput)]
    x, c = np.empty((count, width), np.float32), np.empty((count, len(codes)), np.int64)
    place = 0
    for column in inputs:
        if isinstance(column, NumberInput):
            for values in column.encode(reader.values(column.name, column.type)):
                x[:, place] = values
                place += 1
    for place, category in enumerate(codes):
        c[:, place] = category.encode(reader.table.cells(category.name), reader.settings.missing)
    return x, c


def describe_cells(reader: Reader, inputs: Sequence[Input]) -> list[str]:
    """How many cells are missing, or have texts without a code, in all and by column."""
    absent, strange, examples = Counter[str](), Counter[str](), dict[str, list[str]]()
    for column in inputs:
        if isinstance(column, NumberInput):
            absent[column.name] = int(np.isnan(reader.values(column.name, column.type)).sum())
            continue
        known = set(column.values)
        for cell, count in Counter(reader.table.cells(column.name)).items():
            if is_missing(cell, reader.settings.missing):
                absent[column.name] += count
            elif cell not in known:
                strange[column.name] += count
                examples.setdefault(column.name, []).append(cell)
    told = []
    if total := strange.total():
        columns = (f"{name} {n:,} ({_few(examples[name])})" for name, n in strange.items() if n)
        told.append(
            f"{total:,} cells have categories that are new, or were rare in training, and count as one: {', '.join(columns)}"
        )
    if total := absent.total():
        columns = (f"{name} {n:,}" for name, n in absent.items() if n)
        told.append(f"{total:,} cells are missing: {', '.join(columns)}")
    return told


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")
