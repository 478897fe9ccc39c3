"""Rows of printed tables as trainings: options of each method, and printed results.

A recipe in lab/recipes that has ``published`` is a protocol, and a row of the tables is that protocol with a balancer:

    published:
      tables: [nyuv2_segnet, nyuv2_segnet_rerun]   # of published_tables.json; the first has the single-task row
      statistic: delta-m                           # against that row; delta-p: positive is better, a mean over objectives
      tolerance: 2                                 # of the statistic, on either side of what the tables print
      spread: 10                                   # of a single result, the same, in percent of the single-task row
      single: [model=dense_segnet, model.original=true, "model.maps=[$objective]"]   # trains an objective alone; without it, there are no such rows
      rows:                                        # balancer: what it is called in the tables, and its options
        sum: {prints: [LS, EW]}
        nash_mtl: {prints: [Nash-MTL], max_norm: 1}

Where two tables print different values for a method, what lies between them is expected too. A row may hold a statistic
itself (``delta-m: 4.15``), which counts as one more table that prints nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from lab.reproductions.published_tables import read
from lab.results import read_yaml
from tasks.celeba import ATTRIBUTES
from tasks.results import ResultKey, objectives_of, with_split, without_split
from tasks.scores import delta_m


@dataclass(frozen=True)
class Baseline:
    """The single-task row of a protocol, and the statistic that is relative to it.

    Attributes:
        statistic: ``delta-m`` or ``delta-p``.
        values: ``<objective>/<metric>`` -> value.
        higher: The same -> whether higher is better.
    """

    statistic: str
    values: dict[str, float]
    higher: dict[str, bool]

    def compare(self, values: Mapping[str, float]) -> float:
        """The statistic of these results."""
        chosen = {name: values[name] for name in self.values}
        if self.statistic == "delta-m":
            return delta_m(chosen, self.values, self.higher)
        return -delta_m(chosen, self.values, self.higher, "objectives")


@dataclass(frozen=True)
class Row:
    """A training of a protocol, and what is printed of it.

    Attributes:
        name: Recipe and balancer.
        overrides: Of the command line.
        expected: Result -> value and tolerance.
        baseline: What its results are relative to; ``None`` for an objective alone.
    """

    name: str
    overrides: tuple[str, ...]
    expected: dict[str, tuple[float, float]]
    baseline: Baseline | None

    def complete(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of a run, and the statistic."""
        if self.baseline is None:
            return dict(metrics)
        return {**metrics, self.baseline.statistic: self.baseline.compare(without_split(metrics))}


def published_rows(recipe: str, config: Sequence[str], published: Mapping[str, Any]) -> list[Row]:
    """The rows of a recipe.

    Args:
        recipe: Its name.
        config: Overrides of all rows.
        published: As above.

    Raises:
        ValueError: It is not as above; the message names the key.
    """
    missing = {"tables", "statistic", "tolerance", "spread", "rows"} - set(published)
    if missing:
        raise ValueError(f"published: needs {', '.join(sorted(missing))}")
    known, statistic = read(), published["statistic"]
    unknown = set(published["tables"]) - set(known)
    if unknown:
        raise ValueError(f"published.tables: there is no table {', '.join(sorted(unknown))}")
    if statistic not in ("delta-m", "delta-p"):
        raise ValueError(f"published.statistic: must be delta-m or delta-p, got {statistic!r}")
    tables = [known[name] for name in published["tables"]]
    columns = tables[0]["columns"]
    higher = {_results()[column][0]: better == "higher" for column, better in columns.items()}
    baseline = Baseline(statistic, _in_own_units(columns, tables[0]["baseline"]), higher)
    spreads = {name: published["spread"] / 100 * abs(value) for name, value in baseline.values.items()}
    rows = []
    for balancer, row in published["rows"].items():
        printed: list[dict[str, float]] = []
        for table in tables:
            for method in set(row.get("prints", ())) & set(table["rows"]):
                values = _in_own_units(columns, table["rows"][method])
                score = table["printed"].get(statistic, {}).get(method, baseline.compare(values))
                printed.append(with_split(values, "test") | {statistic: score})
        printed += [{statistic: row[statistic]}] if statistic in row else []
        if not printed:
            raise ValueError(f"published.rows: tables print nothing of {balancer}, and it says no {statistic} itself")
        tolerances = with_split(spreads, "test") | {statistic: published["tolerance"]}
        expected = {key: _around([each[key] for each in printed if key in each], tolerances[key]) for key in printed[0]}
        options = {key: value for key, value in row.items() if key not in ("prints", statistic)}
        overrides = (*config, f"balancer={balancer}", *map(_override, options, options.values()))
        rows.append(Row(f"{recipe}_{balancer}", overrides, expected, baseline))
    for objective in objectives_of(baseline.values) if "single" in published else ():
        alone = [Template(each).substitute(objective=objective) for each in published["single"]]
        overrides = (*config, "balancer=single", f"balancer.objective={objective}", *alone)
        own = [name for name in baseline.values if ResultKey.parse(name).objective == objective]
        expected = with_split({name: (baseline.values[name], spreads[name]) for name in own}, "test")
        rows.append(Row(f"{recipe}_single_{objective}", overrides, expected, None))
    return rows


@cache
def _results() -> dict[str, tuple[str, float]]:
    """Column, such as the number of an attribute of CelebA -> result, and its unit in print."""
    numbered = {f"attribute {k}/F1": (f"{name}/f1", 1.0) for k, name in enumerate(ATTRIBUTES, start=1)}
    return read_yaml(Path(__file__).with_suffix(".yaml")) | numbered


def _in_own_units(columns: Sequence[str] | Mapping[str, str], row: Sequence[float]) -> dict[str, float]:
    results = [_results()[column] for column in columns]
    return {name: value / unit for (name, unit), value in zip(results, row, strict=True)}


def _override(key: str, value: Any) -> str:
    """An option of the balancer, or of another section where the key names it."""
    shown = value if isinstance(value, str) else json.dumps(value)
    return f"{key if '.' in key else f'balancer.{key}'}={shown}"


def _around(values: Sequence[float], tolerance: float) -> tuple[float, float]:
    """The middle of the values, and half their range plus the tolerance."""
    return (min(values) + max(values)) / 2, (max(values) - min(values)) / 2 + tolerance
