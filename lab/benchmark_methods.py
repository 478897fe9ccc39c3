"""Every method on every task, tuned alike, against the static weights of a sweep.

python lab/benchmark_methods.py                 # everything: an evening on two cores
python lab/benchmark_methods.py diamonds        # one study
python lab/benchmark_methods.py --collect       # only write results/ and the page again, from finished runs

A study is one model on one task, in sizes small enough for two cores. Each method, each point of a sweep of static weights
and each objective alone is trained with the same three learning rates. The rate with the best delta-m on the validation split
at seed 0 (of an objective alone: the lowest loss, or what else chooses epochs) is trained with all other seeds. Then steps are
timed, each next to a plain one, and their memory is measured: leave the machine alone meanwhile.

Runs are kept in outputs/methods/, so an interrupted command goes on where it stopped. lab/method_tables.py makes tables
and figures of what is written here: results/methods_<study>.csv and results/methods_<study>_cost.csv.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mozoo
import train
from lab import command, documents, method_tables, results
from lab.jobs import run_missing
from lab.studies import METHODS, STUDIES, Trial, baseline, trials
from lab.timing import peak_bytes, timed
from mozoo import tools


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write tables, figures and the page."""
    parser = command.parser(__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    options = command.parse(parser, arguments, "study", STUDIES)
    for name in options.names:
        for jobs in (trials, repeats):  # the rates of all others are chosen by the trials
            if not options.collect:
                for problem in run_missing(jobs(name), options.processes).values():
                    raise problem
            missing = [job for job in jobs(name) if not job.finished]
            if missing:
                first = missing[0].training.folder
                sys.exit(f"error: {len(missing)} runs are missing, such as {first}; run without --collect")
        if not options.collect or not method_tables.cost_file(name).is_file():
            results.write_rows(method_tables.cost_file(name), measure_cost(name))
        write_runs(name)
        results.write_figures(method_tables.figures(name) | method_tables.weight_figures(name))
    documents.write("benchmark_methods", method_tables.BLOCKS)


def repeats(name: str) -> list[Trial]:
    """Every setting with its best learning rate, all seeds. Needs all trials."""
    study = STUDIES[name]
    jobs = {label: list(group) for label, group in itertools.groupby(trials(name), key=lambda job: job.label)}
    reference = baseline(name, lambda label: min(jobs[label], key=Trial.score).validation())

    def worth(job: Trial) -> float:
        return job.score() if job.label.startswith("only ") else job.delta(reference)

    rates = {label: min(each, key=worth).rate for label, each in jobs.items()}
    return [Trial(name, label, rate, seed) for label, rate in rates.items() for seed in study.seeds]


def write_runs(name: str) -> None:
    """A row per run."""
    study, rows = STUDIES[name], []
    chosen = repeats(name)
    first = {job.label: job for job in reversed(chosen)}
    reference = baseline(name, lambda label: first[label].validation())
    for job in dict.fromkeys([*trials(name), *chosen]):
        summary = job.summary()
        metrics = summary.get("metrics", {})  # none if the run diverged
        rows.append(
            {
                "setting": job.label,
                "lr": f"{job.rate:g}",
                "seed": job.seed,
                "chosen": int(job in chosen),
                "val delta-m": "" if job.label.startswith("only ") else f"{job.delta(reference):.6g}",
                **{heading: f"{metrics.get(key, math.nan):.6g}" for heading, (key, _) in study.metrics.items()},
                **{key: summary.get(key) for key in ("steps", "seconds", "device", "git")},
                "torch": summary.get("versions", {}).get("torch"),
                "command": job.training.command,
            }
        )
    results.write_rows(method_tables.runs_file(name), rows)


# ---- cost ------------------------------------------------------------------------------------------------------------


def measure_cost(name: str, rounds: int = 20) -> list[dict[str, Any]]:
    """Time of a step and its peak of memory, relative to ``sum``."""
    torch.set_num_threads(1)
    steps = {method: one_step(name, method) for method in METHODS}
    ratios: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(rounds):
        for method, step in steps.items():
            # each goes first in half of the rounds, as the second of two finds warm caches
            pair = [steps["sum"], step] if turn % 2 else [step, steps["sum"]]
            (first, _), (second, _) = map(timed, pair)
            ratios[method].append(second / first if turn % 2 else first / second)
    peaks = {method: peak_bytes(step) for method, step in steps.items()}
    return [
        {
            "setting": method,
            "time": f"{statistics.median(ratios[method]):.4g}",
            "peak bytes": peaks[method],
            "memory": f"{peaks[method] / peaks['sum']:.4g}",
            **results.environment("cpu (1 thread)"),
        }
        for method in METHODS
    ]


def one_step(name: str, method: str) -> Callable[[], None]:
    """A training step on the first batch of a study, after three to warm up."""
    overrides = (*STUDIES[name].common, f"balancer={method}", "trainer.num_threads=1", "trainer.device=cpu")
    run = train.build(mozoo.compose(overrides))
    batch = next(iter(tools.epoch_batches(run, 0, 0)))
    run.model.train()

    def step() -> None:
        train.train_step(run, batch)
        run.state.step += 1

    for _ in range(3):
        step()
    return step


if __name__ == "__main__":
    main()
