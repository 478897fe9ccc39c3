"""Studies: which model on which task, and the runs that compare methods there.

A run is a setting (a method, a point of a sweep of static weights, or an objective alone) with a learning rate and a seed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balancing import BalancingError
from lab import results
from lab.jobs import Training
from mozoo.tracking import read_rows
from tasks.results import ResultKey
from tasks.scores import delta_m

METHODS = (
    *("sum", "uncertainty", "realtime", "dwa", "gradnorm", "famo"),
    *("pcgrad", "mgda", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad"),
)


@dataclass(frozen=True)
class Study:
    """A model on a task.

    Args:
        size: What is smaller than by default, in words.
        common: Overrides of every run.
        objectives: Those that weights are swept over.
        metrics: Heading -> test result and digits. The first of each objective are the axes of its figure.
        rates: Learning rates.
        alone: Overrides that train one objective of several; by default ``balancer=single``.
    """

    size: str
    common: Sequence[str]
    objectives: Sequence[str]
    metrics: Mapping[str, tuple[str, int]]
    rates: Sequence[float] = (4e-3, 1.6e-2, 6.4e-2)
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    alone: Mapping[str, Sequence[str]] | None = None

    def settings(self) -> dict[str, Sequence[str]]:
        """Label -> overrides of methods, points of the sweep, and objectives alone."""
        settings: dict[str, Sequence[str]] = {name: (f"balancer={name}",) for name in METHODS}
        for point in sweep(len(self.objectives)):
            values = ", ".join(f"{name}: {value:g}" for name, value in zip(self.objectives, point, strict=True))
            label = f"fixed {' '.join(f'{value:g}' for value in point)}"
            settings[label] = ("balancer=fixed", f"balancer.values={{{values}}}")
        alone = self.alone or {
            name: ("balancer=single", f"balancer.objective={name}", f"trainer.monitor=val/{name}/loss")
            for name in self.objectives
        }
        return settings | {f"only {name}": overrides for name, overrides in alone.items()}


STUDIES = {name: Study(**study) for name, study in results.read_yaml(Path(__file__).with_suffix(".yaml")).items()}
#: Headings of results that are better when lower.
ERRORS = ("price error, USD", "depth error, m", "normals, mean degrees", "share of a Gaussian's Frechet distance")


def sweep(objectives: int) -> list[tuple[float, ...]]:
    """Static weights of mean 1: nine even ones for two objectives, twelve random ones for more."""
    if objectives == 2:
        return [(round(2 * w, 3), round(2 - 2 * w, 3)) for w in np.linspace(0.1, 0.9, 9)]
    # RandomState, unlike Generator, draws the same numbers in every NumPy version
    points = objectives * np.random.RandomState(0).dirichlet([1.0] * objectives, size=12)
    return [tuple(round(float(value), 3) for value in point) for point in points]


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    study: str
    label: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of the study and of the folder."""
        return f"{self.study}/{self.label.replace(' ', '_')}-lr{self.rate:g}-seed{self.seed}"

    @property
    def training(self) -> Training:
        """The run of ``train.py``."""
        study = STUDIES[self.study]
        setting = (*study.settings()[self.label], f"optimizer.lr={self.rate:g}", f"seed={self.seed}")
        return Training(results.OUTPUTS / "methods" / self.name, (*study.common, *setting))

    @property
    def diverged(self) -> Path:
        """The file that holds the error of a run that diverged."""
        return self.training.folder / "diverged.txt"

    @property
    def finished(self) -> bool:
        """Whether it need not be run again."""
        return self.training.finished or self.diverged.is_file()

    def run(self) -> None:
        """Train in a worker process."""
        folder = self.training.folder
        try:
            self.training.run()
            shutil.rmtree(folder / "best")  # the weights of all runs would take tens of gigabytes, and are not needed
            (folder / "last.pt").unlink()
        except (FloatingPointError, BalancingError) as error:  # a result, too
            folder.mkdir(parents=True, exist_ok=True)
            self.diverged.write_text(f"{error}\n", encoding="utf-8")

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; empty if the run diverged."""
        return {} if self.diverged.is_file() else self.training.summary()

    def validation(self) -> dict[str, float]:
        """Heading -> validation result in the chosen epoch; not a number if the run diverged."""
        summary = self.summary()
        rows = read_rows(self.training.folder / "metrics.csv") if summary else []
        chosen = [row for row in rows if row["split"] == "val" and int(row["epoch"]) == summary["best_epoch"]]
        keys = {heading: ResultKey.parse(key) for heading, (key, _) in STUDIES[self.study].metrics.items()}
        return {heading: float(chosen[0][key.name]) if chosen else math.nan for heading, key in keys.items()}

    def delta(self, reference: Mapping[str, float]) -> float:
        """delta-m of the validation split in percent; the lower the better."""
        value = delta_m(self.validation(), reference, directions(self.study))
        return math.inf if math.isnan(value) else value

    def score(self) -> float:
        """By which an epoch was chosen; the lower the better."""
        score = float(self.summary().get("score", math.inf))
        return math.inf if math.isnan(score) else score


def trials(name: str) -> list[Trial]:
    """Every setting with every learning rate, first seed."""
    study = STUDIES[name]
    return [Trial(name, label, rate, study.seeds[0]) for label in study.settings() for rate in study.rates]


def directions(name: str) -> dict[str, bool]:
    """Heading -> whether higher is better."""
    return {heading: heading not in ERRORS for heading in STUDIES[name].metrics}


def baseline(name: str, results: Callable[[str], Mapping[str, float]]) -> dict[str, float]:
    """Reference of delta-m: models of one objective, or ``sum`` where there are none.

    Args:
        name: Of the study.
        results: Setting -> heading -> value.
    """
    study = STUDIES[name]
    if study.alone is not None:
        return dict(results("sum"))
    alone = {heading: f"only {ResultKey.parse(key).objective}" for heading, (key, _) in study.metrics.items()}
    return {heading: results(label)[heading] for heading, label in alone.items()}
