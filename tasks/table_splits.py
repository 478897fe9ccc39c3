"""Training, validation and test rows of a table, and a fingerprint that shows a change.

A split is drawn by what is in a row, not by where it is: each key (a path, or the cells of a row) has a number in [0, 1) that
follows from it and the seed, and the smallest numbers validate. Rows that are added, removed or moved leave the others where
they are; equal rows are in the same part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import numpy as np

from tasks.table_files import MISSING, TextTable, is_missing, moment
from tasks.task import DataError

PARTS = ("train", "val", "test")
SplitRule = Literal["random", "stratified", "group", "time"]

_BLOCKS = 64  # of a fingerprint


class Shares(NamedTuple):
    """Shares of rows to validate and to test on, each in (0, 1) with a sum below 1."""

    val: float
    test: float


def check_shares(owner: str, shares: Shares) -> None:
    """Raise ValueError for shares out of range."""
    if not (shares.val > 0 and shares.test > 0 and sum(shares) < 1):
        raise ValueError(
            f"{owner}: val_share and test_share must be positive and leave some for training, got {shares.val} and {shares.test}"
        )


def split_rows(
    table: TextTable,
    keys: Sequence[str],
    rule: SplitRule = "random",
    by: str | None = None,
    shares: Shares = Shares(0.15, 0.15),  # noqa: B008  it never changes
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Row numbers of train, val and test, each in the order of the table.

    Args:
        table: With or without a column ``split`` (in any case), which says train, val or test, and is followed if it is there.
        keys: N texts, by which rows are told apart.
        rule: Otherwise: ``random``; ``stratified``, random within each class of the column ``by``; ``group``, rows with the same
            ``by`` stay together; ``time``, the latest rows of ``by`` (numbers, or dates in ISO 8601) test, those before validate.
        by: Name of a column.
        shares: Expected shares of val and test. Those of ``stratified`` and ``time`` are exact up to rounding.
        seed: Of the draw.

    Raises:
        DataError: A part would be empty, or the column of parts, times or groups has a cell that is none.
    """
    named = table.find("split")
    if named is not None and named != by:
        if rule != "random":
            raise DataError(
                f"{table.owner}: {table.source} has a column {named!r}, and task.split={rule} would not be used; leave one of them out"
            )
        parts = _named_parts(table, named)
        remedy = f"write it on some lines, or remove the column {named} to have the split drawn"
    else:
        parts = _drawn_parts(table, keys, rule, by, shares, seed)
        remedy = f"{len(table)} rows are too few to split; add more, or change task.val_share and task.test_share"
    for part, index in parts.items():
        if len(index) == 0:
            raise DataError(f"{table.owner}: {table.source} has no rows in the split {part!r}; {remedy}")
    return parts


def _named_parts(table: TextTable, name: str) -> dict[str, np.ndarray]:
    cells = [cell.lower() for cell in table.cells(name)]
    for cell in dict.fromkeys(cells):
        if cell not in PARTS:
            raise table.error(cells.index(cell), f"{name} must be train, val or test, got {cell!r}")
    return {part: np.array([row for row, cell in enumerate(cells) if cell == part], np.int64) for part in PARTS}


def _drawn_parts(
    table: TextTable, keys: Sequence[str], rule: SplitRule, by: str | None, shares: Shares, seed: int
) -> dict[str, np.ndarray]:
    column = [""] * len(table)
    if rule != "random":
        if by is None:
            raise DataError(f"{table.owner}: task.split={rule} needs the name of a column: task.split_by=...")
        name = table.column(by)
        if rule == "time":
            return _by_rank(_times(table, name), np.zeros(len(table), np.int64), shares)
        column = table.cells(name)
    if rule == "group":
        for row, cell in enumerate(column):
            if is_missing(cell, MISSING):
                raise table.error(
                    row, f"{by} is empty, so the row is in no group; write one, a name of its own if it is alone"
                )
        keys = column
    places = _places(keys, seed)
    if rule == "stratified":
        strata = np.unique(np.array(column), return_inverse=True)[1]
        return _by_rank(-places, strata, shares)
    return _by_place(places, shares)


def _by_place(places: np.ndarray, shares: Shares) -> dict[str, np.ndarray]:
    """Parts by thresholds of ``places``; at least half of what is expected in each."""
    own, inverse = np.unique(places, return_inverse=True)
    least = [math.ceil(share * len(own) / 2) for share in shares]
    val = max(int((own < shares.val).sum()), least[0])
    test = max(int((own < sum(shares)).sum()), val + least[1])
    return _cut(inverse, val, test)


def _by_rank(order: np.ndarray, strata: np.ndarray, shares: Shares) -> dict[str, np.ndarray]:
    """In each stratum, the largest of ``order`` test, and those before validate."""
    parts: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        _, inverse, counts = np.unique(-order[rows], return_inverse=True, return_counts=True)
        before = np.cumsum(counts) - counts  # rows of a larger order
        val, test = (math.floor(share * len(rows) + 0.5) for share in shares)
        cut = _cut(before[inverse], test, test + val)
        for part, inside in zip(("test", "val", "train"), (cut["val"], cut["test"], cut["train"]), strict=True):
            parts[part].append(rows[inside])
    return {part: np.sort(np.concatenate(pieces or [np.empty(0, np.int64)])) for part, pieces in parts.items()}


def _cut(ranks: np.ndarray, first: int, second: int) -> dict[str, np.ndarray]:
    """Ranks below ``first`` validate, those below ``second`` test."""
    val, test = ranks < first, (ranks >= first) & (ranks < second)
    return {"train": np.flatnonzero(ranks >= second), "val": np.flatnonzero(val), "test": np.flatnonzero(test)}


def _places(keys: Sequence[str], seed: int) -> np.ndarray:
    """(N,) numbers in [0, 1), a hash of each key and the seed."""
    start = hashlib.blake2b(f"{seed}\0".encode(), digest_size=8)
    found: dict[str, int] = {}
    for key in keys:
        if key not in found:
            own = start.copy()
            own.update(key.encode("utf-8", "surrogatepass"))
            found[key] = int.from_bytes(own.digest(), "big") >> 11  # 53 bits, as many as a float64 holds
    return np.fromiter((found[key] for key in keys), np.float64, len(keys)) / (1 << 53)


def _times(table: TextTable, name: str) -> np.ndarray:
    """(N,) numbers that grow with time."""
    if table.are_numbers(name):
        times = table.numbers(name)
        if np.isnan(times).any():
            raise table.error(int(np.isnan(times).argmax()), f"{name} is empty, so the row has no time; fill it in")
        return times
    cells = table.cells(name)
    seconds: dict[str, float] = {}
    for cell in dict.fromkeys(cells):
        found = moment(cell)
        if found is None:
            form = "a number or a date such as 2026-11-28 or 2026-11-28 19:30"
            raise table.error(cells.index(cell), f"{cell!r} is no {name}, which must be {form}")
        since = found.replace(tzinfo=None) - (found.utcoffset() or timedelta()) - datetime.min
        seconds[cell] = since.total_seconds()
    return np.array([seconds[cell] for cell in cells])


# ---- fingerprints ------------------------------------------------------------------------------------------------------


def row_keys(table: TextTable, names: Sequence[str]) -> list[str]:
    """The cells of these columns, a text for each row."""
    return ["\0".join(cells) for cells in table.rows(names)]


def fingerprint(table: TextTable, names: Sequence[str], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What tells whether these columns of a table have changed, as JSON can hold it.

    ``rows``, their number; ``columns``, a hash of each; ``blocks``, hashes of pieces of ``size`` rows. It is the same for
    another delimiter, encoding, file name, or order of columns.

    Args:
        table: The table.
        names: Its columns, in this order.
        like: Another fingerprint: of only as many rows, in pieces as long.
    """
    rows = len(table) if like is None else min(like["rows"], len(table))
    size = max(math.ceil(rows / _BLOCKS), 1) if like is None else like["size"]
    blocks = [hashlib.blake2b(digest_size=4) for _ in range(0, rows, size)]
    columns = {}
    for name in names:
        cells, whole = table.cells(name)[:rows], hashlib.blake2b(digest_size=8)
        for number, block in enumerate(blocks):
            text = "\0".join([*cells[number * size : (number + 1) * size], ""]).encode("utf-8", "surrogatepass")
            whole.update(text)
            block.update(text)
        columns[name] = whole.hexdigest()
    return {"rows": rows, "columns": columns, "size": size, "blocks": [block.hexdigest() for block in blocks]}


def difference(table: TextTable, names: Sequence[str], known: Mapping[str, Any]) -> str:
    """How the table differs from the fingerprint ``known``, in words; "" if it does not.

    Raises DataError if ``known`` is no fingerprint.
    """
    _check_fingerprint(table, known)
    now = fingerprint(table, names, like=known)
    then, rows = known["rows"], len(table)
    gone = [name for name in known["columns"] if name not in now["columns"]]
    new = [name for name in now["columns"] if name not in known["columns"]]
    if gone or new:
        changes = [*(f"without the column {name!r}" for name in gone), *(f"with the column {name!r}" for name in new)]
        return "now " + " and ".join(changes)
    same = now["columns"] == known["columns"]
    if rows == then and same:
        return ""
    counted = f"{then} rows then, {rows} now" if rows != then else f"{rows} rows as before"
    if rows > then and same:
        return f"{counted}: {rows - then} added at the end, from {table.place(then)} on"
    pairs = zip(now["blocks"], known["blocks"], strict=False)
    first = next((number for number, (a, b) in enumerate(pairs) if a != b), len(now["blocks"]) - 1)
    start, end = first * known["size"], min((first + 1) * known["size"], rows) - 1
    if start > end:
        return f"{counted}: the last are gone"
    where = table.place(start) if start == end else f"{table.place(start)} to {table.place(end)}"
    changed = [name for name, digest in now["columns"].items() if digest != known["columns"][name]]
    columns = f" in {', '.join(map(repr, changed))}" if len(changed) < len(names) else ""
    return f"{counted}: the first difference{columns} is in {where}"


def _check_fingerprint(table: TextTable, known: Any) -> None:
    kinds = {"rows": int, "size": int, "columns": Mapping, "blocks": Sequence}
    fits = isinstance(known, Mapping) and all(isinstance(known.get(key), kind) for key, kind in kinds.items())
    if not fits or known["rows"] < 0 or known["size"] < 1:
        raise DataError(
            f"{table.owner}: what the run knows of {table.source} is damaged; restore its folder, or train anew"
        )


def check_unchanged(table: TextTable, names: Sequence[str], known: Mapping[str, Any], another: bool = True) -> None:
    """Raise DataError with the difference if these columns have changed.

    ``another``: the task can be tested on another table, which the message says.
    """
    change = difference(table, names, known)
    if change:
        hint = "; scripts/evaluate.py run=... task.csv=... tests on another table" if another else ""
        raise DataError(
            f"{table.owner}: {table.source} has changed since training ({change}); restore it, or train anew{hint}"
        )


def kept_fingerprint(table: TextTable, known: Mapping[str, Any] | None, another: bool = True) -> dict[str, Any]:
    """The fingerprint that a run keeps of a table: ``known``, or a new one if that is ``None``.

    Raises DataError as :func:`check_unchanged` does.
    """
    names = sorted(table.columns)
    if known is None:
        return fingerprint(table, names)
    check_unchanged(table, names, known, another)
    return dict(known)
