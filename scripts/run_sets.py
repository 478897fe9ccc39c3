"""Finished runs, in sets that differ in nothing but the seed, and what can be said about a set."""

from __future__ import annotations

import glob
import importlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.errors import HydraException
from omegaconf import OmegaConf

from engine.arguments import ConfigError
from engine.config import compose, saved_config
from tasks import create_task

__all__ = [
    *("ComparisonError", "Estimate", "FinishedRun", "RunSet"),
    *("directions", "estimate", "find_runs", "group", "is_training_of"),
]

# what does not change what is learned
_IGNORED = (
    *("seed", "tier", "source", "expected", "published", "run_dir", "resume", "data_dir", "imports", "logger."),
    *("task.download", "trainer.device", "trainer.num_threads"),
    *("trainer.num_workers", "trainer.log_every", "trainer.dry_run", "trainer.save_every", "trainer.profile"),
)


class ComparisonError(ValueError):
    """Runs that cannot be compared; the message says what to do."""


@dataclass(frozen=True)
class FinishedRun:
    """A run folder, its ``summary.json`` and its configuration with dotted keys."""

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Test results, ``<objective>/<metric>``; not a number where the run has none."""
        found = self.summary["metrics"].items()
        return {name.removeprefix("test/"): math.nan if value is None else value for name, value in found}

    def result(self, name: str) -> float:
        """One of them."""
        return self.metrics.get(name, math.nan)

    @property
    def seconds_per_step(self) -> float:
        """Training time only."""
        return self.summary["seconds"] / max(self.summary["steps"], 1)


@dataclass(frozen=True)
class Estimate:
    """Mean over runs, and half the width of its 95 % interval; ``None`` for one run."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return "-"
        if self.half is None:
            return f"{self.mean:.4g}"
        # as many digits as the interval leaves meaningful: two of its own
        digits = 4 if self.half == 0 else min(max(1 - math.floor(math.log10(self.half)), 0), 6)
        return self.text(digits)

    def text(self, digits: int) -> str:
        """With this many digits after the point, without a minus before 0."""
        mean = f"{round(self.mean, digits) + 0.0:,.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:,.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with Student's interval over independent runs."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return Estimate(mean, None)
    return Estimate(mean, student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)))


def student_t(freedom: int, probability: float = 0.95) -> float:
    """The t within which, on both sides of 0, ``probability`` of Student's distribution lies.

    The share within t has a closed form in the angle ``atan(t / sqrt(freedom))`` (Abramowitz and Stegun, 26.7.3 and 26.7.4),
    which is inverted by bisection.
    """

    def share(angle: float) -> float:
        odd = freedom % 2
        term = total = 1.0
        if freedom == 1:
            return 2 * angle / math.pi
        for k in range(2 + odd, freedom - 1, 2):
            term *= (k - 1) / k * math.cos(angle) ** 2
            total += term
        if odd:
            return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
        return math.sin(angle) * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


@dataclass(frozen=True)
class RunSet:
    """Runs of one model, task and balancer with the same options: its seeds.

    Attributes:
        label: What tells it from the other sets of its section; options with their default are not named.
        model: Name in the registry.
        balancer: Name in the registry.
        options: Dotted keys in which the sets of this model differ.
        runs: One for each seed, the newest.
        repeated: Older runs of the same seeds, which would make intervals too narrow.
    """

    label: str
    model: str
    balancer: str
    options: Mapping[str, Any]
    runs: tuple[FinishedRun, ...]
    repeated: tuple[Path, ...] = ()

    def estimate(self, of: Callable[[FinishedRun], float]) -> Estimate:
        """Of a number that each run has."""
        return estimate([of(run) for run in self.runs])

    def means(self, names: Iterable[str]) -> dict[str, float]:
        """Mean test results."""
        return {name: statistics.fmean(run.result(name) for run in self.runs) for name in names}

    @property
    def seconds(self) -> float:
        """Of a step."""
        return statistics.fmean(run.seconds_per_step for run in self.runs)


def is_training_of(run: Path, overrides: Sequence[str]) -> bool:
    """Whether the configuration of the run in a folder is what these overrides give, but for what changes no result."""
    if not (run / "config.yaml").is_file():
        return False
    return _decisive(_saved(run)) == _wanted(tuple(overrides))


def _saved(run: Path) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    return cast(dict[str, Any], OmegaConf.to_container(saved_config(content)))


@cache
def _wanted(overrides: tuple[str, ...]) -> dict[str, Any]:
    return _decisive(asdict(compose(overrides)))


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _flat(config).items() if key == "seed" or not key.startswith(_IGNORED)}


def find_runs(places: Sequence[str]) -> tuple[list[FinishedRun], list[Path]]:
    """Finished runs in folders, and anywhere below them, and the folders of runs that are not finished.

    Raises:
        ComparisonError: A place that does not exist, or nothing finished in all of them.
    """
    folders: dict[Path, None] = {}
    for place in places:
        matches = [Path(match) for match in sorted(glob.glob(place))]
        if not matches:
            raise ComparisonError(
                f"there is no {place}; give run folders, or folders that contain some, such as outputs"
            )
        for match in matches:
            start = match.parent if match.is_file() else match
            folders |= dict.fromkeys(sorted(file.parent.resolve() for file in start.rglob("summary.json")))
    if not folders:
        raise ComparisonError(
            f"no summary.json in {', '.join(places)}; a run writes it at its end, and python train.py makes a run"
        )
    finished, others = [], []
    for folder in folders:
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            config = _saved(folder)
            status = summary["status"]
        except (OSError, ValueError, KeyError) as error:
            raise ComparisonError(f"{folder} cannot be read as a run ({error}); leave it out") from None
        if status == "finished":
            finished.append(FinishedRun(folder, summary, _flat(config)))
        else:
            others.append(folder)
    if not finished:
        raise ComparisonError(f"none of {len(others)} runs is finished; go on with: python train.py resume={others[0]}")
    return finished, others


def group(runs: Sequence[FinishedRun]) -> dict[str, list[RunSet]]:
    """Run sets by task; a task with other options, such as another target, is another problem."""
    sections: dict[str, list[FinishedRun]] = {}
    for name in sorted({run.summary["task"] for run in runs}):
        same = [run for run in runs if run.summary["task"] == name]
        keys = _differing(same, lambda key: key.startswith("task."))
        for run in same:
            sections.setdefault(_named(name, _values(run, keys)), []).append(run)
    return {title: _sets(members) for title, members in sections.items()}


def directions(runs: Sequence[FinishedRun]) -> dict[str, bool]:
    """Test results of these runs -> whether higher is better, as their task says."""
    config = runs[0].config
    for module in config.get("imports", []):
        importlib.import_module(module)
    arguments = {key.removeprefix("task."): value for key, value in config.items() if key.startswith("task.")}
    try:
        known = create_task(**arguments).results()
    except Exception as error:  # whatever a task of someone else may raise
        raise ComparisonError(
            f"task {arguments['name']!r} of {runs[0].folder} cannot say which results are better when higher ({error})"
        ) from None
    names = {name for run in runs for name in run.metrics}
    return {name: known[name] for name in known if name in names}


def _sets(runs: Sequence[FinishedRun]) -> list[RunSet]:
    """Sets of one task; options count where they differ between runs of one model, those of a balancer within it."""
    models = {run.summary["model"] for run in runs}
    found: dict[tuple[str, str, str], tuple[dict[str, Any], list[FinishedRun]]] = {}
    for run in runs:
        model, balancer = run.summary["model"], run.summary["balancer"]
        peers = [other for other in runs if other.summary["model"] == model]
        own = [other for other in peers if other.summary["balancer"] == balancer]
        keys = _differing(peers, lambda key: not key.startswith(("task.", "balancer.")))
        keys += _differing(own, lambda key: key.startswith("balancer."))
        name = balancer if len(models) == 1 else f"{model}, {balancer}"
        options = _values(run, keys)
        usual = defaults(model, run.summary["task"], balancer)
        special = {key: value for key, value in options.items() if key not in usual or usual[key] != value}
        key = (model, balancer, _named(name, special))
        found.setdefault(key, (options, []))[1].append(run)
    sets = []
    for (model, balancer, label), (options, members) in sorted(found.items()):
        newest = {run.summary["seed"]: run for run in sorted(members, key=_finished_at)}
        chosen = tuple(newest[seed] for seed in sorted(newest))
        repeated = tuple(run.folder for run in members if run not in chosen)
        sets.append(RunSet(label, model, balancer, options, chosen, repeated))
    return sets


def _finished_at(run: FinishedRun) -> float:
    return (run.folder / "summary.json").stat().st_mtime


def _differing(runs: Sequence[FinishedRun], wanted: Callable[[str], bool]) -> list[str]:
    """Keys with several values. A run from before a key existed has none, and is not different for it."""
    keys = dict.fromkeys(key for run in runs for key in run.config if wanted(key) and not key.startswith(_IGNORED))
    return [key for key in keys if len({repr(run.config[key]) for run in runs if key in run.config}) > 1]


@cache
def defaults(model: str, task: str, balancer: str) -> dict[str, Any]:
    """What the options of a run are if nothing is said; nothing is known of models, tasks and balancers without a YAML file."""
    try:
        return _flat(asdict(compose([f"model={model}", f"task={task}", f"balancer={balancer}"])))
    except (HydraException, ConfigError):
        return {}


def _values(run: FinishedRun, keys: Sequence[str]) -> dict[str, Any]:
    return {key: run.config.get(key) for key in keys}


def _named(name: str, options: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key}={'null' if value is None else value}" for key, value in options.items())
    return f"{name} ({shown})" if shown else name


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their dotted keys; an empty section is a value."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        inner = isinstance(value, Mapping) and len(value) > 0
        found |= _flat(value, f"{prefix}{key}.") if inner else {prefix + str(key): value}
    return found
