"""Delta-m, delta-p and mean rank, computed again from the rows of published tables.

``published_tables.json`` holds numbers as printed, with their source. Rows are rounded, so what follows from them is too:
``rounding`` is the largest deviation that this explains, absolute for values below 1 and relative to larger ones. Slips are
cells that deviate more from their own row; they are counted apart. Signs and averages are the papers': delta-m, negative is better, a mean
over metrics; delta-p, positive is better, a mean over objectives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tasks.scores import delta_m, mean_rank

DATA = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Cell:
    """A printed number, and what its table makes of it."""

    table: str
    statistic: str
    method: str
    printed: float
    computed: float
    rounding: float

    @property
    def slip(self) -> bool:
        """Whether rounding does not explain the deviation, which is relative above 1."""
        return abs(self.computed - self.printed) / max(1.0, abs(self.printed)) > self.rounding


def read() -> dict[str, dict]:
    """The tables."""
    tables: dict[str, dict] = json.loads(DATA.read_text(encoding="utf-8"))
    return tables


def cells(name: str) -> list[Cell]:
    """Every printed statistic of a table beside the computed one."""
    table = read()[name]
    higher = {column: better == "higher" for column, better in table["columns"].items()}
    rows = {method: dict(zip(higher, row, strict=True)) for method, row in table["rows"].items()}
    baseline = dict(zip(higher, table["baseline"], strict=True))
    result = []
    for statistic, printed in table["printed"].items():
        if statistic.startswith("mean rank"):
            # and equal weights, whose cell is misprinted in one table
            computed = mean_rank({method: rows[method] for method in rows if method in {"LS", *printed}}, higher)
        elif statistic == "delta-m":
            computed = {method: delta_m(rows[method], baseline, higher) for method in printed}
        else:
            computed = {method: -delta_m(rows[method], baseline, higher, "objectives") for method in printed}
        rounding = table["rounding"][statistic]
        result += [
            Cell(name, statistic, method, value, computed[method], rounding) for method, value in printed.items()
        ]
    return result


def slips() -> list[Cell]:
    """All cells that do not follow from their own row."""
    return [cell for name in read() for cell in cells(name) if cell.slip]


def run(seed: int, folder: Path) -> dict[str, float]:
    """How many printed numbers follow from their rows, per table and statistic."""
    counts = {}
    for name in read():
        for statistic, group in groupby(cells(name), key=lambda cell: cell.statistic):
            chosen = list(group)
            counts[f"{name}: {statistic} as printed, of {len(chosen)}"] = float(sum(not cell.slip for cell in chosen))
    return counts


RUNS = {"published_tables": run}
