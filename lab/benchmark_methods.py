"""Every method on every task, tuned alike: is a balancer better than weights found by a sweep?

python lab/benchmark_methods.py                 # everything: an evening on two cores
python lab/benchmark_methods.py diamonds        # one study
python lab/benchmark_methods.py --collect       # only write results/ and the page again, from finished runs

A study is one model on one task, in sizes small enough for two cores. Each method, each point of a sweep of static weights
and each objective alone is trained with the same three learning rates. The rate with the best delta-m on the validation split
at seed 0 (of an objective alone: the lowest loss, or what else chooses epochs) is trained with all other seeds. Then steps are timed, each next to a plain
one, and their memory is measured: leave the machine alone meanwhile.

Runs are kept in outputs/methods/, so an interrupted command goes on where it stopped. lab/method_tables.py makes tables
and figures of what is written here: results/methods_<study>.csv and results/methods_<study>_cost.csv.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from balancing import BalancingError  # noqa: E402
from engine.tracking import read_rows  # noqa: E402
from lab.pool import work_through  # noqa: E402
from lab.tables import RESULTS, is_finished, train_quietly  # noqa: E402
from tasks.results import ResultKey  # noqa: E402
from tasks.scores import delta_m  # noqa: E402

OUTPUTS = ROOT / "outputs" / "methods"
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
    common: tuple[str, ...]
    objectives: tuple[str, ...]
    metrics: Mapping[str, tuple[str, int]]
    rates: tuple[float, float, float] = (4e-3, 1.6e-2, 6.4e-2)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    alone: Mapping[str, tuple[str, ...]] | None = None

    def settings(self) -> dict[str, tuple[str, ...]]:
        """Label -> overrides of all that is compared: methods, points of the sweep, objectives alone."""
        found: dict[str, tuple[str, ...]] = {name: (f"balancer={name}",) for name in METHODS}
        for point in sweep(len(self.objectives)):
            values = ", ".join(f"{name}: {value:g}" for name, value in zip(self.objectives, point, strict=True))
            found[f"fixed {' '.join(f'{value:g}' for value in point)}"] = (
                "balancer=fixed",
                f"balancer.values={{{values}}}",
            )
        if self.alone is None:
            for name in self.objectives:
                rule = f"trainer.monitor={ResultKey(name, 'loss', 'val')}"
                found[f"only {name}"] = ("balancer=single", f"balancer.objective={name}", rule)
        else:
            found |= {f"only {name}": overrides for name, overrides in self.alone.items()}
        return found


_DIAMONDS = {
    "cut accuracy": ("test/cut/accuracy", 4),
    "price R2": ("test/price/r2", 4),
    "price error, USD": ("test/price/mae_usd", 1),
}
STUDIES = {
    "diamonds": Study("8 epochs instead of 30", ("trainer.epochs=8",), ("cut", "price"), _DIAMONDS),
    "diamonds_usd": Study(
        "8 epochs instead of 30", ("experiment=diamonds_usd", "trainer.epochs=8"), ("cut", "price"), _DIAMONDS
    ),
    "two_view_fashion": Study(
        "150 steps instead of 4 epochs",
        ("model=dual_sum", "trainer.max_steps=150", "trainer.channels_last=true"),
        ("fused", "left", "right"),
        {
            "fused accuracy": ("test/fused/accuracy", 4),
            "left alone": ("test/left/accuracy", 4),
            "right alone": ("test/right/accuracy", 4),
        },
        rates=(8e-3, 3.2e-2, 1.28e-1),
    ),
    "multi_fashion": Study(
        "1 epoch of 60,000 pairs instead of 4 of 120,000",
        ("model=shared_trunk_lenet", "task.copies=1", "trainer.epochs=1", "trainer.channels_last=true"),
        ("top_left", "bottom_right"),
        {
            "top left accuracy": ("test/top_left/accuracy", 4),
            "bottom right accuracy": ("test/bottom_right/accuracy", 4),
        },
    ),
    "compressed_fashion": Study(
        "60 steps instead of 5 epochs",
        ("model=chained", "trainer.max_steps=60", "trainer.channels_last=true"),
        ("image", "class"),
        {"accuracy": ("test/class/accuracy", 4), "PSNR, dB": ("test/image/psnr", 2)},
        rates=(8e-3, 3.2e-2, 1.28e-1),
    ),
    "rooms": Study(
        "384 rooms of 48 x 64 pixels instead of 3,700 of 96 x 128, batches of 16 instead of 8",
        ("model=dense_resnet18", "task.height=48", "task.width=64", "task.train=384", "trainer.batch_size=16"),
        ("segmentation", "depth", "normals"),
        {
            "mIoU": ("test/segmentation/miou", 4),
            "depth error, m": ("test/depth/abs_err", 4),
            "normals, mean degrees": ("test/normals/mean", 2),
        },
        rates=(2e-3, 8e-3, 3.2e-2),
    ),
    "fashion_gan": Study(
        "200 steps instead of 8 epochs",
        ("model=gan", "trainer.max_steps=200"),
        ("adversarial", "fake_class"),
        {
            "share of a Gaussian's Frechet distance": ("test/samples/frechet_share", 3),
            "class accuracy": ("test/samples/class_accuracy", 3),
        },
        rates=(3e-3, 9e-3, 2.7e-2),
        seeds=tuple(range(10)),  # they differ more than those of other studies
        alone={"adversarial": ("balancer=fixed", "balancer.values={adversarial: 1, fake_class: 0}")},
    ),
}


#: Headings of results that are better when lower.
ERRORS = ("price error, USD", "depth error, m", "normals, mean degrees", "share of a Gaussian's Frechet distance")


def sweep(objectives: int) -> list[tuple[float, ...]]:
    """Static weights of mean 1: nine evenly spread for two objectives, twelve random ones for more."""
    if objectives == 2:
        return [(round(2 * w, 3), round(2 - 2 * w, 3)) for w in np.linspace(0.1, 0.9, 9)]
    # RandomState, unlike Generator, draws the same numbers in every NumPy version
    points = objectives * np.random.RandomState(0).dirichlet([1.0] * objectives, size=12)
    return [tuple(round(float(value), 3) for value in point) for point in points]


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    study: str
    label: str
    rate: float
    seed: int

    @property
    def folder(self) -> Path:
        """Where it leaves its files."""
        return OUTPUTS / self.study / f"{self.label.replace(' ', '_')}-lr{self.rate:g}-seed{self.seed}"

    @property
    def overrides(self) -> list[str]:
        """What ``train.py`` is told."""
        study = STUDIES[self.study]
        return [*study.common, *study.settings()[self.label], f"optimizer.lr={self.rate:g}", f"seed={self.seed}"]

    @property
    def diverged(self) -> Path:
        """The file that says why it came to no end."""
        return self.folder / "diverged.txt"

    @property
    def finished(self) -> bool:
        """Whether it need not be run again."""
        return is_finished(self.folder, self.overrides) or self.diverged.is_file()

    def summary(self) -> dict[str, Any]:
        """What came out; nothing if it diverged."""
        if self.diverged.is_file():
            return {}
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return found

    def validation(self) -> dict[str, float]:
        """Heading -> result of the validation split in the chosen epoch; not a number if the run diverged."""
        summary = self.summary()
        rows = read_rows(self.folder / "metrics.csv") if summary else []
        chosen = [row for row in rows if row["split"] == "val" and int(row["epoch"]) == summary["best_epoch"]]
        keys = {heading: ResultKey.parse(key) for heading, (key, _) in STUDIES[self.study].metrics.items()}
        return {heading: float(chosen[0][key.name]) if chosen else math.nan for heading, key in keys.items()}

    def delta(self, reference: Mapping[str, float]) -> float:
        """delta-m of the validation split in percent; the lower the better."""
        found = delta_m(self.validation(), reference, directions(self.study))
        return math.inf if math.isnan(found) else found

    def score(self) -> float:
        """By which an epoch was chosen; the lower the better."""
        score = float(self.summary().get("score", math.inf))
        return math.inf if math.isnan(score) else score


def trials(name: str) -> list[Job]:
    """Every setting with every learning rate, first seed."""
    study = STUDIES[name]
    return [Job(name, label, rate, study.seeds[0]) for label in study.settings() for rate in study.rates]


def directions(name: str) -> dict[str, bool]:
    """Heading -> whether higher is better."""
    return {heading: heading not in ERRORS for heading in STUDIES[name].metrics}


def baseline(name: str, results: Callable[[str], Mapping[str, float]]) -> dict[str, float]:
    """What delta-m is relative to: each result of the model trained for it alone; those of ``sum`` where none can be.

    Args:
        name: Of the study.
        results: Setting -> heading -> value.
    """
    study = STUDIES[name]
    if study.alone is not None:
        return dict(results("sum"))
    alone = {heading: f"only {ResultKey.parse(key).objective}" for heading, (key, _) in study.metrics.items()}
    return {heading: results(label)[heading] for heading, label in alone.items()}


def repeats(name: str) -> list[Job]:
    """Every setting with its best learning rate, all seeds. Needs all trials."""
    study = STUDIES[name]
    jobs = {label: list(group) for label, group in itertools.groupby(trials(name), key=lambda job: job.label)}
    reference = baseline(name, lambda label: min(jobs[label], key=Job.score).validation())

    def worth(job: Job) -> float:
        return job.score() if job.label.startswith("only ") else job.delta(reference)

    rates = {label: min(each, key=worth).rate for label, each in jobs.items()}
    return [Job(name, label, rate, seed) for label, rate in rates.items() for seed in study.seeds]


def run(job: Job) -> None:
    """Train in a worker process."""
    try:
        train_quietly(job.folder, job.overrides, threads=1)
        shutil.rmtree(job.folder / "best")  # weights of all runs would be tens of gigabytes, and nobody reads them
        (job.folder / "last.pt").unlink()
    except (FloatingPointError, BalancingError) as error:  # a result, too
        job.diverged.parent.mkdir(parents=True, exist_ok=True)
        job.diverged.write_text(f"{error}\n", encoding="utf-8")


def run_all(jobs: Sequence[Job], processes: int) -> None:
    """Train what is missing. Raises what a run raised, once all others are finished."""
    missing = {str(job.folder.relative_to(OUTPUTS)): partial(run, job) for job in jobs if not job.finished}
    for problem in work_through(missing, processes).values():
        raise problem


def write_runs(name: str) -> None:
    """A row per run."""
    study, rows = STUDIES[name], []
    chosen = repeats(name)
    first = {job.label: job for job in reversed(chosen)}
    reference = baseline(name, lambda label: first[label].validation())
    for job in dict.fromkeys([*trials(name), *chosen]):
        summary = job.summary()
        rows.append(
            {
                "setting": job.label,
                "lr": f"{job.rate:g}",
                "seed": job.seed,
                "chosen": int(job in chosen),
                "val delta-m": "" if job.label.startswith("only ") else f"{job.delta(reference):.6g}",
                **{heading: f"{result(summary, key):.6g}" for heading, (key, _) in study.metrics.items()},
                **{key: summary.get(key) for key in ("steps", "seconds", "device", "git")},
                "torch": summary.get("versions", {}).get("torch"),
                "command": f"python train.py {' '.join(map(quote, job.overrides))}",
            }
        )
    write(RESULTS / f"methods_{name}.csv", rows)


def result(summary: Mapping[str, Any], key: str) -> float:
    """A test result; not a number if the run diverged."""
    return float(summary.get("metrics", {}).get(key, math.nan))


def quote(override: str) -> str:
    """For a shell."""
    return f"'{override}'" if " " in override else override


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """As CSV."""
    RESULTS.mkdir(exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# ---- cost ------------------------------------------------------------------------------------------------------------


def measure_cost(name: str, rounds: int = 20) -> None:
    """Seconds of a step relative to one of ``sum`` next to it, and the most that it holds in memory, relative to ``sum``."""
    import torch

    import engine
    import train
    from engine.environment import git_commit
    from lab.benchmark_balancers import peak_of

    study = STUDIES[name]
    torch.set_num_threads(1)
    steps = {}
    for method in METHODS:
        overrides = [*study.common, f"balancer={method}", "trainer.num_threads=1", "trainer.device=cpu"]
        current = train.build(engine.compose(overrides))
        batch = next(iter(engine.epoch_batches(current, 0, 0)))
        current.model.train()

        def step(current: Any = current, batch: Any = batch) -> None:
            train.train_step(current, batch)
            current.state.step += 1

        for _ in range(3):
            step()
        steps[method] = step
    ratios: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(rounds):
        for method, step in steps.items():
            # each goes first in half of the rounds, as the second of two finds warm caches
            pair = [steps["sum"], step] if turn % 2 else [step, steps["sum"]]
            first, second = map(timed, pair)
            ratios[method].append(second / first if turn % 2 else first / second)
    peaks = {method: peak_of(step) for method, step in steps.items()}
    rows = [
        {
            "setting": method,
            "time": f"{statistics.median(ratios[method]):.4g}",
            "peak bytes": peaks[method],
            "memory": f"{peaks[method] / peaks['sum']:.4g}",
            "device": "cpu (1 thread)",
            "torch": torch.__version__,
            "git": git_commit(),
        }
        for method in METHODS
    ]
    write(RESULTS / f"methods_{name}_cost.csv", rows)


def timed(step: Callable[[], None]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


# ---- the command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write tables, figures and the page."""
    from lab import method_tables

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(STUDIES)}; default: all")
    parser.add_argument("--collect", action="store_true", help="do not train, only collect finished runs")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in STUDIES:
            parser.error(f"unknown study {name!r}; choose from {', '.join(STUDIES)}")
    for name in options.names or list(STUDIES):
        if not options.collect:
            run_all(trials(name), options.processes)
            run_all(repeats(name), options.processes)
        missing = [job for job in trials(name) if not job.finished]
        missing = missing or [job for job in repeats(name) if not job.finished]
        if missing:
            sys.exit(f"error: {len(missing)} runs are missing, such as {missing[0].folder}; run without --collect")
        write_runs(name)
        if not options.collect or not (RESULTS / f"methods_{name}_cost.csv").is_file():
            measure_cost(name)
        method_tables.draw(name)
    method_tables.fill_in()


if __name__ == "__main__":
    main()
