"""Tables and figures of README and docs: run what is missing, write results/ and pages.

python lab/tables.py                          # everything (about two hours on two cores)
python lab/tables.py diamonds_usd             # one table
python lab/tables.py diamonds_usd --collect   # only write it again from finished runs

Runs are kept in outputs/tables/, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import command, documents, results, run_figures
from lab.jobs import Training, run_missing
from lab.studies import STUDIES

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Experiment:
    """A table: rows of runs that differ in a few overrides.

    Args:
        document: The file that shows the table, between two marks.
        rows: Label -> overrides.
        metrics: Heading -> test result and digits.
        figures: File in results/ -> what draws it, given the runs with the first seed, row by row.
        label: Heading of the first column.
        common: Further overrides of every run.
        seeds: The runs of each row.
        threads: CPU threads of a run.
    """

    document: str
    rows: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[str, int]]
    figures: Mapping[str, Callable[[Mapping[str, Path]], Figure]] = field(default_factory=dict)
    label: str = "model"
    common: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    threads: int = 1


def changes(key: str, *values: str) -> dict[str, tuple[str, ...]]:
    """A row for each value of an option, with the value for its label."""
    return {f"`{value}`": (f"{key}={value}",) for value in values}


BALANCERS = (
    "sum",
    "pcgrad",
    "gradnorm",
    "mgda",
    "inverse_mean",
    "prior_loss",
    "initial_loss",
    "uncertainty",
    "realtime",
)
OPTIONS = ("model.norm=batch", "model.norm=layer", "model.dropout=0.05", "model.width=128", "model.depth=3")
DIAMONDS = {
    "cut accuracy": ("test/cut/accuracy", 3),
    "price R2": ("test/price/r2", 4),
    "price error, USD": ("test/price/mae_usd", 0),
}
RING = {
    "modes of 8": ("test/samples/modes", 1),
    "high-quality samples": ("test/samples/high_quality", 3),
    "reverse KL": ("test/samples/reverse_kl", 4),
}
GARMENTS = {
    "Frechet distance": ("test/samples/frechet", 2),
    "share of a Gaussian's": ("test/samples/frechet_share", 3),
    "rarest class": ("test/samples/smallest_class", 3),
    "most frequent class": ("test/samples/largest_class", 3),
    "class accuracy": ("test/samples/class_accuracy", 3),
}
ROOMS = {
    "mIoU": ("test/segmentation/miou", 4),
    "pixel accuracy": ("test/segmentation/pixel_accuracy", 3),
    "depth error, m": ("test/depth/abs_err", 3),
    "normals, mean degrees": ("test/normals/mean", 2),
    "seconds": ("seconds", 0),
}
EXPERIMENTS = {
    "quickstart": Experiment("README.md", {"`python train.py`": ()}, DIAMONDS, label="run", seeds=SEEDS),
    "diamonds_usd": Experiment(
        "README.md",
        changes("balancer", *BALANCERS),
        DIAMONDS,
        {
            "diamonds_usd.svg": partial(
                run_figures.over_time, {"cut/accuracy": "accuracy of cut", "price/r2": "R2 of price"}
            )
        },
        label="balancer",
        common=("experiment=diamonds_usd",),
        seeds=SEEDS,
    ),
    "shared_trunk": Experiment(
        "docs/shared_trunk.md",
        {"none (the default)": (), **{f"`{option}`": (option,) for option in OPTIONS}},
        DIAMONDS,
        {
            "shared_trunk_cut.svg": partial(run_figures.confusion, "cut"),
            "shared_trunk_price.svg": partial(run_figures.scatter, "price", "US dollars"),
        },
        label="change",
        seeds=SEEDS,
    ),
    "soft_sharing": Experiment(
        "docs/soft_sharing.md",
        changes("model", "shared_trunk", "cross_stitch", "mmoe", "ple"),
        DIAMONDS,
        {"soft_sharing.svg": run_figures.sharing},
        seeds=SEEDS,
    ),
    "multi_fashion": Experiment(
        "docs/image_trunk.md",
        changes("model", "shared_trunk_lenet"),
        STUDIES["multi_fashion"].metrics,
        {"multi_fashion.png": partial(run_figures.answers, run_figures.whole)},
    ),
    "compressed_fashion": Experiment(
        "docs/chained.md",
        {"end to end (the default)": (), "`model.detach=true`": ("model.detach=true",)},
        STUDIES["compressed_fashion"].metrics,
        {"compressed_fashion.png": partial(run_figures.answers, run_figures.garment_over_copy)},
        label="training",
        common=("model=chained",),
    ),
    "two_view_fashion": Experiment(
        "docs/dual.md",
        changes("model", "dual_sum", "dual_separate"),
        STUDIES["two_view_fashion"].metrics,
        {"two_view_fashion.png": partial(run_figures.answers, run_figures.halves)},
    ),
    "ring_of_gaussians": Experiment(
        "docs/gan.md",
        changes("model", "gan_points"),
        RING,
        {"ring_of_gaussians.png": run_figures.reported},
        seeds=SEEDS,
    ),
    "fashion_gan": Experiment(
        "docs/gan.md", changes("model", "gan"), GARMENTS, {"fashion_gan.png": run_figures.samples}
    ),
    "rooms": Experiment(
        "docs/dense.md",
        changes("model", "dense_resnet18"),
        ROOMS,
        {"rooms.png": partial(run_figures.reported, first=2)},
        threads=2,
    ),
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
    missing = {name: [each for each in jobs(name) if not each.finished] for name in options.names}
    for name in options.names:
        if not missing[name]:
            collect(name)
            documents.write("tables", blocks([name]))
            draw(name)
    lacking = [name for name in options.names if missing[name]]
    if lacking:
        first = missing[lacking[0]][0].folder
        sys.exit(
            f"error: {', '.join(lacking)}: left as is, for runs are missing, such as {first}; run without --collect"
        )


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
    for seed in experiment.seeds:
        for label in experiment.rows:
            run = job(name, label, seed)
            summary = run.summary()
            rows.append(
                {
                    experiment.label: label,
                    "seed": seed,
                    **{metric: f"{_value(summary, key):.6g}" for metric, (key, _) in experiment.metrics.items()},
                    "epochs": summary["epochs"],
                    "device": summary["device"],
                    "torch": summary["versions"]["torch"],
                    "git": summary["git"],
                    "command": run.command,
                }
            )
    results.write_rows(results.RESULTS / f"{name}.csv", rows)


def _value(summary: Mapping[str, Any], key: str) -> float:
    return float(summary[key] if key in summary else summary["metrics"][key])


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
    """The figures, from the runs with the first seed; the same runs give the same bytes."""
    experiment = EXPERIMENTS[name]
    runs = {label: job(name, label, experiment.seeds[0]).folder for label in experiment.rows}
    for file, picture in experiment.figures.items():
        results.save_figure(results.RESULTS / file, name, partial(picture, runs))


if __name__ == "__main__":
    main()
