"""Tables of text cells from CSV files of any program, and what their cells mean.

    file -> encoding, delimiter -> columns of cells, with line numbers -> numbers (NaN: missing) or codes of classes (-1)

Found, not asked for: UTF-8, UTF-16 or Windows-1252 text; commas, semicolons, tabs, bars or spaces between cells; Excel's
first line ``sep=;``; a comma as decimal sign, where it does not separate cells; columns without a name, and empty ones at the
end of lines (left out). ``.xz`` and ``.gz`` files are decompressed. All errors are DataErrors that name the file, the line and
the remedy.

A column is kept as one text, as long as in the file, and is cut into cells when it is asked for: 300,000 lines of 40 numbers
take as much memory as their file.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import lzma
import math
import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from balancing.registry import suggestion
from tasks.file_checks import MAX_TABLE_GIB, check_regular, limit
from tasks.task import DataError

#: Spellings of a missing cell, without case; an empty cell is always missing.
MISSING = ("", "nan", "na", "n/a", "n.a.", "#n/a", "<na>", "none", "null", "nil", "?", "-", "--")
SimilarClasses = Literal["refuse", "join", "keep"]

_END = "\0"  # between the cells in a text; a table with this character is refused
_SHOWN = 12  # classes in a message
_BLOCK = 4096  # rows in a text
_HEAD = 1 << 16  # characters from which the delimiter is found
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, with whose mark it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_FOREIGN = {
    b"PK\x03\x04": "a spreadsheet or an archive",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml|head|body)\b", re.IGNORECASE)
_JSON = re.compile(rb'\s*(\[\s*)?[{\[]\s*["{\[\]}]')
_NAMES = {"cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_PLAIN = re.compile(r"[+-]?\d+(\.\d*)?")
_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)?,\d+([eE][+-]?\d+)?")
_SIGNED = re.compile(r"([^\w\s.,+-])?\s*[+-]?[\d.,' ]*\d\s*([^\w\s.,+-]|[A-Za-z]{1,3})?")
_WHOLE = re.compile(r"[+-]?\d+([eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+")
_DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)(.*)")
_DAMAGE = (lzma.LZMAError, EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True, eq=False)
class TextTable:
    """Columns of cells, without white space around them.

    Args:
        owner: What reads the table, e.g. the name of a task: the first word of messages.
        source: The file, as messages name it.
        columns: Name -> cells, as texts of 4096 of them each with zero bytes between, or as an array of numbers (NaN: missing).
        lines: (N,) the line of the file in which each row begins; ``None``: rows are counted from 1.
        delimiter: What is between the cells.
        encoding: Of the file, by Python's name.
        notes: What a reader should know, e.g. that the file is in Windows-1252; none if there is nothing special.
        key: Column that names rows in messages, where they have no lines.
    """

    owner: str
    source: str
    columns: Mapping[str, Sequence[str] | np.ndarray]
    lines: np.ndarray | None = None
    delimiter: str = ","
    encoding: str = "utf-8"
    notes: tuple[str, ...] = ()
    key: str = ""
    _count: int = field(default=-1, repr=False)

    @classmethod
    def of_columns(
        cls, owner: str, source: str, columns: Mapping[str, Sequence[str] | np.ndarray], key: str = ""
    ) -> TextTable:
        """A table in memory: texts, or float arrays, all of the same length."""
        stored: dict[str, Sequence[str] | np.ndarray] = {}
        for name, cells in columns.items():
            if isinstance(cells, np.ndarray) and cells.dtype.kind == "f":
                stored[name] = cells
            else:
                starts = range(0, len(cells), _BLOCK)
                stored[name] = [_END.join(map(str, cells[start : start + _BLOCK])) for start in starts]
        return cls(owner, source, stored, key=key, _count=len(next(iter(columns.values()), ())))

    def __len__(self) -> int:
        return self._count if self.lines is None else len(self.lines)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in the order of the file."""
        return tuple(self.columns)

    def error(self, row: int, message: str) -> DataError:
        """DataError about a row, which counts from 0."""
        return DataError(f"{self.owner}: {self.source}, {self.place(row)}: {message}")

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        if self.lines is not None:
            return f"line {self.lines[row]}"
        return f"row {row + 1}" + (f" ({self.cells(self.key)[row]})" if self.key else "")

    def find(self, name: str) -> str | None:
        """The column of this name; case is ignored unless two columns differ in nothing else.

        ``None`` if there is none. Raises DataError if there are several.
        """
        if name in self.columns:
            return name
        alike = [column for column in self.columns if _fold(column) == _fold(name)]
        if len(alike) > 1:
            raise DataError(
                f"{self.owner}: {self.source} has columns {' and '.join(map(repr, alike))}; write {name!r} like one of them"
            )
        return alike[0] if alike else None

    def column(self, name: str) -> str:
        """Like :meth:`find`. Raises DataError with the nearest names if there is none."""
        column = self.find(name)
        if not self.names:
            raise DataError(
                f"{self.owner}: {self.source} is empty; it needs a line with the names of columns, and rows below"
            )
        if column is None:
            near = suggestion(name, self.names, "it has {}")
            first = "" if near.startswith("did") else "; the names of the columns are its first line"
            raise DataError(f"{self.owner}: {self.source} has no column {name!r}; {near}{first}")
        return column

    def cells(self, name: str) -> list[str]:
        """The cells of a column; "" for a number that is missing."""
        return [cell for start in range(0, len(self), _BLOCK) for cell in self._block(name, start)]

    def rows(self, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The cells of each row in these columns, with a few thousand rows at a time in memory."""
        for start in range(0, len(self), _BLOCK):
            yield from zip(*(self._block(name, start) for name in names), strict=True)

    def _block(self, name: str, start: int) -> list[str]:
        stored = self.columns[name]
        if isinstance(stored, np.ndarray):
            numbers = stored[start : start + _BLOCK].tolist()
            return ["" if number != number else f"{number:.17g}" for number in numbers]
        return list(map(str.strip, stored[start // _BLOCK].split(_END)))

    @cached_property
    def decimal_comma(self) -> bool:
        """Whether a comma is the decimal sign: a column has nothing else but missing cells.

        ``1,234`` alone does not show it unless semicolons are between the cells, as programs write them for this reason.
        """
        return self.delimiter != "," and any(self._has_commas(name) for name in self.columns)

    def _has_commas(self, name: str) -> bool:
        stored = self.columns[name]
        if isinstance(stored, np.ndarray) or not any("," in text for text in stored):
            return False
        cells = {cell for cell in self.cells(name) if cell.lower() not in MISSING}
        with_comma = [cell for cell in cells if _COMMA.fullmatch(cell)]
        clear = self.delimiter == ";" or any(not re.fullmatch(r"[+-]?\d{1,3},\d{3}", cell) for cell in with_comma)
        return bool(with_comma) and clear and all("," in cell or _WHOLE.fullmatch(cell) for cell in cells)

    def numbers(self, name: str, missing: Collection[str] = MISSING, remedy: str = "") -> np.ndarray:
        """(N,) numbers, NaN where they are missing.

        Raises DataError naming the first cell that is none, or one that can be read in two ways. ``remedy`` is what else to do
        about the former.
        """
        stored = self.columns[name]
        if isinstance(stored, np.ndarray):
            numbers = np.asarray(stored, np.float64)
            if np.isinf(numbers).any():
                raise self.error(int(np.isinf(numbers).argmax()), f"{name} is infinite; leave the cell empty")
            return numbers
        cells = self.cells(name)
        plain = self._with_points(name, cells)
        # an underscore separates digits in Python only; a number may stand for a missing cell
        if not any("_" in text for text in stored) and not any(math.isfinite(_number(text)) for text in missing):
            try:
                numbers = np.fromiter(map(float, plain), np.float64, len(plain))
                if np.isfinite(numbers).all():
                    return numbers
            except ValueError:
                pass
        absent = {cell for cell in set(cells) if is_missing(cell, missing)}
        numbers = np.fromiter(
            (math.nan if cell in absent else _number(text) for cell, text in zip(cells, plain, strict=True)),
            np.float64,
            len(cells),
        )
        wrong = np.flatnonzero(np.isinf(numbers))
        if len(wrong):
            row = int(wrong[0])
            remedy = f"leave the cell empty if it is missing, or add its spelling to task.missing{remedy}"
            if re.fullmatch(r"[+-]?\d{1,3}([ ,']\d{3})+(\.\d*)?", cells[row]):
                remedy = "write it without a thousands separator"
            elif _COMMA.fullmatch(cells[row]):
                remedy = "write it with a decimal point"
            elif _SIGNED.fullmatch(cells[row]):
                remedy = f"write numbers alone, with the sign in the name of the column, such as '{name} ({_SIGNED.sub(_sign, cells[row])})'"
            raise self.error(row, f"{cells[row]!r} is no {name}, which must be a number; {remedy}")
        return numbers

    def are_numbers(self, name: str, missing: Collection[str] = MISSING) -> bool:
        """Whether :meth:`numbers` can read the column, and finds at least one."""
        try:
            return bool(np.isfinite(self.numbers(name, missing)).any())
        except DataError:
            return False

    def _with_points(self, name: str, cells: list[str]) -> list[str]:
        """Cells with a point as decimal sign."""
        stored = self.columns[name]
        if not self.decimal_comma or isinstance(stored, np.ndarray):
            return cells
        if any("," in text for text in stored):
            if any("." in text for text in stored):
                points = (
                    i
                    for i, cell in enumerate(cells)
                    if "." in cell and "," not in cell and math.isfinite(_number(cell))
                )
                row = next(points, None)
                if row is not None:
                    raise self.error(
                        row, f"{cells[row]!r} has a point, and other cells of {name!r} a comma; write all alike"
                    )
                cells = [cell.replace(".", "") if "," in cell else cell for cell in cells]
            return [cell.replace(",", ".") for cell in cells]
        pointed = [cell for cell in set(cells) if "." in cell]
        if pointed and all(_GROUPED.fullmatch(cell) for cell in pointed):
            row = cells.index(min(pointed, key=cells.index))
            message = (
                f"{cells[row]!r} of {name!r} is one number with a decimal point and another with a thousands point"
            )
            raise self.error(row, f"{message}, and other columns have decimal commas; write all numbers alike")
        return cells


@dataclass(frozen=True)
class Labels:
    """A column of classes.

    Args:
        classes: Their names, sorted; numbers by value.
        codes: (N,) places in ``classes``, -1 where the label is missing.
        missing: Spelling of a missing label -> how often it occurs.
    """

    classes: tuple[str, ...]
    codes: np.ndarray
    missing: Mapping[str, int]


def class_labels(
    table: TextTable,
    name: str,
    known: Sequence[str] | None = None,
    missing: Collection[str] = MISSING,
    similar: SimilarClasses = "refuse",
) -> Labels:
    """The classes of a column, and each row's.

    Args:
        table: Where the column is.
        name: Of the column.
        known: Classes of a trained model, which are taken as they are; ``None``: those of the column.
        missing: Spellings of a missing label. A known class of such a name is a class.
        similar: Classes whose names are one number in two spellings, or differ in case or spaces only: ``refuse``, ``join``
            under the more frequent name, or ``keep`` apart.

    Raises:
        DataError: Similar classes, or a class that is not known.
    """
    cells = table.cells(name)
    counts = Counter(cells)
    absent = {cell: count for cell, count in counts.items() if is_missing(cell, missing) and cell not in (known or ())}
    present = [cell for cell in counts if cell not in absent]
    same: dict[object, list[str]] = {}
    for cell in present if known is None else known:
        same.setdefault(cell if similar == "keep" else _class_key(cell), []).append(cell)
    codes = dict.fromkeys(absent, -1)
    if known is None:
        for names in same.values():
            names.sort(key=lambda cell: (-counts[cell], cell))
        twins = next((names for names in same.values() if len(names) > 1), None)
        if twins is not None and similar == "refuse":
            first, second = sorted(twins[:2])
            raise table.error(
                cells.index(twins[1]),
                f"{name} is {twins[1]!r} ({counts[twins[1]]} rows) here and {twins[0]!r} ({counts[twins[0]]} rows) elsewhere; "
                f"write {first!r} and {second!r} alike, or set task.similar_classes to join, or to keep if they are two classes",
            )
        classes = _sorted([names[0] for names in same.values()])
        places = {cell: place for place, cell in enumerate(classes)}
        codes |= {cell: places[names[0]] for names in same.values() for cell in names}
    else:
        classes = tuple(known)
        places = {cell: place for place, cell in enumerate(classes)}
        for cell in present:
            alike = [cell] if cell in places else same.get(_class_key(cell), [])
            if len(alike) != 1:
                message = f"{name} is {cell!r}, which is none of the classes that the model has learnt"
                raise table.error(cells.index(cell), f"{message}: {', '.join(classes)}")
            codes[cell] = places[alike[0]]
    return Labels(classes, np.fromiter(map(codes.__getitem__, cells), np.int64, len(cells)), absent)


def is_missing(cell: str, missing: Collection[str] = MISSING) -> bool:
    """Whether a cell is empty, or one of the spellings ``missing``: in lower case, or exactly."""
    return not cell or cell in missing or cell.lower() in missing


def describe_labels(name: str, labels: Labels, parts: Mapping[str, np.ndarray]) -> list[str]:
    """How often each class occurs, and which have no training data, in words."""
    counts = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.classes)).tolist()
    shown = [f"{text} {count:,}" for text, count in list(zip(labels.classes, counts, strict=True))[:_SHOWN]]
    more = f", ... ({len(labels.classes)} classes)" if len(labels.classes) > _SHOWN else ""
    absent = [f"{count:,} {text!r}" if text else f"{count:,} empty" for text, count in labels.missing.items()]
    notes = [f"{name}: {', '.join(shown)}{more}{'; missing: ' if absent else ''}{', '.join(absent)}"]
    trained = set(labels.codes[parts["train"]].tolist())
    unseen = [text for code, text in enumerate(labels.classes) if code not in trained and counts[code]]
    if unseen:
        notes.append(f"{name}: no training data for {', '.join(unseen[:_SHOWN])}")
    return notes


def describe_numbers(name: str, numbers: np.ndarray) -> str:
    """Range and mean of a column of numbers, in words."""
    known = numbers[~np.isnan(numbers)]
    absent = f"; {len(numbers) - len(known):,} missing" if len(known) < len(numbers) else ""
    return (
        f"{name}: {known.min():.6g} to {known.max():.6g}, mean {known.mean():.6g}{absent}"
        if len(known)
        else f"{name}: all missing"
    )


def missing_spellings(missing: Sequence[str]) -> tuple[str, ...]:
    """The spellings in lower case, with the empty one."""
    return tuple(dict.fromkeys(["", *(text.strip().lower() for text in missing)]))


def read_table(path: str | Path, owner: str, content: bytes | None = None) -> TextTable:
    """Read a table of text.

    Args:
        path: The file, as messages name it.
        owner: First word of messages.
        content: What is in the file, if it does not have to be opened.

    Raises:
        DataError: The file cannot be read, is no table, or has a line of another length than the header.
    """
    if content is None:
        _check_file(path, owner)
    with _data_errors(path, owner):
        encoding = _encoding(path, owner, content)
        with _text(path, content, encoding) as file:
            head = file.read(_HEAD)
        sep = re.match(r'"?sep=([^\r\n])"?\r?\n', head, re.IGNORECASE)
        delimiter = sep[1] if sep else _delimiter(head)
        with _text(path, content, encoding) as file:
            if sep:
                file.readline()
            return _parse(file, str(path), owner, delimiter, encoding, start=1 if sep else 0)


def _parse(file: io.TextIOBase, source: str, owner: str, delimiter: str, encoding: str, start: int) -> TextTable:
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=delimiter == " ")
    lines: list[int] = []

    def error(line: int, message: str) -> DataError:
        return DataError(f"{owner}: {source}, line {start + line}: {message}")

    try:
        header = [cell.strip() for cell in next((row for row in reader if any(map(str.strip, row))), [])]
        while header and not header[-1]:
            header.pop()
        width, names = len(header), [name for name in header if name]
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise DataError(f"{owner}: {source} has two columns {twice!r}; rename one")
        columns: dict[int, list[str]] = {place: [] for place, name in enumerate(header) if name}
        # of many rows in one list, as the garbage collector would look through rows again and again
        cells: list[str] = []
        count, before = 0, reader.line_num

        def store() -> None:
            for place, texts in columns.items():
                texts.append(_END.join(cells[place::width]))
                if texts[-1].count(_END) != count - 1:
                    raise DataError(f"{owner}: {source} has zero bytes in its cells; save it as CSV again")
            cells.clear()

        for row in reader:
            first, before = before + 1, reader.line_num
            if len(row) != width or not row[0]:
                if not any(map(str.strip, row)):
                    continue
                if not any(map(str.strip, row[width:])):
                    del row[width:]
                if len(row) != width:
                    raise error(first, _other_width(row, header, delimiter, start + before))
            lines.append(start + first)
            cells += row
            count += 1
            if count == _BLOCK:
                store()
                count = 0
        if count:
            store()
        if (
            lines and before - lines[-1] + start > 0
        ):  # a row of several lines: does a quote go on to the end of the file?
            file.seek(0)
            try:
                list(csv.reader(islice(file, lines[-1] - 1, None), delimiter=delimiter, strict=True))
            except csv.Error as problem:
                if "unexpected end" in str(problem):
                    message = "a quote that opens here goes on to the end of the file; close it, or leave it out"
                    raise error(lines[-1] - start, message) from None
    except csv.Error as problem:
        raise error(reader.line_num, f"{problem}; is it a CSV file, and is every quote closed?") from None
    named = {header[place]: texts for place, texts in columns.items()}
    notes = _notes(named, header, delimiter, encoding)
    return TextTable(owner, source, named, np.array(lines, np.int64), delimiter, encoding, notes)


def _other_width(row: Sequence[str], header: Sequence[str], delimiter: str, end: int) -> str:
    """Message about a row with more or fewer cells than names, which ends in the line ``end``."""
    width = len(header)
    between = _DELIMITERS.get(delimiter, repr(delimiter))
    count = f"{len(row)} cell{'s' if len(row) > 1 else ''} here and {width} in the header"
    if any(map(looks_numeric, header)):
        return f"{count}, which has numbers; the first line must hold the names of the columns"
    if any("\n" in cell or "\r" in cell for cell in row):
        return f"{count}, as a quote that opens here goes on to line {end}; close it, or leave it out"
    if len(row) > width:
        return f"{count}; a cell with {between} in it needs quotes"
    return f"{count}; write empty cells too, or remove the line if it is no row"


def _notes(columns: Collection[str], header: Sequence[str], delimiter: str, encoding: str) -> tuple[str, ...]:
    notes = []
    if not encoding.startswith("utf-8"):
        notes.append(f"read as {_NAMES.get(encoding, encoding.upper())} text")
    if delimiter not in (",", ";", "\t"):
        notes.append(f"cells between {_DELIMITERS.get(delimiter, repr(delimiter))}")
    nameless = [str(place + 1) for place, name in enumerate(header) if not name]
    if nameless:
        plural = "s" if len(nameless) > 1 else ""
        notes.append(f"column{plural} {', '.join(nameless)} without a name left out")
    return tuple(notes)


# ---- files -------------------------------------------------------------------------------------------------------------


def _check_file(path: str | Path, owner: str) -> None:
    """Raise DataError for what is no regular file."""
    if os.path.isdir(path):
        raise DataError(f"{owner}: {path} is a folder; name the table in it")
    try:
        check_regular(path)
    except FileNotFoundError:
        raise DataError(f"{owner}: there is no file {path}; check its name, and where it counts from") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{owner}: cannot read {path} ({getattr(error, 'strerror', None) or error})") from None


@contextmanager
def _data_errors(path: str | Path, owner: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise DataError(f"{owner}: {path} is damaged ({error}); save it as CSV UTF-8") from None
    except _DAMAGE as error:
        raise DataError(f"{owner}: {path} is damaged ({error}); copy or download it again") from None
    except OSError as error:
        raise DataError(f"{owner}: cannot read {path} ({error.strerror or error})") from None


def _open(path: str | Path, content: bytes | None) -> BinaryIO:
    opener: Callable[..., BinaryIO] = {".xz": lzma.open, ".gz": gzip.open}.get(Path(path).suffix.lower(), open)  # type: ignore[assignment]
    source: Any = path if content is None else io.BytesIO(content)
    if opener is open:
        return opener(path, "rb") if content is None else source
    return cast(BinaryIO, io.BufferedReader(_Bounded(opener(source, "rb"), path), 1 << 16))


class _Bounded(io.RawIOBase):
    """A compressed file, of which no more is unpacked than the limit allows. Raises ValueError."""

    def __init__(self, file: BinaryIO, path: str | Path) -> None:
        self._file, self._path, self._gib = file, path, limit("MOZOO_MAX_TABLE_GIB", MAX_TABLE_GIB)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        if self._file.tell() > self._gib * 2**30:
            raise _TooLarge(
                f"it unpacks to more than {self._gib:g} GiB; if that is meant, set MOZOO_MAX_TABLE_GIB to a larger number in "
                "the environment"
            )
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._file.close()
        super().close()


class _TooLarge(OSError):
    pass


def _text(path: str | Path, content: bytes | None, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(_open(path, content), encoding=encoding, newline="")


def _encoding(path: str | Path, owner: str, content: bytes | None) -> str:
    """The file's encoding: by its mark, or else UTF-8 if all of it is, or else Windows-1252.

    A file with letters in valid UTF-8 and others that are not is damaged, rather than Windows-1252.
    """
    with _open(path, content) as file:
        start = file.read(_HEAD)
        for mark, kind in _FOREIGN.items():
            if start.startswith(mark):
                raise DataError(f"{owner}: {path} is {kind}, no text; save the table as CSV UTF-8")
        if _PAGE.match(start.removeprefix(codecs.BOM_UTF8)):
            raise DataError(
                f"{owner}: {path} is a web page (HTML or XML), no table; a server may have answered with a page to log in: download the "
                "table itself, and save it as CSV UTF-8"
            )
        if _JSON.match(start.removeprefix(codecs.BOM_UTF8)):
            raise DataError(
                f"{owner}: {path} is JSON, no table; write it as CSV, a line for each row: pandas.read_json(...).to_csv(...)"
            )
        for mark, encoding in _MARKS.items():
            if start.startswith(mark):
                return encoding
        zeros = [start[place::2].count(0) for place in (0, 1)]
        if max(zeros) > 0.4 * len(start) / 2 and min(zeros) < 0.1 * max(zeros):
            return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
        if max(zeros):
            raise DataError(f"{owner}: {path} has zero bytes and is no text; save the table as CSV UTF-8")
        decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
        try:
            while start:
                line += decoder.decode(start).count("\n")
                start = file.read(1 << 20)
            decoder.decode(b"", final=True)
            return "utf-8"
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            reason = error.reason
    with _open(path, content) as file:
        ignoring = codecs.getincrementaldecoder("utf-8")("ignore")
        if not all(ignoring.decode(block).isascii() for block in iter(lambda: file.read(1 << 20), b"")):
            raise DataError(
                f"{owner}: {path}, line {line}: damaged ({reason} of UTF-8, in which other lines are); save it as CSV UTF-8"
            )
    return "cp1252"


def _delimiter(head: str) -> str:
    """The delimiter with which most lines have as many cells as the header, and more than one."""
    whole = len(head) < _HEAD

    def fit(delimiter: str) -> tuple[bool, float, int]:
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, skipinitialspace=delimiter == " ")
        try:
            rows = [row for row in islice(reader, 60) if any(map(str.strip, row))]
        except csv.Error:
            rows = []
        rows = rows if whole or len(rows) < 2 else rows[:-1]
        width = len(rows[0]) if rows else 1
        return width > 1, sum(len(row) == width for row in rows) / max(len(rows), 1), width

    fits = {delimiter: fit(delimiter) for delimiter in _DELIMITERS}
    if fits[" "][1] < 1 or any(fits[delimiter][0] for delimiter in ",;\t|"):
        del fits[" "]  # spaces in texts are no delimiters
    return max(fits, key=fits.__getitem__)


# ---- cells -------------------------------------------------------------------------------------------------------------


def _number(text: str) -> float:
    """The number, or infinity if it is none."""
    try:
        number = math.inf if "_" in text else float(text)
    except ValueError:
        return math.inf
    return number if math.isfinite(number) else math.inf


def _sign(found: re.Match[str]) -> str:
    """What stands before or behind a number."""
    return found[1] or found[2] or ""


def looks_numeric(cell: str) -> bool:
    """Whether a cell is a finite number, with a point or a comma as decimal sign."""
    return math.isfinite(_number(cell)) or _COMMA.fullmatch(cell) is not None


def moment(cell: str) -> datetime | None:
    """Date and time of a cell, ISO 8601 or day first with dots; ``None`` if it is neither."""
    dotted = _DAY_FIRST.fullmatch(cell)
    text = f"{dotted[3]}-{dotted[2]:0>2}-{dotted[1]:0>2}{dotted[4]}" if dotted else cell
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _fold(name: str) -> str:
    """A name without case, composed, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _class_key(name: str) -> object:
    """What similar names of classes have in common: the number, or the name without case."""
    return float(name) if _PLAIN.fullmatch(name) else _fold(name)


def _sorted(names: Sequence[str]) -> tuple[str, ...]:
    if all(_PLAIN.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))
