"""The tables and figures of the README and the docs: run what is missing, write results/, fill in the documents.

python lab/tables.py                          # everything (about two hours on two cores)
python lab/tables.py diamonds_usd             # one table
python lab/tables.py diamonds_usd --collect   # only write it again from finished runs

Runs are kept in outputs/tables/, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.comparison.runs import is_training_of  # noqa: E402
from lab import documents, run_figures  # noqa: E402
from lab.pool import work_through  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = ROOT / "results"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Experiment:
    """A table: rows of runs that differ in a few overrides.

    Args:
        document: The file that shows the table, between two marks.
        label: Heading of the first column.
        common: Overrides of every run.
        rows: Label -> further overrides.
        metrics: Heading -> test result and digits.
        seeds: The runs of each row.
        threads: CPU threads of a run.
        figures: File in results/ -> what draws it, given the runs with the first seed, row by row.
    """

    document: str
    label: str
    common: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[str, int]]
    seeds: tuple[int, ...] = SEEDS
    threads: int = 1
    figures: Mapping[str, Callable[[Mapping[str, Path]], Figure]] = field(default_factory=dict)


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
DIAMONDS = {
    "cut accuracy": ("test/cut/accuracy", 3),
    "price R2": ("test/price/r2", 4),
    "price error, USD": ("test/price/mae_usd", 0),
}
EXPERIMENTS = {
    "quickstart": Experiment("README.md", "run", (), {"`python train.py`": ()}, DIAMONDS),
    "diamonds_usd": Experiment(
        "README.md",
        "balancer",
        ("experiment=diamonds_usd",),
        {f"`{name}`": (f"balancer={name}",) for name in BALANCERS},
        DIAMONDS,
        figures={
            "diamonds_usd.svg": partial(
                run_figures.over_time, {"cut/accuracy": "accuracy of cut", "price/r2": "R2 of price"}
            )
        },
    ),
    "shared_trunk": Experiment(
        "docs/shared_trunk.md",
        "change",
        (),
        {
            "none (the default)": (),
            "`model.norm=batch`": ("model.norm=batch",),
            "`model.norm=layer`": ("model.norm=layer",),
            "`model.dropout=0.05`": ("model.dropout=0.05",),
            "`model.width=128`": ("model.width=128",),
            "`model.depth=3`": ("model.depth=3",),
        },
        DIAMONDS,
        figures={
            "shared_trunk_cut.svg": partial(run_figures.confusion, "cut"),
            "shared_trunk_price.svg": partial(run_figures.scatter, "price", "US dollars"),
        },
    ),
    "soft_sharing": Experiment(
        "docs/soft_sharing.md",
        "model",
        (),
        {f"`{name}`": (f"model={name}",) for name in ("shared_trunk", "cross_stitch", "mmoe", "ple")},
        DIAMONDS,
        figures={"soft_sharing.svg": run_figures.sharing},
    ),
    "multi_fashion": Experiment(
        "docs/image_trunk.md",
        "model",
        (),
        {"`shared_trunk_lenet`": ("model=shared_trunk_lenet",)},
        {
            "top left accuracy": ("test/top_left/accuracy", 4),
            "bottom right accuracy": ("test/bottom_right/accuracy", 4),
        },
        seeds=(0,),
        figures={"multi_fashion.png": partial(run_figures.answers, run_figures.whole)},
    ),
    "compressed_fashion": Experiment(
        "docs/chained.md",
        "training",
        ("model=chained",),
        {
            "end to end (the default)": (),
            "`model.detach=true`": ("model.detach=true",),
        },
        {
            "accuracy": ("test/class/accuracy", 4),
            "PSNR, dB": ("test/image/psnr", 2),
        },
        seeds=(0,),
        figures={"compressed_fashion.png": partial(run_figures.answers, run_figures.garment_over_copy)},
    ),
    "two_view_fashion": Experiment(
        "docs/dual.md",
        "model",
        (),
        {f"`{name}`": (f"model={name}",) for name in ("dual_sum", "dual_separate")},
        {
            "fused accuracy": ("test/fused/accuracy", 4),
            "left alone": ("test/left/accuracy", 4),
            "right alone": ("test/right/accuracy", 4),
        },
        seeds=(0,),
        figures={"two_view_fashion.png": partial(run_figures.answers, run_figures.halves)},
    ),
    "ring_of_gaussians": Experiment(
        "docs/gan.md",
        "model",
        (),
        {"`gan_points`": ("model=gan_points",)},
        {
            "modes of 8": ("test/samples/modes", 1),
            "high-quality samples": ("test/samples/high_quality", 3),
            "reverse KL": ("test/samples/reverse_kl", 4),
        },
        figures={"ring_of_gaussians.png": run_figures.reported},
    ),
    "fashion_gan": Experiment(
        "docs/gan.md",
        "model",
        (),
        {"`gan`": ("model=gan",)},
        {
            "Frechet distance": ("test/samples/frechet", 2),
            "share of a Gaussian's": ("test/samples/frechet_share", 3),
            "rarest class": ("test/samples/smallest_class", 3),
            "most frequent class": ("test/samples/largest_class", 3),
            "class accuracy": ("test/samples/class_accuracy", 3),
        },
        seeds=(0,),
        figures={"fashion_gan.png": run_figures.samples},
    ),
    "rooms": Experiment(
        "docs/dense.md",
        "model",
        (),
        {"`dense_resnet18`": ("model=dense_resnet18",)},
        {
            "mIoU": ("test/segmentation/miou", 4),
            "pixel accuracy": ("test/segmentation/pixel_accuracy", 3),
            "depth error, m": ("test/depth/abs_err", 3),
            "normals, mean degrees": ("test/normals/mean", 2),
            "seconds": ("seconds", 0),
        },
        seeds=(0,),
        threads=2,
        figures={"rooms.png": partial(run_figures.reported, first=2)},
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write tables, figures and documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--collect", action="store_true", help="do not train, only collect finished runs")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in EXPERIMENTS:
            parser.error(f"unknown table {name!r}; choose from {', '.join(EXPERIMENTS)}")
    names = options.names or list(EXPERIMENTS)
    jobs = {
        name: [(name, label, seed) for seed in EXPERIMENTS[name].seeds for label in EXPERIMENTS[name].rows]
        for name in names
    }
    missing = {name: [job for job in jobs[name] if not is_finished(folder(*job), overrides(*job))] for name in names}
    if not options.collect:
        # train everything before any tracked file changes, so that each run records the commit it belongs to
        todo = [job for name in names for job in missing.pop(name)]
        calls = {f"{job[0]}/{folder(*job).name}": partial(train_one, job) for job in todo}
        failures = work_through(calls, options.processes)
        if failures:
            said = "; ".join(f"{name}: {problem}" for name, problem in failures.items())
            sys.exit(f"error: {said}; the same command goes on with what is missing")
    lacking = [name for name in names if missing.get(name)]
    for name in names:
        if name not in lacking:
            collect(name, jobs[name])
            documents.fill_in(ROOT / EXPERIMENTS[name].document, "tables", {name: markdown(name)})
            draw(name)
    if lacking:
        first = folder(*missing[lacking[0]][0])
        sys.exit(
            f"error: {', '.join(lacking)}: left as is, for runs are missing, such as {first}; run without --collect"
        )


def folder(name: str, label: str, seed: int) -> Path:
    """Run folder of one job."""
    plain = "".join(c for c in label.replace("=", "-") if c.isalnum() or c in "_.-")  # hydra reads "=" as its own
    return ROOT / "outputs" / "tables" / name / f"{plain}-seed{seed}"


def overrides(name: str, label: str, seed: int) -> list[str]:
    """What ``train.py`` is told for one job."""
    experiment = EXPERIMENTS[name]
    return [*experiment.common, *experiment.rows[label], f"seed={seed}"]


def is_finished(run: Path, told: Sequence[str]) -> bool:
    """Whether the run in this folder came to its end, and is what ``train.py`` does now if it is ``told`` this."""
    summary = run / "summary.json"
    finished = summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "finished"
    return finished and is_training_of(run, told)


def train_one(job: tuple[str, str, int]) -> None:
    """Train in a worker process."""
    train_quietly(folder(*job), overrides(*job), EXPERIMENTS[job[0]].threads)


def train_quietly(target: Path, told: Sequence[str], threads: int) -> None:
    """Train into the folder ``target`` on the CPU, for which a pool of processes is made, printing nothing."""
    import torch

    import engine
    import train

    torch.set_num_threads(threads)
    shutil.rmtree(target, ignore_errors=True)  # an unfinished attempt, or one of other settings
    with contextlib.redirect_stdout(io.StringIO()):
        train.run(engine.compose([*told, "trainer.device=cpu", "logger.tensorboard=false", f"run_dir='{target}'"]))


def collect(name: str, jobs: Sequence[tuple[str, str, int]]) -> None:
    """Write one row per run."""
    experiment = EXPERIMENTS[name]
    rows = []
    for job in jobs:
        _, label, seed = job
        summary = json.loads((folder(*job) / "summary.json").read_text(encoding="utf-8"))
        command = ["python train.py", *overrides(*job)]
        rows.append(
            {
                experiment.label: label,
                "seed": seed,
                **{metric: f"{_value(summary, key):.6g}" for metric, (key, _) in experiment.metrics.items()},
                "epochs": summary["epochs"],
                "device": summary["device"],
                "torch": summary["versions"]["torch"],
                "git": summary["git"],
                "command": " ".join(command),
            }
        )
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _value(summary: Mapping[str, Any], key: str) -> float:
    return float(summary[key] if key in summary else summary["metrics"][key])


def markdown(name: str) -> str:
    """The table as Markdown, from the CSV alone: mean and standard deviation over seeds, if there are several."""
    label, metrics = EXPERIMENTS[name].label, EXPERIMENTS[name].metrics
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [f"| {label} | " + " | ".join(metrics) + " |", "|---" * (1 + len(metrics)) + "|"]
    for value in dict.fromkeys(row[label] for row in rows):
        cells = []
        for metric, (_, digits) in metrics.items():
            numbers = [float(row[metric]) for row in rows if row[label] == value]
            spread = f" ± {statistics.stdev(numbers):,.{digits}f}" if len(numbers) > 1 else ""
            cells.append(f"{statistics.mean(numbers):,.{digits}f}{spread}")
        lines.append(f"| {value} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(name: str) -> None:
    """The figures, from the runs with the first seed; the same runs give the same bytes."""
    from matplotlib import rc_context
    from PIL import Image

    experiment = EXPERIMENTS[name]
    runs = {label: folder(name, label, experiment.seeds[0]) for label in experiment.rows}
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "axes.spines.top": False, "axes.spines.right": False}
    for file, picture in experiment.figures.items():
        with rc_context(style):
            if file.endswith(".svg"):
                picture(runs).savefig(RESULTS / file, metadata={"Date": None})
            else:
                drawn = io.BytesIO()
                picture(runs).savefig(drawn, format="png", dpi=84, bbox_inches="tight")
                Image.open(drawn).convert("RGB").save(RESULTS / file, optimize=True)  # nothing is transparent


if __name__ == "__main__":
    main()
