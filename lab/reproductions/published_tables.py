"""Delta-m, delta-p and mean rank, computed again from the rows of published tables.

``published_tables.json`` holds numbers as printed, with their source. Rows are rounded, so what follows from them is too: a
deviation is absolute for values below 1 and relative to larger ones. ``SLIPS`` are the cells that do not follow from their
own row by more than that; they are counted apart. Signs and averages are the papers': delta-m, negative is better, a mean
over metrics; delta-p, positive is better, a mean over objectives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.scores import delta_m, mean_rank

DATA = Path(__file__).with_suffix(".json")
#: Table -> statistic -> the largest deviation that rounding explains.
ROUNDING = {
    "nyuv2_segnet": {"delta-m": 0.01, "mean rank, Nash-MTL": 0.12, "mean rank, FAMO": 0.01},
    "nyuv2_segnet_rerun": {"delta-m": 0.01},
    "cityscapes_segnet": {"delta-m": 0.02, "mean rank, Nash-MTL": 0.1, "mean rank, FAMO": 0.1},
    "qm9": {"delta-m": 0.005, "mean rank, Nash-MTL": 0.05, "mean rank, FAMO": 0.01},
    "nyuv2_resnet50": {"delta-p": 0.015},
    "cityscapes_resnet50": {"delta-p": 0.1},
    "qm9_libmtl": {"delta-p": 0.01},
    "office31": {"delta-p": 0.02},
    "office_home": {"delta-p": 0.02},
    "celeba": {"delta-m": 0.005},
}


@dataclass(frozen=True)
class Cell:
    """A printed number, and what its table makes of it."""

    table: str
    statistic: str
    method: str
    printed: float
    computed: float

    @property
    def deviation(self) -> float:
        """Absolute, and relative above 1."""
        return abs(self.computed - self.printed) / max(1.0, abs(self.printed))

    @property
    def slip(self) -> bool:
        """Whether rounding does not explain it."""
        return self.deviation > ROUNDING[self.table][self.statistic]


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
            computed = mean_rank({method: rows[method] for method in ranked(printed, rows)}, higher)
        elif statistic == "delta-m":
            computed = {method: delta_m(rows[method], baseline, higher) for method in printed}
        else:
            computed = {method: -delta_m(rows[method], baseline, higher, "objectives") for method in printed}
        result += [Cell(name, statistic, method, value, computed[method]) for method, value in printed.items()]
    return result


def ranked(printed: Mapping[str, float], rows: Mapping[str, object]) -> list[str]:
    """Methods with a printed rank, and equal weights, whose cell is misprinted in one table."""
    return [method for method in rows if method in printed or method == "LS"]


def slips() -> list[Cell]:
    """All cells that do not follow from their own row."""
    return [cell for name in ROUNDING for cell in cells(name) if cell.slip]


def run(seed: int, folder: Path) -> dict[str, float]:
    """How many printed numbers follow from their rows, per table and statistic."""
    counts = {}
    for name in ROUNDING:
        for statistic in ROUNDING[name]:
            chosen = [cell for cell in cells(name) if cell.statistic == statistic]
            counts[f"{name}: {statistic} as printed, of {len(chosen)}"] = float(sum(not cell.slip for cell in chosen))
    return counts


RUNS = {"published_tables": run}
