"""Studies: which model on which task, and the runs that compare methods there.

A run is a setting (a method, a point of a sweep of static weights, or an objective alone) with a learning rate and a seed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from balancing import BalancingError
from lab import results
from lab.autoscale import equal_lengths, first_phase
from lab.grids import Point, weight_grid
from lab.jobs import Training
from mozoo.tracking import read_rows
from tasks.results import ResultKey
from tasks.scores import delta_m

METHODS = (
    *("sum", "uncertainty", "realtime", "dwa", "gradnorm", "famo"),
    *("pcgrad", "mgda", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad", "grad_normalize"),
)
#: The setting whose static weights come from gradients of a short first phase; not a balancer.
AUTOSCALE = "autoscale"
#: Overrides of recorded commands that have another name today.
RENAMED = {"trainer.select=": "trainer.monitor="}


@dataclass(frozen=True)
class Study:
    """A model on a task.

    Args:
        size: What is smaller than by default, in words.
        common: Overrides of every run.
        objectives: Those that weights are swept over.
        metrics: Heading -> test result and digits. The first of each objective are the axes of its figure.
        prior: Objective -> loss of the best constant prediction on the training labels, which static weights are divided by.
            None where a task has none: then weights are not divided.
        rates: The first grid of learning rates.
        alone: Overrides that train one objective of several; by default ``balancer=single``. Empty: the reference is ``sum``.
        methods: Names of balancers.
        options: Further overrides of some of them, such as the optimizer that a method is made for.
        phase: Steps of the first phase of ``autoscale``; None leaves it out.
        swept: Whether static weights are swept; if not, the rival is ``sum``.
    """

    size: str
    common: Sequence[str]
    objectives: Sequence[str]
    metrics: Mapping[str, tuple[str, int]]
    prior: Mapping[str, float] | None = None
    rates: Sequence[float] = (4e-3, 1.6e-2, 6.4e-2)
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    alone: Mapping[str, Sequence[str]] | None = None
    methods: Sequence[str] = METHODS
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    phase: int | None = None
    swept: bool = True

    @property
    def middle(self) -> str | None:
        """Label of the sweep's middle, the inverse prior losses; None where that is ``sum``."""
        differ = any(loss != 1 for loss in (self.prior or {}).values())
        return static((1.0,) * len(self.objectives)) if self.swept and differ else None

    @property
    def compared(self) -> list[str]:
        """Labels of methods, of ``autoscale`` and of the sweep's middle."""
        return [*self.timed, *([self.middle] if self.middle else [])]

    @property
    def timed(self) -> list[str]:
        """Labels of settings whose steps are timed; static weights cost as much as ``sum``."""
        return [*self.methods, *([AUTOSCALE] if self.phase else [])]

    @property
    def references(self) -> list[str]:
        """Labels of the settings that delta-m is relative to."""
        if self.alone is not None:
            return ["sum"]
        return list(dict.fromkeys(f"only {ResultKey.parse(key).objective}" for key, _ in self.metrics.values()))

    def settings(self) -> dict[str, Sequence[str]]:
        """Label -> overrides, of all but the points that a sweep may grow by."""
        labels = self.timed
        labels += [static(point) for point in weight_grid(len(self.objectives))] if self.swept else []
        alone = self.objectives if self.alone is None else self.alone
        return {label: self.overrides(label) for label in [*labels, *(f"only {name}" for name in alone)]}

    def overrides(self, label: str) -> Sequence[str]:
        """Of ``train.py``, for a setting; weights of ``autoscale`` are found in each run."""
        if label.startswith("static "):
            prior = self.prior or dict.fromkeys(self.objectives, 1.0)
            return fixed({name: v / prior[name] for name, v in zip(self.objectives, values(label), strict=True)})
        if label.startswith("only "):
            name = label.removeprefix("only ")
            single = ("balancer=single", f"balancer.objective={name}", f"trainer.monitor=val/{name}/loss")
            return single if self.alone is None else self.alone[name]
        return ("balancer=fixed",) if label == AUTOSCALE else (f"balancer={label}", *self.options.get(label, ()))


STUDIES = {name: Study(**study) for name, study in results.read_yaml(Path(__file__).with_suffix(".yaml")).items()}
#: Metrics that are better when lower.
ERRORS = ("mae", "mae_usd", "abs_err", "mean", "frechet_share", "relative_l2")


def fixed(weights: Mapping[str, float]) -> tuple[str, str]:
    """Overrides of static weights."""
    content = ", ".join(f"{name}: {value:.6g}" for name, value in weights.items())
    return "balancer=fixed", f"balancer.values={{{content}}}"


def static(point: Point) -> str:
    """Label of a point of the sweep."""
    return f"static {' '.join(f'{value:.4g}' for value in point)}"


def values(label: str) -> Point:
    """Inverse of :func:`static`."""
    return tuple(float(value) for value in label.removeprefix("static ").split())


@cache
def recorded(file: Path) -> dict[tuple[str, float, int], dict[str, str]]:
    """(setting, rate, seed) -> the row in results/ of an earlier session."""
    rows = read_rows(file) if file.is_file() else []
    return {(row["setting"], float(row["lr"]), int(row["seed"])): row for row in rows}


def runs_file(name: str) -> Path:
    """The CSV file with a row per run of a study."""
    return results.RESULTS / f"methods_{name}.csv"


def cost_file(name: str) -> Path:
    """The CSV file with the cost of a step of each method."""
    return results.RESULTS / f"methods_{name}_cost.csv"


def columns(study: Study) -> list[str]:
    """Of the CSV file, after setting, rate, seed and what was chosen."""
    validated = ["val score", *(f"val {heading}" for heading in study.metrics)]
    return [*study.metrics, *validated, "steps", "seconds", "device", "git", "torch", "command"]


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
        """The run of ``train.py``; of ``autoscale`` with weights if its first phase is finished."""
        study, phase = STUDIES[self.study], self.phase
        overrides = study.overrides(self.label)
        if phase is not None and phase.finished:
            overrides = fixed(equal_lengths(phase.folder / "balance.csv", study.objectives))
        setting = (*study.common, *overrides, f"optimizer.lr={self.rate:g}", f"seed={self.seed}")
        return Training(results.OUTPUTS / "methods" / self.name, setting)

    @property
    def phase(self) -> Training | None:
        """The first phase of ``autoscale``."""
        study = STUDIES[self.study]
        if self.label != AUTOSCALE or study.phase is None:
            return None
        folder = results.OUTPUTS / "methods" / f"{self.name}-phase"
        common = (*study.common, f"optimizer.lr={self.rate:g}", f"seed={self.seed}")
        return Training(folder, (*common, *first_phase(study.phase)))

    @property
    def diverged(self) -> Path:
        """The file that holds the error of a run that diverged."""
        return self.training.folder / "diverged.txt"

    @property
    def finished(self) -> bool:
        """Whether it need not be run again, as its folder is there."""
        if self.diverged.is_file():
            return True
        return (self.phase is None or self.phase.finished) and self.training.finished

    def run(self) -> None:
        """Train in a worker process."""
        folder = self.training.folder
        try:
            if self.phase is not None:
                _train(self.phase)
            _train(self.training)  # whose weights the first phase has given
        except (FloatingPointError, BalancingError) as error:  # a result, too
            folder.mkdir(parents=True, exist_ok=True)
            self.diverged.write_text(f"{error}\n", encoding="utf-8")

    def recorded_row(self) -> dict[str, Any] | None:
        """The row in results/, unless it lacks a score that is needed.

        The reference of delta-m needs one, and so does an objective alone, for the first seed. ``sum`` needs all validation
        results, as it is judged next to the chosen point of the sweep.
        """
        study = STUDIES[self.study]
        row = recorded(runs_file(self.study)).get((self.label, self.rate, self.seed))
        scored = self.seed == study.seeds[0] and (self.label.startswith("only ") or self.label in study.references)
        if row is None or (scored and not row.get("val score")):
            return None
        return None if self.label == "sum" and study.swept and not validation(row, study) else dict(row)

    def row(self) -> dict[str, Any] | None:
        """What results/ keep of it, but for the choices; ``None`` if it has yet to be run.

        A row of an earlier session counts if its command is that of today; of ``autoscale`` always, as the command holds weights
        that only a run knows.
        """
        row = self.recorded_row()
        if row is not None and (self.label == AUTOSCALE or _today(row["command"]) == self.training.command):
            return {**row, "command": _today(row["command"])}
        return self.fresh_row() if self.finished else None

    def fresh_row(self) -> dict[str, Any]:
        """Of the run folder."""
        study = STUDIES[self.study]
        summary = {} if self.diverged.is_file() else self.training.summary()
        metrics = summary.get("metrics", {})
        rows = read_rows(self.training.folder / "metrics.csv") if summary else []
        chosen = [row for row in rows if row["split"] == "val" and int(row["epoch"]) == summary["best_epoch"]]
        keys = {heading: ResultKey.parse(key) for heading, (key, _) in study.metrics.items()}
        validation = {heading: float(chosen[0][key.name]) if chosen else math.nan for heading, key in keys.items()}
        return {
            "setting": self.label,
            "lr": f"{self.rate:g}",
            "seed": self.seed,
            **{heading: f"{metrics.get(key, math.nan):.6g}" for heading, (key, _) in study.metrics.items()},
            "val score": f"{float(summary.get('score', math.nan)):.6g}",
            **{f"val {heading}": f"{value:.6g}" for heading, value in validation.items()},
            **{key: summary.get(key) for key in ("steps", "seconds", "device", "git")},
            "torch": summary.get("versions", {}).get("torch"),
            "command": self.training.command,
        }


def _train(training: Training) -> None:
    """Train, unless that is done, and delete the weights.

    Those of all runs would take tens of gigabytes.
    """
    if not training.finished:
        training.run()
        shutil.rmtree(training.folder / "best")
        (training.folder / "last.pt").unlink()


def _today(command: str) -> str:
    for old, new in RENAMED.items():
        command = command.replace(old, new)
    return command


@dataclass(frozen=True)
class Outcome:
    """What validation says of a run.

    Attributes:
        delta: delta-m of the validation split in percent; the lower the better.
        score: By which an epoch was chosen; the lower the better.
    """

    delta: float
    score: float


def validation(row: Mapping[str, Any], study: Study) -> dict[str, float]:
    """Heading -> validation result of a row; empty for one that was recorded without."""
    found = {heading: row.get(f"val {heading}", "") for heading in study.metrics}
    return {} if "" in found.values() else {heading: float(value) for heading, value in found.items()}


def diverged(row: Mapping[str, Any], study: Study) -> bool:
    """Whether a run has no results.

    One that was recorded without some, such as its score, has others.
    """
    names = [name for heading in study.metrics for name in (heading, f"val {heading}")]
    return any(math.isnan(float(row[name])) for name in names if row.get(name))


def outcome(row: Mapping[str, Any], study: Study, reference: Mapping[str, float]) -> Outcome:
    """Of a row; its delta-m is the recorded one where its validation results are not."""
    found = validation(row, study)
    delta = (
        delta_m(found, reference, directions(study)) if found and reference else float(row.get("val delta-m") or "nan")
    )
    score = float(row.get("val score") or "nan")
    return Outcome(*(math.inf if math.isnan(value) else value for value in (delta, score)))


def directions(study: Study) -> dict[str, bool]:
    """Heading -> whether higher is better."""
    return {heading: ResultKey.parse(key).metric not in ERRORS for heading, (key, _) in study.metrics.items()}


def baseline(study: Study, results: Callable[[str], Mapping[str, float]]) -> dict[str, float]:
    """Reference of delta-m: models of one objective, or ``sum`` where there are none.

    Args:
        study: Of which.
        results: Setting -> heading -> value.
    """
    if study.alone is not None:
        return dict(results("sum"))
    alone = {heading: f"only {ResultKey.parse(key).objective}" for heading, (key, _) in study.metrics.items()}
    return {heading: results(label)[heading] for heading, label in alone.items()}
