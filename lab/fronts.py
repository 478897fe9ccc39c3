"""One network for a whole Pareto front, against a sweep of weights of equal total cost.

python lab/fronts.py                        # everything that is missing (about half an hour on two cores)
python lab/fronts.py diamonds --collect     # only write it again from finished runs

The sweep trains a network for each of five pairs of static weights. The one network, which reads a preference, trains as many epochs
as all of these together, and again only as many as one of them; it is then tested with many preferences. For what the longer
training does by itself, a network with equal weights also trains as long as all of the sweep.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train
from lab import command, documents, results
from lab.figure_style import COLORS, INK
from lab.jobs import Training, run_missing
from mozoo import tools
from mozoo.comparison.estimates import estimate
from mozoo.prediction import best_folder, load_best
from mozoo.run_evaluation import evaluation_config
from mozoo.tracking import read_rows
from tasks.results import ResultKey
from tasks.scores import hypervolume

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the first objective, in the sweep
ASKED = tuple(round(float(share), 3) for share in np.linspace(0.05, 0.95, 19))  # of the one network
SEEDS = (0,)
SWEEP, EQUAL = "sweep", "equal weights, cost of the sweep"
LONG, SHORT = "one network, cost of the sweep", "one network, cost of one run"
PAGE = "docs/conditioned.md"


@dataclass(frozen=True)
class Front:
    """A task with two objectives.

    Args:
        one: Overrides of the network that reads a preference.
        each: Overrides of the networks of the sweep.
        common: Overrides of all.
        objectives: Both.
        epochs: Of each network of the sweep.
    """

    one: Sequence[str]
    each: Sequence[str]
    common: Sequence[str]
    objectives: Sequence[str]
    epochs: int


FRONTS = {name: Front(**front) for name, front in results.read_yaml(Path(__file__).with_suffix(".yaml")).items()}


@dataclass(frozen=True)
class Tested:
    """A training, and its test losses for shares of the first objective in the preference."""

    training: Training
    objectives: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def name(self) -> str:
        """Of the training."""
        return self.training.name

    @property
    def file(self) -> Path:
        """Where the losses are."""
        return self.training.folder / "front.json"

    @property
    def finished(self) -> bool:
        """Whether it is trained and tested with these shares."""
        return self.training.finished and self.file.is_file() and [row[0] for row in self.points()] == [*self.shares]

    def points(self) -> list[list[float]]:
        """Share and both losses of each point."""
        return json.loads(self.file.read_text(encoding="utf-8"))

    def run(self) -> None:
        """Train, unless that is done, and test."""
        if not self.training.finished:
            self.training.run()
        folder = self.training.folder
        job = train.build(evaluation_config(folder, {"trainer.device": "cpu"}))
        load_best(best_folder(folder), job.trained)
        size, points = tools.evaluation_size(job.config), []
        for share in self.shares:
            chosen = dict(zip(self.objectives, (share, 1 - share), strict=True))
            preference = chosen if job.config.balancer["name"] == "preference_sampling" else None
            found = tools.evaluate(
                job.trained, job.task, job.splits, size, job.precision, name="test", preference=preference
            )
            assert found is not None  # it is not to be stopped
            points.append([share, *(found.values[str(ResultKey(o, "loss"))] for o in self.objectives)])
        tools.write_text(self.file, json.dumps(points, allow_nan=False) + "\n")


def jobs(name: str) -> dict[tuple[str, int], list[Tested]]:
    """Setting and seed -> its trainings."""
    front = FRONTS[name]

    def job(overrides: Sequence[str], folder: str, seed: int, shares: Sequence[float]) -> Tested:
        everything = (*overrides, *front.common, "trainer.monitor=last", f"seed={seed}")
        training = Training(results.OUTPUTS / "fronts" / name / f"{folder}-seed{seed}", everything)
        return Tested(training, tuple(front.objectives), tuple(shares))

    def fixed(share: float) -> list[str]:
        weights = dict(zip(front.objectives, (2 * share, 2 - 2 * share), strict=True))
        values = ", ".join(f"{key}: {value:g}" for key, value in weights.items())
        return [*front.each, "balancer=fixed", f"balancer.values={{{values}}}"]

    found: dict[tuple[str, int], list[Tested]] = {}
    for seed in SEEDS:
        found[SWEEP, seed] = []
        for share in SHARES:
            overrides = [*fixed(share), f"trainer.epochs={front.epochs}"]
            found[SWEEP, seed].append(job(overrides, f"fixed-{share:g}", seed, (share,)))
        overrides = [*fixed(0.5), f"trainer.epochs={front.epochs * len(SHARES)}"]
        found[EQUAL, seed] = [job(overrides, "equal", seed, (0.5,))]
        for setting, epochs in ((LONG, front.epochs * len(SHARES)), (SHORT, front.epochs)):
            overrides = [*front.one, f"trainer.epochs={epochs}"]
            found[setting, seed] = [job(overrides, f"one-{epochs}", seed, ASKED)]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write tables, figures and the document."""
    parser = command.parser(__doc__)
    parser.add_argument("--processes", type=int, default=2)
    options = command.parse(parser, arguments, "study", FRONTS)
    if not options.collect:
        every = [job for name in options.names for each in jobs(name).values() for job in each]
        if failures := run_missing(every, options.processes):
            problems = "; ".join(f"{name}: {problem}" for name, problem in failures.items())
            sys.exit(f"error: {problems}; the same command goes on with what is missing")
    for name in options.names:
        if missing := [job.name for each in jobs(name).values() for job in each if not job.finished]:
            sys.exit(f"error: {name} is left as is, for runs are missing, such as {missing[0]}; run without --collect")
        collect(name)
        FIGURES[file_name(name, "svg")](results.RESULTS / file_name(name, "svg"))
    documents.write("fronts", BLOCKS)


def file_name(name: str, kind: str) -> str:
    """Of a file in results/."""
    return f"front_{name}.{kind}"


def collect(name: str) -> None:
    """Write one row per tested point."""
    rows: list[dict[str, Any]] = []
    for (setting, seed), each in jobs(name).items():
        for job in each:
            summary = job.training.summary()
            facts = {"device": summary["device"], "torch": summary["versions"]["torch"], "git": summary["git"]}
            for share, *losses in job.points():
                row = {"setting": setting, "seed": seed, "share": share}
                row |= {f"{o} loss": f"{loss:.6g}" for o, loss in zip(job.objectives, losses, strict=True)}
                row |= {"epochs": summary["epochs"], "seconds": summary["seconds"]}
                rows.append(row | facts | {"command": job.training.command})
    results.write_rows(results.RESULTS / file_name(name, "csv"), rows)


class Points:
    """Test losses of a study, read from its file.

    Attributes:
        values: Setting -> seed -> (N, 2) losses, and (N,) shares.
        epochs: Setting -> epochs of all its networks together.
    """

    def __init__(self, name: str) -> None:
        rows = read_rows(results.RESULTS / file_name(name, "csv"))
        self.columns = [f"{o} loss" for o in FRONTS[name].objectives]
        self.values: dict[str, dict[str, np.ndarray]] = {}
        self.shares: dict[str, np.ndarray] = {}
        self.epochs: dict[str, int] = {}
        for setting in (SWEEP, EQUAL, LONG, SHORT):
            mine = [row for row in rows if row["setting"] == setting]
            seeds = dict.fromkeys(row["seed"] for row in mine)
            by_seed = {seed: [row for row in mine if row["seed"] == seed] for seed in seeds}
            self.values[setting] = {
                seed: np.array([[float(row[column]) for column in self.columns] for row in own])
                for seed, own in by_seed.items()
            }
            self.shares[setting] = np.array([float(row["share"]) for row in next(iter(by_seed.values()))])
            self.epochs[setting] = sum(
                {row["command"]: int(row["epochs"]) for row in next(iter(by_seed.values()))}.values()
            )
        every = np.concatenate([*self.values[SWEEP].values()])
        self.low, self.span = every.min(0), every.max(0) - every.min(0)

    def volumes(self, setting: str) -> list[float]:
        """Hypervolume of each seed.

        0 and 1 are the least and the greatest loss of the sweep, 1.1 is the reference.
        """
        scaled = [(losses - self.low) / self.span for losses in self.values[setting].values()]
        return [hypervolume(points, (1.1, 1.1)) for points in scaled]

    def mean(self, setting: str) -> np.ndarray:
        """(N, 2) losses, means over seeds."""
        return np.mean([*self.values[setting].values()], axis=0)


def markdown(name: str) -> str:
    """Cost, hypervolume and range of each loss, a row per setting."""
    points = Points(name)
    head = ["setting", "networks", "epochs in all", "tested points", "hypervolume"]
    rows = []
    for setting in points.values:
        mean, networks = points.mean(setting), len(SHARES) if setting == SWEEP else 1
        ranges = [f"{low:.4f} to {high:.4f}" for low, high in zip(mean.min(0), mean.max(0), strict=True)]
        volume = estimate(points.volumes(setting))
        rows.append([setting, str(networks), str(points.epochs[setting]), str(len(mean)), f"{volume}", *ranges])
    return documents.table([*head, *(f"{column}, least to greatest" for column in points.columns)], rows)


def draw(name: str) -> Figure:
    """Test losses of the one network along its preferences, and of the sweep; means over seeds."""
    points = Points(name)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    looks: Mapping[str, dict[str, Any]] = {
        LONG: {"color": COLORS[1], "linewidth": 2, "marker": "o", "markersize": 3},
        SHORT: {"color": COLORS[0], "linewidth": 1.5, "linestyle": "--", "marker": "o", "markersize": 3},
        SWEEP: {"color": INK, "linewidth": 0, "marker": "s", "markersize": 6},
        EQUAL: {"color": INK, "linewidth": 0, "marker": "D", "markersize": 7, "markerfacecolor": "none"},
    }
    for setting, look in looks.items():
        x, y = points.mean(setting).T
        axes.plot(x, y, label=setting, **look)
    for share, (x, y) in zip(points.shares[SWEEP], points.mean(SWEEP), strict=True):
        axes.annotate(f"{share:g}", (x, y), (5, 5), textcoords="offset points")
    axes.set_xlabel(f"{points.columns[0]}, test")
    axes.set_ylabel(f"{points.columns[1]}, test")
    axes.grid()
    axes.legend()
    return figure


def _save(name: str, path: Path) -> None:
    results.save_figure(path, f"front_{name}", partial(draw, name))


BLOCKS: documents.Blocks = {PAGE: {f"front_{name}": partial(markdown, name) for name in FRONTS}}
FIGURES: results.Figures = {file_name(name, "svg"): partial(_save, name) for name in FRONTS}


if __name__ == "__main__":
    main()
