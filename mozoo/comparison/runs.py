"""Run folders as they are read again: results, directions and configuration."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mozoo.comparison.settings import compose_alike
from mozoo.config import flatten, read_yaml, saved_content
from mozoo.program import program
from mozoo.words import shell_word
from tasks.file_checks import check_regular
from tasks.results import ResultKey, without_split

#: Options that do not change what is learned: dotted keys, or how they start.
IGNORED = (
    *(
        "seed",
        "tier",
        "source",
        "expected",
        "published",
        "run_dir",
        "resume",
        "data_dir",
        "imports",
        "trust",
        "logger.",
    ),
    *("task.download", "trainer.device", "trainer.num_threads"),
    *("trainer.num_workers", "trainer.log_every", "trainer.dry_run", "trainer.save_every", "trainer.profile"),
    "trainer.watch",
)
_UNFINISHED = "it is not finished"
#: Options that no other depends on: runs that differ in these alone share a configuration.
_PLAIN = {"seed": int, "optimizer.lr": float}
#: Metric -> whether higher is better, for runs of versions that did not write directions.
FORMER_DIRECTIONS = {
    **dict.fromkeys(["accuracy", "class_accuracy", "pixel_accuracy", "f1", "macro_f1", "miou", "psnr", "r2"], True),
    **dict.fromkeys(["r2_usd", "delta1", "delta2", "delta3", "within_11_25", "within_22_5", "within_30"], True),
    **dict.fromkeys(["modes", "high_quality", "smallest_class"], True),
    **dict.fromkeys(["loss", "mae", "mae_usd", "rmse", "abs_err", "rel_err", "mean", "median"], False),
    **dict.fromkeys(["frechet", "frechet_share", "largest_class", "reverse_kl"], False),
}


class ComparisonError(ValueError):
    """Runs that cannot be compared; the message names the remedy."""


@dataclass(frozen=True)
class FinishedRun:
    """A run folder, its ``summary.json`` and its configuration with dotted keys."""

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Test results, ``<objective>/<metric>``; not a number where the run has none."""
        values = without_split(self.summary["metrics"])
        return {name: math.nan if value is None else value for name, value in values.items()}

    def result(self, name: str) -> float:
        """One of them."""
        return self.metrics.get(name, math.nan)

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Test results -> direction. Raises ComparisonError if an earlier version left one open."""
        if "higher_is_better" in self.summary:
            return without_split(self.summary["higher_is_better"])
        unknown = [name for name in self.metrics if ResultKey.parse(name).metric not in FORMER_DIRECTIONS]
        if unknown:
            raise ComparisonError(
                f"{self.folder / 'summary.json'} was written by an earlier version, without directions; add whether higher is "
                f'better: "higher_is_better": {{"test/{unknown[0]}": true, ...}}'
            )
        return {name: FORMER_DIRECTIONS[ResultKey.parse(name).metric] for name in self.metrics}

    @property
    def seconds_per_step(self) -> float:
        """Training time only."""
        return self.summary["seconds"] / max(self.summary["steps"], 1)


def directions(runs: Sequence[FinishedRun]) -> dict[str, bool]:
    """Test results -> whether higher is better, in the order of the run that has most."""
    known = sorted((run.higher_is_better for run in runs), key=len, reverse=True)
    return {name: better for each in known for name, better in each.items()}


def find_runs(places: Sequence[str]) -> tuple[list[FinishedRun], dict[Path, str]]:
    """Finished runs in and below folders, and others: folder -> why it is left out.

    Raises ComparisonError for a place that does not exist, or nothing finished in all of them.
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
            f"no summary.json in {', '.join(places)}; a run writes it at its end, and {program('train')} makes a run"
        )
    finished, others = [], {}
    for folder in folders:
        try:
            check_regular(folder / "summary.json")
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            if summary["status"] == "finished":
                run = FinishedRun(folder, summary, flatten(_saved(folder)))
                _check(run)
                finished.append(run)
            else:
                others[folder] = _UNFINISHED
        except ComparisonError as error:
            others[folder] = str(error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            others[folder] = f"it cannot be read as a run ({reason})"
    if not finished:
        raise ComparisonError(_nothing_finished(others))
    return finished, others


def _nothing_finished(others: Mapping[Path, str]) -> str:
    folder = next((folder for folder, reason in others.items() if reason == _UNFINISHED), None)
    if folder is None:
        folder, reason = next(iter(others.items()))
        return f"none of {len(others)} runs can be compared; {folder}: {reason}"
    return f"none of {len(others)} runs is finished; go on with: {program('train')} {shell_word('resume', folder)}"


def _check(run: FinishedRun) -> None:
    """Raise KeyError, TypeError or ComparisonError if a run cannot be compared."""
    names = [run.summary[key] for key in ("model", "task", "balancer", "device")]
    numbers = [run.summary[key] for key in ("seed", "steps", "seconds", "samples_per_second")]
    values, results = [*numbers, *run.metrics.values()], run.higher_is_better
    if not all(isinstance(name, str) for name in names):
        raise TypeError("model, task, balancer and device must be names")
    if not all(isinstance(value, int | float) for value in values) or not run.metrics:
        raise TypeError("summary.json holds no results")
    if not all(isinstance(higher, bool) for higher in results.values()) or set(results) < set(run.metrics):
        raise TypeError("higher_is_better must hold true or false for each result")


def is_training_of(run: Path, overrides: Sequence[str]) -> bool:
    """Whether a run folder has the configuration of these overrides, but for :data:`IGNORED`.

    Options that are newer than the run have their defaults in it.
    """
    if not (run / "config.yaml").is_file():
        return False
    words = [each.partition("=") for each in overrides]
    plain = {key: _PLAIN[key](value) for key, _, value in words if key in _PLAIN}
    others = tuple(each for each, (key, _, _) in zip(overrides, words, strict=True) if key not in _PLAIN)
    saved, wanted = _decisive(_saved(run)), _composed(others) | plain
    given = tuple(key.lstrip("+") + "." for key, _, _ in words if "." in key)
    newer = {key: wanted[key] for key in wanted.keys() - saved.keys() if not f"{key}.".startswith(given)}
    return saved | newer == wanted


def _saved(run: Path) -> dict[str, Any]:
    return saved_content(read_yaml(run / "config.yaml"))


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return _decisive(asdict(compose_alike(overrides)))


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if key == "seed" or not key.startswith(IGNORED)}
