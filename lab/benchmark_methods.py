"""Every method on every task, tuned alike, against the static weights of a sweep.

python lab/benchmark_methods.py                 # everything: two nights on two cores
python lab/benchmark_methods.py diamonds        # one study
python lab/benchmark_methods.py --collect       # only write results/ and the page again, from finished runs

A study is one model on one task, in sizes small enough for two cores. lab/study_plan.py says which runs it is made of, and
lab/studies.yaml what the settings are. Then steps are timed, each next to a plain one, and their memory is measured: leave the
machine alone meanwhile.

Runs are kept in outputs/methods/, so an interrupted command goes on where it stopped. Rows that results/ hold already are not run
again if their command is that of today; --collect writes those of a study that is not finished, too, so that it can go on on
another machine. lab/method_tables.py makes tables and figures of what is written here:
results/methods_<study>.csv and results/methods_<study>_cost.csv.
"""

from __future__ import annotations

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
from lab import command, documents, method_tables, published_order, results, studies, which
from lab.autoscale import MEASURED
from lab.jobs import run_missing
from lab.studies import AUTOSCALE, STUDIES, Trial
from lab.study_plan import Plan
from lab.timing import peak_bytes, timed
from mozoo import tools
from mozoo.tracking import read_rows

FIRST = ("setting", "lr", "seed", "chosen", "val delta-m")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write tables, figures and the page."""
    parser = command.parser(__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    options = command.parse(parser, arguments, "study", STUDIES)
    # train and time everything before any tracked file changes, so that each row names the commit it belongs to
    plans = {name: run(name, 0 if options.collect else options.processes) for name in options.names}
    costs = {
        name: measure_cost(plan)
        for name, plan in plans.items()
        if not plan.missing and not (options.collect and studies.cost_file(name).is_file())
    }
    for name, plan in plans.items():
        write_runs(plan)
        if plan.missing:
            if options.names == list(STUDIES):
                continue  # of all studies, those that are finished
            first = plan.missing[0].training.folder
            sys.exit(f"error: {len(plan.missing)} runs are missing, such as {first}; run without --collect")
        if name in costs:
            results.write_rows(studies.cost_file(name), costs[name])
        results.write_figures(method_tables.figures(name) | method_tables.weight_figures(name))
    documents.write("benchmark_methods", method_tables.BLOCKS)
    documents.write("which", which.BLOCKS)
    documents.write("published_order", published_order.BLOCKS)


def run(name: str, processes: int) -> Plan:
    """The plan of a study after its runs; as far as it is finished with 0 processes."""
    rows: dict[Trial, dict[str, Any]] = {}

    def row(trial: Trial) -> dict[str, Any] | None:
        if trial not in rows:
            found = trial.row()
            if found is None:
                return None
            rows[trial] = found
        return rows[trial]

    while True:
        plan = Plan(name, STUDIES[name], row)
        if not plan.missing or not processes:
            return plan
        for problem in run_missing(plan.missing, processes).values():
            raise problem


def write_runs(plan: Plan) -> None:
    """A row per run; of a plan that is not finished also those that it may need."""
    file, trials, written = studies.runs_file(plan.name), dict(plan.needed), []
    if plan.missing:
        trials |= dict.fromkeys(Trial(plan.name, *key) for key in studies.recorded(file))
    chosen = plan.chosen
    for trial in trials:
        row = plan.rows(trial)
        if row is None:
            continue
        delta = studies.outcome(row, plan.study, plan.reference).delta
        found = {**row, "chosen": int(trial in chosen)}
        found["val delta-m"] = "" if trial.label.startswith("only ") or math.isinf(delta) else f"{delta:.6g}"
        written.append({key: found.get(key, "") for key in [*FIRST, *studies.columns(plan.study)]})
    if written:
        results.write_rows(file, written)
        studies.recorded.cache_clear()


# ---- cost ------------------------------------------------------------------------------------------------------------


def measure_cost(plan: Plan) -> list[dict[str, Any]]:
    """Time of a step and its peak of memory, relative to ``sum``.

    What was measured before stays as it is.
    The time of ``autoscale`` is that of a whole training with its first phase.
    """
    name, study = plan.name, plan.study
    known = (
        {row["setting"]: row for row in read_rows(studies.cost_file(name))} if studies.cost_file(name).is_file() else {}
    )
    lacking = [method for method in study.timed if method not in known]
    if lacking:
        known |= {row["setting"]: row for row in _measure(plan, lacking)}
    return [known[method] for method in study.timed]


def _measure(plan: Plan, methods: Sequence[str], rounds: int = 20) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    steps = {method: one_step(plan.name, method) for method in dict.fromkeys(["sum", *methods])}
    ratios: dict[str, list[float]] = {method: [] for method in methods}
    for turn in range(rounds):
        for method in methods:
            # each goes first in half of the rounds, as the second of two finds warm caches
            pair = [steps["sum"], steps[method]] if turn % 2 else [steps[method], steps["sum"]]
            (first, _), (second, _) = map(timed, pair)
            ratios[method].append(second / first if turn % 2 else first / second)
    peaks = {method: peak_bytes(step) for method, step in steps.items()}
    times = {method: statistics.median(ratios[method]) for method in methods}
    if AUTOSCALE in times and plan.study.phase is not None:
        row = plan.rows(Trial(plan.name, "sum", plan.rates["sum"], plan.study.seeds[0]))
        assert row is not None  # the plan is finished
        measured = min(MEASURED, plan.study.phase)
        times[AUTOSCALE] = 1 + (plan.study.phase + measured * (times[AUTOSCALE] - 1)) / int(row["steps"])
    return [
        {
            "setting": method,
            "time": f"{times[method]:.4g}",
            "peak bytes": peaks[method],
            "memory": f"{peaks[method] / peaks['sum']:.4g}",
            **results.environment("cpu (1 thread)"),
        }
        for method in methods
    ]


def one_step(name: str, method: str) -> Callable[[], None]:
    """A training step on the first batch of a study, after three to warm up.

    Of ``autoscale`` a measured one of its first phase.
    """
    measured = ("balancer=sum", "trainer.measure_conflicts=1")
    balancer = measured if method == AUTOSCALE else STUDIES[name].overrides(method)
    run = train.build(mozoo.compose((*STUDIES[name].common, *balancer, "trainer.num_threads=1", "trainer.device=cpu")))
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
