"""Reported results, run again: what was expected, what came out, and whether that is the same.

python lab/reproduce.py                      # the quick tier: published toys and tables, minutes on two cores
python lab/reproduce.py --tier cpu           # the trainings that a CPU can do, and longer toys
python lab/reproduce.py fonseca_mgda         # by name, or pattern: "famo_toy_*"
python lab/reproduce.py --list               # everything there is, with its source

A reproduction is a recipe in configs/experiment that says what it should give, or a toy in lab/reproductions. Writes
results/reproduced.csv, the figure of the toy and the tables of docs/reproducing.md. Runs are kept in outputs/reproduce, so
that an interrupted command goes on where it stopped. Exit code 1 if a result is outside its tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fnmatch
import io
import json
import math
import os
import shlex
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RECIPES = ROOT / "configs" / "experiment"
OUTPUTS = ROOT / "outputs" / "reproduce"
TABLE = ROOT / "results" / "reproduced.csv"
DOCUMENT = ROOT / "docs" / "reproducing.md"

import torch  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import engine  # noqa: E402
from engine.arguments import did_you_mean  # noqa: E402
from engine.environment import git_commit, versions  # noqa: E402
from lab import documents  # noqa: E402
from lab.pool import work_through  # noqa: E402
from lab.reproductions import (  # noqa: E402
    famo_toy,
    fonseca,
    gradnorm_toy,
    multi_fashion,
    published_tables,
    ring_of_gaussians,
    trajectories,
    uncertainty_toy,
)
from lab.reproductions.experiment import TIERS, Experiment  # noqa: E402
from lab.reproductions.published_rows import published_rows  # noqa: E402

TOYS = (
    *(uncertainty_toy, famo_toy, fonseca, trajectories, published_tables),
    *(gradnorm_toy, multi_fashion, ring_of_gaussians),
)
FIELDS = (
    *("experiment", "metric", "expected", "tolerance", "got", "lowest", "highest", "verdict", "seeds", "seconds"),
    *("device", "python", "torch", "numpy", "git", "date", "command"),
)
Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then judge, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments or patterns; default: a whole tier")
    parser.add_argument("--tier", choices=TIERS, default="quick", help="which tier, if nothing is named")
    parser.add_argument("--list", action="store_true", help="print what there is, and run nothing")
    parser.add_argument("--fresh", action="store_true", help="run again what is finished")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    options = parser.parse_args(arguments)
    try:
        known = experiments()
        chosen = choose(known, options.names, options.tier)
    except engine.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.list:
        console().print(overview(chosen if options.names else list(known.values())))
        return
    needy = [each.name for each in chosen if each.tier == "gpu"]
    if needy and not torch.cuda.is_available():
        print(f"error: {', '.join(needy)} would take weeks without a GPU, and there is none here", file=sys.stderr)
        sys.exit(2)
    jobs = [(each.name, seed) for each in chosen for seed in each.seeds]
    if options.fresh:
        for job in jobs:
            shutil.rmtree(folder(*job), ignore_errors=True)
    # run everything before any tracked file changes, so that each run records the commit it belongs to
    missing = [job for job in jobs if result(known[job[0]], job[1]) is None]
    failures = run_all(missing, 1 if needy else options.processes)  # a GPU is not shared
    rows = [row for each in chosen for row in judge(each)]
    console().print(verdicts(rows))
    for name, problem in failures.items():
        print(f"{name} failed: {problem}", file=sys.stderr)
    write(rows)
    if any(row["verdict"] != "reproduced" for row in rows):
        sys.exit(1)


# ---- what there is ---------------------------------------------------------------------------------------------------


def experiments() -> dict[str, Experiment]:
    """Toys, and the recipes that say what they should give.

    Raises ConfigError for a recipe that says it in another way than docs/reproducing.md tells.
    """
    found = [each for module in TOYS for each in module.EXPERIMENTS]
    found += [each for file in sorted(RECIPES.glob("*.yaml")) for each in read_recipe(file)]
    return {each.name: each for each in found}


def read_recipe(file: Path) -> list[Experiment]:
    """What the recipe expects: nothing, one thing, or one for each row of a published table."""
    recipe = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(recipe, dict)
    said = {key: recipe.pop(key, None) for key in ("seeds", "tier", "source", "expected", "published")}
    if said["expected"] is None and said["published"] is None:
        return []
    expected = said["expected"] or {}
    seeds = said["seeds"]
    numbers = (int, float)
    rules = [
        (
            bool(expected) == (said["published"] is None)
            and all(
                isinstance(pair, list)
                and len(pair) == 2
                and all(isinstance(value, numbers) and math.isfinite(value) for value in pair)
                and pair[1] >= 0
                for pair in expected.values()
            ),
            "expected: needs metric: [value, tolerance], with numbers that are finite and a tolerance from 0 on, or published",
        ),
        (
            isinstance(seeds, list) and seeds and len(set(seeds)) == len(seeds) and all(type(s) is int for s in seeds),
            "seeds: needs a list of different whole numbers",
        ),
        (said["tier"] in TIERS, f"tier: must be one of {', '.join(TIERS)}, got {said['tier']!r}"),
        (isinstance(said["source"], str) and said["source"], "source: needs to say where the values stand"),
    ]
    for holds, problem in rules:
        if not holds:
            raise engine.ConfigError(f"{file.relative_to(file.parent.parent)}: {problem}")
    told, text = (said["tier"], said["source"]), json.dumps(recipe, sort_keys=True)
    if said["published"] is None:
        values = {name: (float(value), float(tolerance)) for name, (value, tolerance) in expected.items()}
        overrides = (f"experiment={file.stem}",)
        return [Experiment(file.stem, *told, values, partial(train_recipe, overrides), tuple(seeds), text, overrides)]
    try:
        rows = published_rows(file.stem, said["published"])
    except ValueError as error:
        raise engine.ConfigError(f"{file.relative_to(file.parent.parent)}: {error}") from None
    return [
        Experiment(
            row.name,
            *told,
            row.expected,
            partial(train_recipe, row.overrides, complete=row.complete),
            tuple(seeds),
            f"{text} {shlex.join(row.overrides)}",
            row.overrides,
            file.stem,
        )
        for row in rows
    ]


def choose(known: Mapping[str, Experiment], names: Sequence[str], tier: str) -> list[Experiment]:
    """The experiments of these names or patterns, or of the tier.

    Raises ConfigError for a name that fits none.
    """
    chosen: dict[str, Experiment] = {}
    for name in names:
        fitting = fnmatch.filter(known, name)
        if not fitting:
            raise engine.ConfigError(f"there is no experiment {name!r}; {did_you_mean(name, list(known))}")
        chosen |= {each: known[each] for each in fitting}
    if not names:
        chosen = {each.name: each for each in known.values() if each.tier == tier}
    return list(chosen.values())


def train_recipe(
    overrides: Sequence[str],
    seed: int,
    place: Path,
    complete: Callable[[dict[str, float]], dict[str, float]] = lambda metrics: metrics,
) -> dict[str, float]:
    """The results of ``python train.py <overrides> seed=<seed>``, and what follows from them; an earlier attempt is continued."""
    import train

    run_dir = place / "run"
    if (run_dir / "last.pt").is_file():
        composed = engine.saved_config(engine.load_checkpoint(run_dir / "last.pt")["config"])
        composed.resume = str(run_dir)
        config = engine.validate(composed)
    else:
        shutil.rmtree(run_dir, ignore_errors=True)
        config = engine.compose([*overrides, f"seed={seed}", f"run_dir='{run_dir}'"])
    with contextlib.redirect_stdout(io.StringIO()):
        summary = train.run(config)
    if summary["status"] != "finished":
        raise InterruptedError("the run was stopped; the same command goes on with it")
    return complete({key: float(value) for key, value in summary["metrics"].items()})


# ---- running ---------------------------------------------------------------------------------------------------------


def folder(name: str, seed: int) -> Path:
    """Where a run leaves its files."""
    return OUTPUTS / name / f"seed{seed}"


def result(experiment: Experiment, seed: int) -> dict[str, Any] | None:
    """What ``run_one`` kept; ``None`` if the run is not finished, or was one of another recipe."""
    file = folder(experiment.name, seed) / "result.json"
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found["recipe"] == experiment.recipe else None


def run_all(jobs: Sequence[tuple[str, int]], processes: int) -> dict[str, str]:
    """Run in worker processes. Returns what went wrong, by name."""
    calls = {f"{name}, seed {seed}": partial(run_one, name, seed, folder(name, seed)) for name, seed in jobs}
    return {name: str(problem) or type(problem).__name__ for name, problem in work_through(calls, processes).items()}


def run_one(name: str, seed: int, place: Path) -> None:
    """Run in a worker process, and keep what came out and where."""
    experiment = experiments()[name]
    attempt = place / "recipe.json"
    if not attempt.is_file() or attempt.read_text(encoding="utf-8") != experiment.recipe:
        shutil.rmtree(place, ignore_errors=True)  # of another recipe
    place.mkdir(parents=True, exist_ok=True)
    engine.write_text(attempt, experiment.recipe)
    clock = time.perf_counter()
    metrics = experiment.run(seed, place)
    trained = place / "run" / "summary.json"
    facts = {
        "recipe": experiment.recipe,
        "metrics": metrics,
        "seconds": time.perf_counter() - clock,
        "device": json.loads(trained.read_text(encoding="utf-8"))["device"] if trained.is_file() else "cpu",
        "versions": versions(),
        "git": git_commit(),
        "date": date.today().isoformat(),
    }
    engine.write_text(place / "result.json", json.dumps(facts, indent=2) + "\n")


# ---- judging ---------------------------------------------------------------------------------------------------------


def judge(experiment: Experiment) -> list[Row]:
    """A row per expected metric: the mean over seeds against value and tolerance."""
    runs = [found for seed in experiment.seeds if (found := result(experiment, seed)) is not None]
    complete = len(runs) == len(experiment.seeds)
    training = f"train.py {shlex.join(experiment.overrides)}"
    command = training if experiment.overrides else f"lab/reproduce.py {experiment.name}"
    facts: Row = {"experiment": experiment.name, "seeds": " ".join(map(str, experiment.seeds))}
    if complete:
        last = runs[-1]
        facts |= {key: last["versions"][key] for key in ("python", "torch", "numpy")}
        facts |= {key: str(last[key]) for key in ("device", "git", "date")}
        facts["seconds"] = f"{sum(each['seconds'] for each in runs):.1f}"
        facts["command"] = f"python {command}"
    rows = []
    for metric, (value, tolerance) in experiment.expected.items():
        row = {**facts, "metric": metric, "expected": f"{value:g}", "tolerance": f"{tolerance:g}"}
        numbers = [each["metrics"].get(metric, math.nan) for each in runs] if complete else []
        if numbers:
            got = statistics.fmean(numbers)
            row |= {"got": f"{got:.6g}", "lowest": f"{min(numbers):.6g}", "highest": f"{max(numbers):.6g}"}
            # rounding of a decimal fraction is no deviation
            row["verdict"] = "reproduced" if abs(got - value) <= tolerance + 1e-9 * abs(value) else "differs"
        else:
            row["verdict"] = "failed"
        rows.append(row)
    return rows


def console() -> Console:
    """Of the terminal's width, or wide enough for a file."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def overview(chosen: Sequence[Experiment]) -> Table:
    """Names, tiers, sources, and what was found."""
    table = Table("experiment", "tier", "seeds", "expects", "found", "source")
    rows, source = read_table(), ""
    for each in chosen:
        verdicts = {row["verdict"] for row in rows if row["experiment"] == each.name}
        found = "differs" if "differs" in verdicts else "reproduced" if verdicts else "not run here"
        shown, source = each.source if each.source != source else "", each.source
        table.add_row(each.name, each.tier, " ".join(map(str, each.seeds)), f"{len(each.expected)}", found, shown)
    return table


def verdicts(rows: Sequence[Row]) -> Table:
    """Expected, got and verdict."""
    table = Table("experiment", "metric", "expected", "got", "verdict")
    colours = {"reproduced": "green", "differs": "red", "failed": "red"}
    name = ""
    for row in rows:
        shown = row["experiment"] if row["experiment"] != name else ""
        name = row["experiment"]
        verdict = f"[{colours[row['verdict']]}]{row['verdict']}[/]"
        table.add_row(shown, row["metric"], f"{row['expected']} ± {row['tolerance']}", row.get("got", "-"), verdict)
    return table


# ---- writing ---------------------------------------------------------------------------------------------------------


def read_table() -> list[Row]:
    """The rows of results/reproduced.csv."""
    if not TABLE.is_file():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(rows: Sequence[Row]) -> None:
    """Put new rows into results/reproduced.csv, keep those of other experiments, and write what is made of it."""
    order = list(experiments())
    new = {row["experiment"] for row in rows if row["verdict"] != "failed"}
    kept = [row for row in read_table() if row["experiment"] not in new and row["experiment"] in order]
    kept += [row for row in rows if row["verdict"] != "failed"]
    kept.sort(key=lambda row: order.index(row["experiment"]))  # stable, so metrics keep their order
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    TABLE.parent.mkdir(exist_ok=True)
    engine.write_text(TABLE, text.getvalue())
    paths = {each.name: folder(each.name, 0) / "path.npy" for each in famo_toy.EXPERIMENTS}
    if new & paths.keys() and all(path.is_file() for path in paths.values()):
        famo_toy.draw(paths, TABLE.parent / "famo_toy.svg")
    if DOCUMENT.is_file():
        documents.fill_in(DOCUMENT, "reproduce", blocks())


def blocks() -> dict[str, str]:
    """The generated tables of docs/reproducing.md: results from the CSV, sources, and cells that do not follow from rows."""
    known, rows = experiments(), read_table()
    results = ["| experiment | result | expected | got | |", "|---|---|---|---|---|"]
    for name, each in known.items():
        mine = [row for row in rows if row["experiment"] == name]
        for index, row in enumerate(mine):
            shown = f"`{name}`" if index == 0 else ""
            cells = (shown, row["metric"], f"{row['expected']} ± {row['tolerance']}", row["got"], row["verdict"])
            results.append("| " + " | ".join(cells) + " |")
        if not mine and not each.family:
            results.append(f"| `{name}` | {len(each.expected)} metrics | | | not run here |")
    done = {row["experiment"] for row in rows}
    waiting = Counter(each.family for name, each in known.items() if each.family and name not in done)
    results += [f"| `{family}_*` | {count} rows of tables | | | not run here |" for family, count in waiting.items()]
    sources = ["| experiment | tier | seeds | source |", "|---|---|---|---|"]
    for name, each in {f"{each.family}_*" if each.family else each.name: each for each in known.values()}.items():
        seeds = ", ".join(map(str, each.seeds))
        sources.append(f"| `{name}` | {each.tier} | {seeds} | {each.source} |")
    slips = ["| table | number | of | printed | from its row |", "|---|---|---|---|---|"]
    titles = published_tables.read()
    for cell in published_tables.slips():
        title = titles[cell.table]["title"]
        slips.append(f"| {title} | {cell.statistic} | {cell.method} | {cell.printed:.2f} | {cell.computed:.2f} |")
    blocks = {"results": results, "sources": sources, "slips": slips, "reruns": reruns()}
    return {name: "\n".join(lines) + "\n" for name, lines in blocks.items()}


def reruns() -> list[str]:
    """Delta-m of NYUv2 as the papers print it, and as it came out when LibMTL trained the same methods again."""
    tables = published_tables.read()
    papers, again = (tables[name]["printed"]["delta-m"] for name in ("nyuv2_segnet", "nyuv2_segnet_rerun"))
    names = {method: {"EW": "LS"}.get(method, method) for method in again}
    lines = ["| method | delta-m in papers | trained again |", "|---|---|---|"]
    return lines + [f"| {name} | {papers[name]:.2f} | {again[m]:.2f} |" for m, name in names.items() if name in papers]


if __name__ == "__main__":
    main()
