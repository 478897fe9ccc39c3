"""Diamonds: how well is a stone cut, and what does it cost?

53,940 stones with nine features and a price (the ggplot2 data, shipped with this package; see data/README.md).

Clean-up: 20 stones with a side of 0 mm and 3 with mistyped sides go (53,917 left); of stones that agree in all eight input
features only the first stays (53,473 left), or the same stone would be trained and tested on. The file is ordered by price
in blocks, so the split is random: 15 % validation, 15 % test, stratified by cut, drawn once and for all with seed 0.

Inputs: 6 standardized sizes and 15 indicators of color and clarity. Objectives: ``cut``, five classes; ``price``, either the
standardized logarithm, or raw dollars, whose squared error starts ten million times larger than the other loss.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.criteria import CrossEntropy, SquaredError
from tasks.metrics import absolute_error, accuracy, macro_f1, r2
from tasks.registry import register_task
from tasks.table_files import TextTable, read_table
from tasks.table_splits import check_unchanged, difference, fingerprint
from tasks.task import DataError, Objective, Splits, Task, TensorData

_SHA256 = "9574730b03aba241d899c4a97511c5061b19358fab89510774fb6c24168345c4"
_NUMBERS = ("carat", "depth", "table", "x", "y", "z")
_CUTS = ("Fair", "Good", "Very Good", "Premium", "Ideal")
_GRADES = {"color": "DEFGHIJ", "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF")}
_CHOICES = {"cut": _CUTS, **_GRADES}
_COLUMNS = (*_NUMBERS, "price", *_CHOICES)
_SHIPPED = "tasks/data/diamonds.csv.xz"
_DAMAGE = (lzma.LZMAError, EOFError)
_MISTYPED = ((8.09, 58.9, 8.06), (5.12, 5.15, 31.8), (5.15, 31.8, 5.12))  # x, y, z


@register_task("diamonds")
class Diamonds(Task):
    """Cut (classification) and price (regression) of a diamond, from size, color and clarity.

    Args:
        target: ``log_price`` (standardized with the training mean and deviation) or ``price_usd`` (raw dollars).
        csv: Another file with the same columns, plain or .xz, instead of the one in the package.
    """

    def __init__(self, target: Literal["log_price", "price_usd"] = "log_price", csv: str | None = None) -> None:
        self.target, self.csv = target, csv
        self.data_source = "the diamonds of ggplot2 (MIT)" if csv is None else ""
        self.info = {"in_features": 21, "classifiers": {"cut": 5}, "regressors": {"price": 1}}
        self.objectives = self._make_objectives(log_mean=0.0, log_std=1.0)

    def _make_objectives(self, log_mean: float, log_std: float) -> tuple[Objective, ...]:
        cut = {"accuracy": accuracy(len(_CUTS)), "macro_f1": macro_f1(len(_CUTS))}
        if self.target == "log_price":
            unit, dollars = "log price, standardised", partial(_dollars, log_mean=log_mean, log_std=log_std)
            price = {"r2": r2(), "r2_usd": r2(dollars), "mae_usd": absolute_error(dollars)}
            regression = Objective("price", SquaredError(unit, complete=True), price, dollars, "USD")
        else:
            price = {"r2": r2(), "mae_usd": absolute_error()}
            regression = Objective("price", SquaredError("price in US dollars", complete=True), price)
        return (Objective("cut", CrossEntropy(_CUTS, complete=True), cut), regression)

    def load(self, data_dir: Path) -> Splits:
        """Read, clean and split the stones of the package; ``data_dir`` is not needed."""
        if self.csv is None:
            return self._splits(read_table(_SHIPPED.removesuffix(".xz"), self.name, _shipped()))
        table = read_table(self.csv, self.name)
        if "table" in self._state:
            check_unchanged(table, _found(table, _COLUMNS), self._state["table"])
        return self._splits(table)

    def labelled(self, path: Path) -> Splits:
        """Stones of another file, scaled as in training, as all three parts.

        The parts of training, if it is the same file in another place.
        """
        table = read_table(path, self.name)
        known = self._state.get("table")
        return self._splits(table, split=known is not None and not difference(table, _found(table, _COLUMNS), known))

    def _splits(self, text: TextTable, split: bool = True) -> Splits:
        source = text.source
        table = _clean(_parse(text, _COLUMNS))
        if split and len(table["cut"]) < 100:
            raise DataError(
                f"diamonds: {source} has {len(table['cut'])} different stones, too few; is the file complete?"
            )
        if not len(table["cut"]):
            raise DataError(f"diamonds: {source} has no stones")
        constant = [name for name, column in table.items() if (column == column[0]).all()]
        if split and constant:
            raise DataError(f"diamonds: {source} has the same {constant[0]} in every row, so there is nothing to learn")
        parts = _split(table["cut"]) if split else (np.arange(len(table["cut"])),) * 3
        train = parts[0]
        sizes, log_price = np.stack([table[name] for name in _NUMBERS], axis=1)[train], np.log(table["price"])
        state = self._state or {
            "mean": sizes.mean(0).tolist(),
            "std": sizes.std(0).tolist(),
            "log_mean": float(log_price[train].mean()),
            "log_std": float(log_price[train].std()),
            **({} if self.csv is None else {"table": fingerprint(text, _found(text, _COLUMNS))}),
        }
        prices = (log_price - state["log_mean"]) / state["log_std"] if self.target == "log_price" else table["price"]
        inputs = _features(table, state)
        targets = {"cut": torch.tensor(table["cut"]), "price": torch.tensor(prices, dtype=torch.float32)[:, None]}

        def part(index: np.ndarray) -> TensorData:
            rows = torch.from_numpy(index)
            return TensorData((inputs[rows],), {name: values[rows] for name, values in targets.items()})

        return Splits(*map(part, parts), state=state, notes=tuple(f"{source}: {note}" for note in text.notes))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over mean and deviation of the training sizes, and of the logarithms of the prices."""
        super().load_state_dict(state)
        self._update_objectives(self._make_objectives(state["log_mean"], state["log_std"]))

    def preprocess(self, path: Path) -> TensorData:
        """Stones of a CSV file with the columns of the data set; cut and price are not read."""
        table = _parse(read_table(path, self.name), (*_NUMBERS, *_GRADES))
        if not len(table["carat"]):
            raise DataError(f"diamonds: {path} has no lines after the header; it needs one for each stone")
        return TensorData((_features(table, self.state_dict()),), {})


def _shipped() -> bytes:
    """The file in the package, unpacked."""
    remedy = "reinstall mozoo, or restore the file from version control"
    try:
        text = lzma.decompress(resources.files("tasks").joinpath("data/diamonds.csv.xz").read_bytes())
    except _DAMAGE as error:
        raise DataError(f"diamonds: {_SHIPPED} is damaged ({error}); {remedy}") from error
    if hashlib.sha256(text).hexdigest() != _SHA256:
        raise DataError(f"diamonds: {_SHIPPED} is damaged (its checksum differs); {remedy}")
    return text


def _features(table: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> Tensor:
    """(N, 21) standardized sizes, and indicators of the grades."""
    sizes = np.stack([table[name] for name in _NUMBERS], axis=1)
    grades = [np.eye(len(values))[table[name]] for name, values in _GRADES.items()]
    standardized = (sizes - np.array(state["mean"])) / np.array(state["std"])
    return torch.tensor(np.concatenate([standardized, *grades], axis=1), dtype=torch.float32)


def _dollars(values: Tensor, log_mean: float, log_std: float) -> Tensor:
    # a wild prediction must not overflow: no stone costs e times the dearest
    return torch.exp((values * log_std + log_mean).clamp(max=11.0))


def _found(table: TextTable, wanted: Sequence[str]) -> list[str]:
    """The table's names of the columns ``wanted``. Raises DataError if one is missing."""
    for name in wanted:
        if table.find(name) is None:
            raise DataError(f"diamonds: {table.source} has no column {name!r}; it needs {', '.join(wanted)}")
    return [table.column(name) for name in wanted]


def _parse(table: TextTable, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns ``wanted``; cut and grades as indices.

    Raises DataError naming the file, the line and the column.
    """
    columns = zip(wanted, _found(table, wanted), strict=True)
    return {name: (_codes if name in _CHOICES else _numbers)(table, name, column) for name, column in columns}


def _codes(table: TextTable, name: str, column: str) -> np.ndarray:
    cells = table.cells(column)
    codes = {value.casefold(): code for code, value in enumerate(_CHOICES[name])}
    found = {cell: codes.get(cell.casefold(), -1) for cell in set(cells)}
    numbers = np.fromiter(map(found.__getitem__, cells), np.int64, len(cells))
    if len(numbers) and numbers.min() < 0:
        row = int(numbers.argmin())
        raise table.error(row, f"{cells[row]!r} is no {name}; choose from {', '.join(_CHOICES[name])}")
    return numbers


def _numbers(table: TextTable, name: str, column: str) -> np.ndarray:
    numbers = table.numbers(column)
    wrong = ~((numbers > 0) | ((name in "xyz") & np.isfinite(numbers)))
    if wrong.any():
        row = int(wrong.argmax())
        raise table.error(row, f"{name} must be a positive number, got {table.cells(column)[row]!r}")
    return numbers


def _clean(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The table without impossible sides and without repeated stones.

    A stone repeats an earlier one if all eight input features are the same.
    """
    sides = np.stack([table[name] for name in "xyz"], axis=1)
    good = (sides > 0).all(1) & ~(sides[:, None] == _MISTYPED).all(2).any(1)
    table = {name: column[good] for name, column in table.items()}
    features = np.stack([table[name] for name in (*_NUMBERS, *_GRADES)], axis=1)
    order = np.lexsort(features.T)  # of equal ones, the first comes first
    first = np.ones(len(order), bool)
    first[1:] = (features[order[1:]] != features[order[:-1]]).any(1)
    keep = np.sort(order[first])
    return {name: column[keep] for name, column in table.items()}


def _split(cut: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of train, val and test: 70 / 15 / 15 %, the same mix of cuts in each."""
    # RandomState, unlike Generator, draws the same numbers in every NumPy version
    order = np.random.RandomState(0).permutation(len(cut))
    members = [order[cut[order] == label] for label in range(len(_CUTS))]
    exact = np.array([0.15 * len(rows) for rows in members])
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact)[: round(0.15 * len(cut)) - counts.sum()]] += 1  # largest remainders
    pieces = zip(*(np.split(rows, [n, 2 * n]) for rows, n in zip(members, counts, strict=True)), strict=True)
    val, test, train = (np.sort(np.concatenate(part)) for part in pieces)
    return train, val, test
