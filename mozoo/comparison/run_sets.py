"""Finished runs in sets that differ in nothing but the seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from mozoo.arguments import ConfigError
from mozoo.comparison.runs import IGNORED, FinishedRun
from mozoo.config import compose, flatten


@dataclass(frozen=True)
class RunSet:
    """Runs of one model, task and balancer with the same options: its seeds.

    The label is the balancer, with what else differs between the sets of its section; options with their default are left out.
    """

    label: str
    model: str  # name in the registry
    balancer: str  # name in the registry
    options: Mapping[str, Any]  # dotted keys in which the sets of this model differ
    runs: tuple[FinishedRun, ...]  # one for each seed, the newest
    repeated: tuple[Path, ...] = ()  # older runs of the same seeds, which would make intervals too narrow

    def means(self, names: Iterable[str]) -> dict[str, float]:
        """Mean test results."""
        return {name: statistics.fmean(run.result(name) for run in self.runs) for name in names}

    @property
    def seconds(self) -> float:
        """Mean training time of a step."""
        return statistics.fmean(run.seconds_per_step for run in self.runs)


def group(runs: Sequence[FinishedRun]) -> dict[str, list[RunSet]]:
    """Run sets by task; a task with other options, such as another target, is another problem."""
    sections: dict[str, list[FinishedRun]] = {}
    for name in sorted({run.summary["task"] for run in runs}):
        same = [run for run in runs if run.summary["task"] == name]
        keys = _differing(same, lambda key: key.startswith("task."))
        for run in same:
            sections.setdefault(_named(name, {key: run.config.get(key) for key in keys}), []).append(run)
    return {title: _sets(members) for title, members in sections.items()}


def _sets(runs: Sequence[FinishedRun]) -> list[RunSet]:
    """Sets of one task, by the options that differ between runs of a model, or of a balancer."""
    models = {run.summary["model"] for run in runs}
    members: dict[tuple[str, str, str], tuple[dict[str, Any], list[FinishedRun]]] = {}
    peers = {model: [run for run in runs if run.summary["model"] == model] for model in models}
    general = {
        model: _differing(each, lambda key: not key.startswith(("task.", "balancer."))) for model, each in peers.items()
    }
    own: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        own.setdefault((run.summary["model"], run.summary["balancer"]), []).append(run)
    special_keys = {pair: _differing(each, lambda key: key.startswith("balancer.")) for pair, each in own.items()}
    for run in runs:
        model, balancer = run.summary["model"], run.summary["balancer"]
        name = balancer if len(models) == 1 else f"{model}, {balancer}"
        own_keys = special_keys[model, balancer]
        options = {key: run.config.get(key) for key in [*general[model], *own_keys]}
        # what is not the balancer's has the same defaults with all of them
        usual = _defaults(model, run.summary["task"], balancer if own_keys else "sum") if options else {}
        special = {key: value for key, value in options.items() if usual.get(key) != value}
        key = (model, balancer, _named(name, special))
        members.setdefault(key, (options, []))[1].append(run)
    sets = []
    for (model, balancer, label), (options, repeats) in sorted(members.items()):
        oldest_first = sorted(repeats, key=lambda run: (run.folder / "summary.json").stat().st_mtime)
        newest = {run.summary["seed"]: run for run in oldest_first}
        chosen = tuple(newest[seed] for seed in sorted(newest))
        repeated = tuple(run.folder for run in repeats if run not in chosen)
        sets.append(RunSet(label, model, balancer, options, chosen, repeated))
    return sets


def _differing(runs: Sequence[FinishedRun], wanted: Callable[[str], bool]) -> list[str]:
    """Keys with several values; a run without the key, as of an earlier version, does not count."""
    keys = dict.fromkeys(key for run in runs for key in run.config if wanted(key) and not key.startswith(IGNORED))
    return [key for key in keys if len({repr(run.config.get(key)) for run in runs if _knows(run.config, key)}) > 1]


def _knows(config: Mapping[str, Any], key: str) -> bool:
    """Whether a run has an option; of an entry of a mapping, such as a priority, the mapping."""
    mapping = key.rpartition(".")[0]
    return key in config or (
        "." in mapping and any(name == mapping or name.startswith(f"{mapping}.") for name in config)
    )


@cache
def _defaults(model: str, task: str, balancer: str) -> dict[str, Any]:
    """Options of a run by default; none for models, tasks and balancers without a YAML file."""
    try:
        return flatten(asdict(compose([f"model={model}", f"task={task}", f"balancer={balancer}"])))
    except (HydraException, ConfigError):
        return {}


def _named(name: str, options: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key}={'null' if value is None else value}" for key, value in options.items())
    return f"{name} ({shown})" if shown else name
