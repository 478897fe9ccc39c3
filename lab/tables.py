"""Tables and figures of README and docs: run what is missing, write results/ and pages.

python lab/tables.py                          # everything (about two hours on two cores)
python lab/tables.py diamonds_usd             # one table
python lab/tables.py diamonds_usd --collect   # only write it again from finished runs

Runs are kept in outputs/tables/, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import command, documents, results, run_figures
from lab.jobs import Training, run_missing


@dataclass(frozen=True)
class Experiment:
    """A table: rows of runs that differ in a few overrides.

    Args:
        document: The file that shows the table, between two marks.
        rows: Label -> overrides.
        metrics: Heading -> test result and digits.
        figures: Files in results/, which ``run_figures`` draws from the runs.
        label: Heading of the first column.
        common: Further overrides of every run.
        seeds: The runs of each row.
        threads: CPU threads of a run.
    """

    document: str
    rows: Mapping[str, Sequence[str]]
    metrics: Mapping[str, tuple[str, int]]
    figures: Sequence[str] = ()
    label: str = "model"
    common: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    threads: int = 1


EXPERIMENTS = {
    name: Experiment(**table) for name, table in results.read_yaml(Path(__file__).with_suffix(".yaml")).items()
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write tables, figures and documents."""
    parser = command.parser(__doc__)
    parser.add_argument("--processes", type=int, default=2)
    options = command.parse(parser, arguments, "table", EXPERIMENTS)
    if not options.collect:
        # train everything before any tracked file changes, so that each run records the commit it belongs to
        failures = run_missing((each for name in options.names for each in jobs(name)), options.processes)
        if failures:
            problems = "; ".join(f"{name}: {problem}" for name, problem in failures.items())
            sys.exit(f"error: {problems}; the same command goes on with what is missing")
    missing = {name: [each.folder for each in jobs(name) if not each.finished] for name in options.names}
    for name in options.names:
        if not missing[name]:
            collect(name)
            documents.write("tables", blocks([name]))
            draw(name)
    if lacking := [name for name in options.names if missing[name]]:
        runs = f"runs are missing, such as {missing[lacking[0]][0]}"
        sys.exit(f"error: {', '.join(lacking)}: left as is, for {runs}; run without --collect")


def job(name: str, label: str, seed: int) -> Training:
    """The run of a row with one seed."""
    experiment = EXPERIMENTS[name]
    plain = "".join(c for c in label.replace("=", "-") if c.isalnum() or c in "_.-")  # hydra reads "=" as its own
    folder = results.OUTPUTS / "tables" / name / f"{plain}-seed{seed}"
    return Training(folder, (*experiment.common, *experiment.rows[label], f"seed={seed}"), experiment.threads)


def jobs(name: str) -> list[Training]:
    """All runs of a table."""
    return [job(name, label, seed) for seed in EXPERIMENTS[name].seeds for label in EXPERIMENTS[name].rows]


def collect(name: str) -> None:
    """Write one row per run."""
    experiment, rows = EXPERIMENTS[name], []
    for seed, label in itertools.product(experiment.seeds, experiment.rows):
        run = job(name, label, seed)
        summary = run.summary()
        values = summary["metrics"] | summary
        row = {experiment.label: label, "seed": seed}
        row |= {metric: f"{float(values[key]):.6g}" for metric, (key, _) in experiment.metrics.items()}
        row |= {"epochs": summary["epochs"], "device": summary["device"], "torch": summary["versions"]["torch"]}
        rows.append({**row, "git": summary["git"], "command": run.command})
    results.write_rows(results.RESULTS / f"{name}.csv", rows)


def blocks(names: Iterable[str]) -> documents.Blocks:
    """The tables of these names in their documents."""
    return {
        document: {name: partial(markdown, name) for name in names if EXPERIMENTS[name].document == document}
        for document in dict.fromkeys(EXPERIMENTS[name].document for name in names)
    }


def markdown(name: str) -> str:
    """The table in Markdown: mean, and standard deviation over seeds if there are several."""
    label, metrics = EXPERIMENTS[name].label, EXPERIMENTS[name].metrics
    rows = results.read_rows(results.RESULTS / f"{name}.csv")
    lines = []
    for value in dict.fromkeys(row[label] for row in rows):
        cells = []
        for metric, (_, digits) in metrics.items():
            numbers = [float(row[metric]) for row in rows if row[label] == value]
            spread = f" ± {statistics.stdev(numbers):,.{digits}f}" if len(numbers) > 1 else ""
            cells.append(f"{statistics.mean(numbers):,.{digits}f}{spread}")
        lines.append([value, *cells])
    return documents.table([label, *metrics], lines)


def draw(name: str) -> None:
    """The figures of the runs; the same runs give the same bytes."""
    experiment = EXPERIMENTS[name]
    runs = {label: [job(name, label, seed).folder for seed in experiment.seeds] for label in experiment.rows}
    for file in experiment.figures:
        results.save_figure(results.RESULTS / file, name, partial(run_figures.FIGURES[file], runs))


if __name__ == "__main__":
    main()
