"""Data frames and Parquet files as tables, without a package that has to be installed.

A frame is whatever has ``columns`` and gives, for each of them, something with ``to_numpy()``: that of pandas or of polars. Tables
of pyarrow are frames too. Durations are days.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module, util
from pathlib import Path
from typing import Any

import numpy as np

from tasks.table_files import TextTable, read_table
from tasks.task import DataError

_EXACT = 2**53  # larger whole numbers are no float64


def read_any(source: Any, owner: str, separator: str = ";") -> TextTable:
    """A table from a path of a CSV or Parquet file, or from a data frame.

    Args:
        source: What to read.
        owner: First word of messages.
        separator: Put between the items of cells that are lists.

    Raises:
        DataError: The file cannot be read, or a package is missing.
    """
    if not isinstance(source, str | Path):
        return frame_table(source, owner, "the data frame", separator)
    path = Path(source)
    if os.path.isfile(path) and (path.suffix.lower() in (".parquet", ".pq") or _starts_like_parquet(path)):
        return _read_parquet(path, owner, separator)
    return read_table(source, owner)


def frame_table(frame: Any, owner: str, source: str, separator: str = ";") -> TextTable:
    """A data frame as a table. Raises DataError for anything else, or for a column twice."""
    if hasattr(frame, "collect"):
        raise DataError(f"{owner}: {source} is not computed yet; give what its method collect() returns")
    if hasattr(frame, "column_names"):
        frame = _Arrow(frame)
    names = [str(name) for name in getattr(frame, "columns", ())]
    if not names or not hasattr(frame, "__getitem__"):
        raise DataError(
            f"{owner}: {source} is no data frame of pandas or polars with columns, but {type(frame).__name__}"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{owner}: {source} has two columns {twice[0]!r}; rename one")
    columns = {name: _column(frame[own].to_numpy(), separator) for name, own in zip(names, frame.columns, strict=True)}
    return TextTable.of_columns(owner, source, columns)


def _column(values: np.ndarray, separator: str) -> np.ndarray | Sequence[str]:
    kind = values.dtype.kind
    if kind == "f" or (kind in "iu" and (not len(values) or np.abs(values.astype(np.float64)).max() < _EXACT)):
        return values.astype(np.float64)
    if kind == "M":
        return ["" if text == "NaT" else _moment(text) for text in np.datetime_as_string(values).tolist()]
    if kind == "m":
        return values / np.timedelta64(1, "D")
    if kind == "O":
        numbers = [np.nan if _absent(value) else value for value in values.tolist()]
        kinds = {type(value) for value in numbers}
        if kinds <= {int, float} and int in kinds and np.nanmax(np.abs(np.array(numbers, np.float64))) < _EXACT:
            return np.array(numbers, np.float64)
    return [_text(value, separator) for value in values.tolist()]


def _moment(text: str) -> str:
    """ISO 8601 without what is zero: nanoseconds, and midnight."""
    day, _, time = text.partition("T")
    whole = time.partition(".")[0] if not time.partition(".")[2].strip("0") else time[:15]
    return f"{day}T{whole}" if whole.strip("0:") else day


def _absent(value: Any) -> bool:
    """None, a float or a time that is not a number, and the missing values of pandas."""
    return value is None or (isinstance(value, float) and value != value) or str(value) in ("<NA>", "NaT")


def _text(value: Any, separator: str) -> str:
    if isinstance(value, list | tuple | set | np.ndarray) or (hasattr(value, "to_list") and not isinstance(value, str)):
        items: Iterable[Any] = value.to_list() if hasattr(value, "to_list") else value
        return separator.join(str(item) for item in items)
    return "" if _absent(value) else str(value)


def _starts_like_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # what is wrong is said by who reads it


def _read_parquet(path: Path, owner: str, separator: str) -> TextTable:
    readers: dict[str, Callable[[Any], Any]] = {
        "pyarrow": lambda package: _Arrow(import_module("pyarrow.parquet").read_table(path)),
        "polars": lambda package: package.read_parquet(path),
    }
    for name, read in readers.items():
        if util.find_spec(name) is not None:
            try:
                frame = read(import_module(name))
            except Exception as error:  # each package has its own
                reason = " ".join(str(error).split())[:200]
                raise DataError(
                    f"{owner}: {path} is no Parquet file that {name} can read ({reason}); write it again"
                ) from None
            return frame_table(frame, owner, str(path), separator)
    raise DataError(
        f"{owner}: {path} is a Parquet file, and no package that reads it is installed: pip install 'mozoo[parquet]', "
        "or save the table as CSV"
    )


class _Arrow:
    """A table of pyarrow as a frame."""

    def __init__(self, table: Any) -> None:
        self.table, self.columns = table, list(table.column_names)

    def __getitem__(self, name: str) -> _Arrow._Column:
        return _Arrow._Column(self.table.column(name))

    class _Column:
        def __init__(self, column: Any) -> None:
            self.column = column

        def to_numpy(self) -> np.ndarray:
            """Values; objects where a whole number is missing."""
            kind = str(self.column.type)
            if kind.startswith(("int", "uint", "float", "double", "timestamp", "date", "duration")):
                return self.column.to_numpy()
            values = np.empty(len(self.column), object)
            values[:] = self.column.to_pylist()
            return values
