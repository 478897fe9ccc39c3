"""Recipes: trainings in lab/recipes with the results that they should give.

    config: [experiment=diamonds]      # overrides of train.py; the options of the training stand in configs/experiment
    expect:
      seeds: [0, 1, 2]
      tier: cpu                        # quick, cpu or gpu
      source: Someone et al., VENUE 2020, Table 1
      metrics:                         # key of summary.json: [value, tolerance] of the mean over seeds
        test/cut/accuracy: [0.806, 0.006]

A recipe with ``published`` in place of ``metrics`` is many experiments: the rows of printed tables, see published_rows.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mozoo
from lab.jobs import train_quietly
from lab.reproductions.experiment import TIERS, Experiment
from lab.reproductions.published_rows import published_rows
from lab.results import read_yaml
from mozoo.config import CONFIG_DIR

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def read_recipe(file: Path) -> list[Experiment]:
    """The experiments of a recipe. Raises ConfigError with file and key if it is not as above."""
    recipe = read_yaml(file)
    expect: Any = recipe.get("expect") or {}
    metrics, seeds, tier, source = (expect.get(key) for key in ("metrics", "seeds", "tier", "source"))
    rules = {
        "needs config, a list of overrides, and expect": set(recipe) == {"config", "expect"}
        and isinstance(recipe["config"], list),
        "expect.metrics: needs metric: [value, tolerance], with numbers that are finite and a tolerance from 0 on, "
        "or published": bool(metrics) == ("published" not in expect)
        and all(map(is_expectation, (metrics or {}).values())),
        "expect.seeds: needs a list of different whole numbers": isinstance(seeds, list)
        and 0 < len(seeds) == len(set(seeds))
        and all(type(seed) is int for seed in seeds),
        f"expect.tier: must be one of {', '.join(TIERS)}, got {tier!r}": tier in TIERS,
        "expect.source: needs the place where the values stand": isinstance(source, str) and source,
    }
    problems = [problem for problem, holds in rules.items() if not holds]
    try:
        if problems:
            raise ValueError(problems[0])
        config = tuple(recipe["config"])
        rows = published_rows(file.stem, config, expect["published"]) if "published" in expect else []
    except ValueError as error:
        raise mozoo.ConfigError(f"{file.relative_to(file.parent.parent)}: {error}") from None
    options = [
        read_yaml(CONFIG_DIR / "experiment" / f"{name}.yaml")
        for key, _, name in (override.partition("=") for override in config)
        if key == "experiment"
    ]

    def experiment(name: str, expected: Any, overrides: tuple[str, ...], **run: Any) -> Experiment:
        text = json.dumps([overrides, options], sort_keys=True)
        calls = partial(train_recipe, overrides, **run)
        family = file.stem if rows else ""
        return Experiment(name, tier, source, expected, calls, tuple(seeds), text, overrides, family)

    if not rows:
        return [experiment(file.stem, {name: (float(a), float(b)) for name, (a, b) in metrics.items()}, config)]
    return [experiment(row.name, row.expected, row.overrides, complete=row.complete) for row in rows]


def is_expectation(pair: object) -> bool:
    """Whether it is a value and a tolerance."""
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(value, int | float) and math.isfinite(value) for value in pair)
        and pair[1] >= 0
    )


def train_recipe(
    overrides: Sequence[str],
    seed: int,
    folder: Path,
    complete: Callable[[dict[str, float]], dict[str, float]] = lambda metrics: metrics,
) -> dict[str, float]:
    """Completed results of a training, which resumes an earlier attempt."""
    summary = train_quietly(folder / "run", [*overrides, f"seed={seed}"], resume=True)
    if summary["status"] != "finished":
        raise InterruptedError("the run was stopped; the same command goes on with it")
    return complete({key: float(value) for key, value in summary["metrics"].items()})
