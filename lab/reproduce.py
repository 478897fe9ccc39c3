"""Reported results, run again: expected values, our values, and whether they agree.

python lab/reproduce.py                      # the quick tier: published toys and tables, minutes on two cores
python lab/reproduce.py --tier cpu           # the trainings that a CPU can do, and longer toys
python lab/reproduce.py fonseca_mgda         # by name, or pattern: "famo_toy_*"
python lab/reproduce.py --list               # everything there is, with its source

A reproduction is a recipe in lab/recipes or a toy in lab/reproductions. Writes
results/reproduced.csv, the figure of the toy and the tables of docs/reproducing.md. Runs are kept in outputs/reproduce, so
that an interrupted command goes on where it stopped. Exit code 1 if a result is outside its tolerance.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import shlex
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mozoo
from lab import command, documents, results
from lab.jobs import run_missing
from lab.reproductions import (
    famo_toy,
    fonseca,
    gradnorm_toy,
    multi_fashion,
    published_tables,
    ring_of_gaussians,
    trajectories,
    uncertainty_toy,
)
from lab.reproductions.experiment import TIERS, Experiment
from lab.reproductions.recipes import RECIPES, read_recipe
from mozoo import tools
from mozoo.arguments import did_you_mean
from mozoo.environment import git_commit, versions

TOYS = (
    *(uncertainty_toy, famo_toy, fonseca, trajectories, published_tables),
    *(gradnorm_toy, multi_fashion, ring_of_gaussians),
)
FILE = "reproduced.csv"
FIELDS = (
    *("experiment", "metric", "expected", "tolerance", "got", "lowest", "highest", "verdict", "seeds", "seconds"),
    *("device", "python", "torch", "numpy", "git", "date", "command"),
)
Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then judge, print and write."""
    parser = command.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments or patterns; default: a whole tier")
    parser.add_argument("--tier", choices=TIERS, default="quick", help="which tier, if nothing is named")
    parser.add_argument("--list", action="store_true", help="print what there is, and run nothing")
    parser.add_argument("--fresh", action="store_true", help="run again what is finished")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    options = parser.parse_args(arguments)
    try:
        known = experiments()
        chosen = choose(known, options.names, options.tier)
    except mozoo.ConfigError as error:
        parser.exit(2, f"error: {error}\n")
    if options.list:
        command.console().print(overview(chosen if options.names else list(known.values())))
        return
    needy = [each.name for each in chosen if each.tier == "gpu"]
    if needy and not torch.cuda.is_available():
        parser.exit(2, f"error: {', '.join(needy)} would take weeks without a GPU, and there is none here\n")
    jobs = [Reproduction(each.name, seed) for each in chosen for seed in each.seeds]
    if options.fresh:
        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
    # run everything before any tracked file changes, so that each run records the commit it belongs to
    failures = run_missing(jobs, 1 if needy else options.processes)  # a GPU is not shared
    rows = [row for each in chosen for row in judge(each)]
    command.console().print(verdicts(rows))
    for name, problem in failures.items():
        print(f"{name} failed: {str(problem) or type(problem).__name__}", file=sys.stderr)
    write(rows)
    if any(row["verdict"] != "reproduced" for row in rows):
        sys.exit(1)


# ---- what there is ---------------------------------------------------------------------------------------------------


@cache
def experiments() -> dict[str, Experiment]:
    """Toys and recipes by name. Raises ConfigError for a recipe with an error."""
    runs = {name: run for module in TOYS for name, run in module.RUNS.items()}
    file = Path(__file__).parent / "reproductions" / "toys.yaml"
    toys = [Experiment(name, run=runs[name], **expect) for name, expect in results.read_yaml(file).items()]
    recipes = [each for file in sorted(RECIPES.glob("*.yaml")) for each in read_recipe(file)]
    return {each.name: each for each in [*toys, *recipes]}


def choose(known: Mapping[str, Experiment], names: Sequence[str], tier: str) -> list[Experiment]:
    """The experiments of these names or patterns, or of the tier.

    Raises ConfigError for a name that fits none.
    """
    chosen = {each.name: each for each in known.values() if each.tier == tier and not names}
    for name in names:
        fitting = fnmatch.filter(known, name)
        if not fitting:
            raise mozoo.ConfigError(f"there is no experiment {name!r}; {did_you_mean(name, list(known))}")
        chosen |= {each: known[each] for each in fitting}
    return list(chosen.values())


# ---- running ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reproduction:
    """An experiment with one seed."""

    experiment: str
    seed: int

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.experiment}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where it leaves its files."""
        return results.OUTPUTS / "reproduce" / self.experiment / f"seed{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether there is a result of the recipe of today."""
        return self.result() is not None

    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json``; ``None`` without one of this recipe."""
        file = self.folder / "result.json"
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"recipe": None}
        return content if content["recipe"] == experiments()[self.experiment].recipe else None

    def run(self) -> None:
        """Run in a worker process, and write ``result.json``."""
        experiment = experiments()[self.experiment]
        attempt = self.folder / "recipe.json"
        if not attempt.is_file() or attempt.read_text(encoding="utf-8") != experiment.recipe:
            shutil.rmtree(self.folder, ignore_errors=True)  # of another recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        tools.write_text(attempt, experiment.recipe)
        clock = time.perf_counter()
        metrics = experiment.run(self.seed, self.folder)
        trained = self.folder / "run" / "summary.json"
        facts = {
            "recipe": experiment.recipe,
            "metrics": metrics,
            "seconds": time.perf_counter() - clock,
            "device": json.loads(trained.read_text(encoding="utf-8"))["device"] if trained.is_file() else "cpu",
            "versions": versions(),
            "git": git_commit(),
            "date": date.today().isoformat(),
        }
        tools.write_text(self.folder / "result.json", json.dumps(facts, indent=2) + "\n")


# ---- judging ---------------------------------------------------------------------------------------------------------


def judge(experiment: Experiment) -> list[Row]:
    """A row per expected metric: the mean over seeds against value and tolerance."""
    runs = [run for seed in experiment.seeds if (run := Reproduction(experiment.name, seed).result()) is not None]
    facts: Row = {"experiment": experiment.name, "seeds": " ".join(map(str, experiment.seeds)), "verdict": "failed"}
    rows: list[Row] = [
        {**facts, "metric": metric, "expected": f"{value:g}", "tolerance": f"{tolerance:g}"}
        for metric, (value, tolerance) in experiment.expected.items()
    ]
    if len(runs) < len(experiment.seeds):
        return rows
    training = shlex.join(["train.py", *experiment.overrides])
    line = training if experiment.overrides else f"lab/reproduce.py {experiment.name}"
    facts = {key: runs[-1]["versions"][key] for key in ("python", "torch", "numpy")}
    facts |= {key: str(runs[-1][key]) for key in ("device", "git", "date")}
    facts |= {"seconds": f"{sum(each['seconds'] for each in runs):.1f}", "command": f"python {line}"}
    for row, (value, tolerance) in zip(rows, experiment.expected.values(), strict=True):
        numbers = [each["metrics"].get(row["metric"], math.nan) for each in runs]
        got = statistics.fmean(numbers)
        row |= {**facts, "got": f"{got:.6g}", "lowest": f"{min(numbers):.6g}", "highest": f"{max(numbers):.6g}"}
        # rounding of a decimal fraction is no deviation
        row["verdict"] = "reproduced" if abs(got - value) <= tolerance + 1e-9 * abs(value) else "differs"
    return rows


def overview(chosen: Sequence[Experiment]) -> Table:
    """Names, tiers, sources and verdicts."""
    table = Table("experiment", "tier", "seeds", "expects", "found", "source")
    rows, source = read_table(), ""
    for each in chosen:
        verdicts = {row["verdict"] for row in rows if row["experiment"] == each.name}
        verdict = "differs" if "differs" in verdicts else "reproduced" if verdicts else "not run here"
        shown, source = each.source if each.source != source else "", each.source
        table.add_row(each.name, each.tier, " ".join(map(str, each.seeds)), f"{len(each.expected)}", verdict, shown)
    return table


def verdicts(rows: Sequence[Row]) -> Table:
    """Expected, got and verdict."""
    table = Table("experiment", "metric", "expected", "got", "verdict")
    colors = {"reproduced": "green", "differs": "red", "failed": "red"}
    name = ""
    for row in rows:
        shown = row["experiment"] if row["experiment"] != name else ""
        name = row["experiment"]
        verdict = f"[{colors[row['verdict']]}]{row['verdict']}[/]"
        table.add_row(shown, row["metric"], f"{row['expected']} ± {row['tolerance']}", row.get("got", "-"), verdict)
    return table


# ---- writing ---------------------------------------------------------------------------------------------------------


def read_table() -> list[Row]:
    """The rows of results/reproduced.csv."""
    return results.read_rows(results.RESULTS / FILE)


def write(rows: Sequence[Row]) -> None:
    """Update results/reproduced.csv, which keeps other experiments, and what follows from it."""
    order = list(experiments())
    done = [row for row in rows if row["verdict"] != "failed"]
    new = {row["experiment"] for row in done}
    others = [row for row in read_table() if row["experiment"] not in new and row["experiment"] in order]
    # stable, so metrics keep their order
    every = sorted([*others, *done], key=lambda row: order.index(row["experiment"]))
    results.write_rows(results.RESULTS / FILE, every, FIELDS)
    paths = {name: Reproduction(name, 0).folder / "path.npy" for name in famo_toy.RUNS}
    if new & paths.keys() and all(path.is_file() for path in paths.values()):
        picture = partial(famo_toy.draw, paths)
        results.save_figure(results.RESULTS / "famo_toy.svg", "famo_toy", picture, {"font.size": 10})
    documents.write("reproduce", BLOCKS)


def results_table() -> str:
    """Expected and recorded values; a recipe with many rows that were not run is one line."""
    known, rows = experiments(), read_table()
    lines: list[Sequence[str]] = []
    for name, each in known.items():
        mine = [row for row in rows if row["experiment"] == name]
        for row in mine:
            shown = f"`{name}`" if row is mine[0] else ""
            lines.append((shown, row["metric"], f"{row['expected']} ± {row['tolerance']}", row["got"], row["verdict"]))
        if not mine and not each.family:
            lines.append((f"`{name}`", f"{len(each.expected)} metrics | |", "not run here"))
    done = {row["experiment"] for row in rows}
    waiting = Counter(each.family for name, each in known.items() if each.family and name not in done)
    lines += [(f"`{family}_*`", f"{count} rows of tables | |", "not run here") for family, count in waiting.items()]
    return documents.table(("experiment", "result", "expected", "got", ""), lines)


def sources_table() -> str:
    """Tier, seeds and source of each experiment; the rows of a recipe are one line."""
    named = {f"{each.family}_*" if each.family else each.name: each for each in experiments().values()}
    lines = ((f"`{name}`", each.tier, ", ".join(map(str, each.seeds)), each.source) for name, each in named.items())
    return documents.table(("experiment", "tier", "seeds", "source"), lines)


def slips_table() -> str:
    """Printed cells that do not follow from their rows."""
    titles = published_tables.read()
    lines = (
        (titles[cell.table]["title"], cell.statistic, cell.method, f"{cell.printed:.2f}", f"{cell.computed:.2f}")
        for cell in published_tables.slips()
    )
    return documents.table(("table", "number", "of", "printed", "from its row"), lines)


def reruns_table() -> str:
    """Delta-m of NYUv2 in the papers, and when LibMTL trained the same methods again."""
    tables = published_tables.read()
    papers, again = (tables[name]["printed"]["delta-m"] for name in ("nyuv2_segnet", "nyuv2_segnet_rerun"))
    names = {method: {"EW": "LS"}.get(method, method) for method in again}
    lines = ((name, f"{papers[name]:.2f}", f"{again[m]:.2f}") for m, name in names.items() if name in papers)
    return documents.table(("method", "delta-m in papers", "trained again"), lines)


BLOCKS: documents.Blocks = {
    "docs/reproducing.md": {
        "results": results_table,
        "sources": sources_table,
        "slips": slips_table,
        "reruns": reruns_table,
    }
}


if __name__ == "__main__":
    main()
