"""What balancing costs: time and memory of every method against a plain backward, in one run on this machine.

python scripts/benchmark_balancers.py                    # everything (about 20 minutes on two cores)
python scripts/benchmark_balancers.py solvers memory     # some parts
python scripts/benchmark_balancers.py --collect          # only draw and fill in the documents again

A step is a forward and a backward pass. "plain" is the backward pass of the summed losses; "bare" is one backward pass
through the trunk per objective and nothing else, below which no method that looks at every gradient can go. All variants
take turns in one process, so that a busy machine slows all alike; what is reported are ratios of medians.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import documents  # noqa: E402

RESULTS = ROOT / "results"
FIELDS = ("part", "variant", "objectives", "parameters", "milliseconds", "to_plain", "to_bare", "buffers")
COUNTS = (2, 3, 5, 10, 20, 40)
TRUNKS = ("mobilenet_v3_small", "resnet18", "resnet34", "resnet50")
BATCH, SIZE = 16, 64

Row = dict[str, Any]
Losses = Callable[[], tuple[Tensor, dict[str, Tensor]]]


class Problem:
    """A torchvision trunk with a linear classifier per objective, and one random batch."""

    def __init__(self, objectives: int, trunk: str = "resnet18") -> None:
        import torchvision

        torch.manual_seed(0)
        self.names = [f"objective{k}" for k in range(objectives)]
        self.trunk = torchvision.models.get_model(trunk)
        for last in ("fc", "classifier"):
            if hasattr(self.trunk, last):
                setattr(self.trunk, last, nn.Identity())
        self.images = torch.randn(BATCH, 3, SIZE, SIZE)
        self.labels = torch.randint(4, (objectives, BATCH))
        with torch.no_grad():
            width = self.trunk(self.images).shape[1]
        self.heads = nn.ModuleList(nn.Linear(width, 4) for _ in self.names)
        self.shared = list(self.trunk.parameters())
        self.size = sum(p.numel() for p in self.shared)

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and losses."""
        z = self.trunk(self.images)
        return z, {
            name: cross_entropy(head(z), labels)
            for name, head, labels in zip(self.names, self.heads, self.labels, strict=True)
        }

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in (*self.shared, *self.heads.parameters()):
            parameter.grad = None

    def plain(self) -> None:
        """One backward pass of the summed losses."""
        _, losses = self.forward()
        torch.stack(list(losses.values())).sum().backward()

    def bare(self) -> None:
        """A backward pass through the trunk per objective; the gradients are thrown away."""
        _, losses = self.forward()
        rows = []
        for k, loss in enumerate(losses.values()):
            rows.append(torch.autograd.grad(loss, self.shared, retain_graph=k < len(losses) - 1))

    def balanced(self, name: str | Sequence[str], steps: int = 1, **options: Any) -> Callable[[], None]:
        """A step, or several, with a balancer of ours."""
        from balancing import create_balancer

        balancer = create_balancer(name, self.names, **options)

        def step() -> None:
            for index in range(steps):
                if index:
                    self.clear()
                features, losses = self.forward()
                balancer.backward(losses, features=features)
                if balancer.observes:
                    balancer.observe({name: loss.detach() for name, loss in losses.items()})

        return step

    def torchjd(self, aggregator: str, chunk: int | None, optimize: bool = False) -> Callable[[], None]:
        """The same step by torchjd: gradients one by one (``chunk=1``) or vmapped (``None``)."""
        from torchjd import aggregation
        from torchjd.autojac import jac_to_grad, mtl_backward

        method = getattr(aggregation, aggregator)()

        def step() -> None:
            features, losses = self.forward()
            mtl_backward(list(losses.values()), features=features, parallel_chunk_size=chunk)
            jac_to_grad(self.shared, method, optimize_gramian_computation=optimize)

        return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write ``results/balancer_cost.csv``, draw, and fill in the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; default: all")
    parser.add_argument("--collect", action="store_true", help="measure nothing")
    parser.add_argument("--rounds", type=int, default=25, help="turns of every variant (fewer where steps are long)")
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"unknown part {name!r}; choose from {', '.join(PARTS)}")
    file = RESULTS / "balancer_cost.csv"
    rows = read() if file.is_file() else []
    facts = environment()  # before any tracked file changes
    for part in [] if options.collect else options.parts or list(PARTS):
        rows = [row for row in rows if row["part"] != part]
        rows += [{"part": part, **row, **facts} for row in PARTS[part](options.rounds)]
        RESULTS.mkdir(exist_ok=True)
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [*FIELDS, *facts], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    draw()
    rows = read()
    documents.fill_in(DOCUMENT, "benchmark_balancers", {name: table(rows) for name, table in TABLES.items()})


def environment() -> dict[str, str]:
    """What a number depends on."""
    from engine.environment import git_commit

    return {
        "device": f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "git": git_commit() or "unknown",
    }


def take_turns(
    problem: Problem, variants: Mapping[str, Callable[[], None]], rounds: int, title: str
) -> dict[str, float]:
    """Median seconds of each variant; they run in turns, after two rounds of warming up."""
    from rich.progress import track

    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in track(range(rounds + 2), description=title):
        for name, step in variants.items():
            problem.clear()
            start = time.perf_counter()
            step()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def as_rows(problem: Problem, medians: Mapping[str, float]) -> list[Row]:
    """Times and their ratios to the plain and the bare step."""
    return [
        {
            "variant": name,
            "objectives": len(problem.names),
            "parameters": problem.size,
            "milliseconds": f"{1000 * value:.4g}",
            "to_plain": f"{value / medians['plain']:.4g}",
            "to_bare": f"{value / medians['bare']:.4g}" if "bare" in medians else "",
        }
        for name, value in medians.items()
    ]


def methods() -> list[str]:
    """Balancers that any batch can be given to."""
    from balancing import balancer_class, list_balancers

    return [name for name in list_balancers() if name != "torchjd" and balancer_class(name).needs != "validation"]


def looks_at_gradients(name: str) -> bool:
    """Whether a step takes a backward pass per objective."""
    from balancing import balancer_class

    return balancer_class(name).needs in ("gramian", "jacobian")


def arguments_of(name: str, objectives: Sequence[str]) -> dict[str, Any]:
    """What a method cannot do without."""
    return {"prior_losses": dict.fromkeys(objectives, 1.0)} if name == "prior_loss" else {}


def measure_losses(rounds: int) -> list[Row]:
    """Every method that takes one backward, at K = 3 on ResNet-18. The differences are small, so there are more turns."""
    problem = Problem(3)
    chosen = [name for name in methods() if not looks_at_gradients(name)]
    variants = {"plain": problem.plain}
    variants |= {name: problem.balanced(name, **arguments_of(name, problem.names)) for name in chosen}
    return as_rows(problem, take_turns(problem, variants, 3 * rounds, "methods that look at losses"))


def measure_steps(rounds: int) -> list[Row]:
    """Every method that looks at gradients, at K = 3 on ResNet-18, with torchjd beside those it has."""
    problem = Problem(3)
    variants = {"plain": problem.plain, "bare": problem.bare}
    variants |= {name: problem.balanced(name) for name in methods() if looks_at_gradients(name)}
    variants |= {f"{name}, features": problem.balanced(name, at="features") for name in ("mgda", "upgrad")}
    for aggregator in ("UPGrad", "MGDA", "PCGrad"):
        variants[f"torchjd {aggregator}, looped"] = problem.torchjd(aggregator, 1)
        variants[f"torchjd {aggregator}, vmapped"] = problem.torchjd(aggregator, None)
        variants[f"torchjd {aggregator}, looped, summed Gramians"] = problem.torchjd(aggregator, 1, optimize=True)
    return as_rows(problem, take_turns(problem, variants, rounds, "methods that look at gradients"))


def measure_every(rounds: int) -> list[Row]:
    """New weights at every tenth step: the time of ten steps, divided by ten."""
    problem = Problem(3)

    def ten() -> None:
        for index in range(10):
            if index:
                problem.clear()
            problem.plain()

    variants = {"plain": ten} | {name: problem.balanced(name, steps=10, update_every=10) for name in ("mgda", "upgrad")}
    medians = take_turns(problem, variants, max(rounds // 3, 3), "every=10")
    return as_rows(problem, {name: value / 10 for name, value in medians.items()})


def one_of_each(problem: Problem) -> dict[str, Callable[[], None]]:
    """The steps whose cost is drawn as a curve."""
    return {
        "plain": problem.plain,
        "bare": problem.bare,
        "uncertainty": problem.balanced("uncertainty"),
        "upgrad": problem.balanced("upgrad"),
        "upgrad, features": problem.balanced("upgrad", at="features"),
        "torchjd UPGrad, looped": problem.torchjd("UPGrad", 1),
    }


def measure_counts(rounds: int) -> list[Row]:
    """Cost against the number of objectives."""
    rows = []
    for count in COUNTS:
        problem = Problem(count)
        rows += as_rows(problem, take_turns(problem, one_of_each(problem), max(3, rounds * 3 // count), f"K = {count}"))
    return rows


def measure_sizes(rounds: int) -> list[Row]:
    """Cost against the number of shared parameters."""
    rows = []
    for trunk in TRUNKS:
        problem = Problem(3, trunk)
        rows += as_rows(problem, take_turns(problem, one_of_each(problem), max(3, rounds // 2), trunk))
    return rows


def measure_solvers(rounds: int) -> list[Row]:
    """Time of ``weights`` alone, on Gramians of gradients of which some conflict, on one thread."""
    from balancing import balancer_class, create_balancer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for name in methods():
        if balancer_class(name).needs != "gramian":
            continue
        for count in COUNTS:
            if name == "krum" and count < 3:
                continue
            balancer: Any = create_balancer(name, [str(k) for k in range(count)])
            seconds = []
            for turn in range(rounds + 2):
                generator = torch.Generator().manual_seed(turn)
                j = torch.randn(count, 4 * count, generator=generator, dtype=torch.float64)
                gramian, losses = j @ j.T, torch.rand(count, generator=generator, dtype=torch.float64) + 0.5
                start = time.perf_counter()
                balancer.effective_weights(losses, gramian)
                balancer.step += 1
                if turn >= 2:
                    seconds.append(time.perf_counter() - start)
            milliseconds = f"{1000 * statistics.median(seconds):.3g}"
            rows.append({"variant": name, "objectives": count, "milliseconds": milliseconds})
    torch.set_num_threads(threads)
    return rows


def measure_memory(rounds: int) -> list[Row]:
    """Peak of what a step allocates beyond a plain one, in buffers of the size of the shared gradient."""
    problem = Problem(3)
    variants = {"plain": problem.plain, "bare": problem.bare}
    variants |= {name: problem.balanced(name) for name in ("realtime", "mgda", "upgrad", "graddrop", "moco")}
    variants["upgrad, features"] = problem.balanced("upgrad", at="features")
    for mode, chunk, optimize in (("looped", 1, False), ("vmapped", None, False), ("looped, summed Gramians", 1, True)):
        variants[f"torchjd UPGrad, {mode}"] = problem.torchjd("UPGrad", chunk, optimize)
    peaks = {}
    for name, step in variants.items():
        for _ in range(2):  # state is made in the first step
            problem.clear()
            peaks[name] = peak_of(step)
    size = 4 * problem.size
    return [
        {
            "variant": name,
            "objectives": 3,
            "parameters": problem.size,
            "buffers": f"{(peak - peaks['plain']) / size:.2f}",
        }
        for name, peak in peaks.items()
    ]


def peak_of(step: Callable[[], None]) -> int:
    """Largest number of bytes that were allocated at one time during ``step``, beyond those held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    assert recorded.profiler is not None
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "losses": measure_losses,
    "steps": measure_steps,
    "every": measure_every,
    "counts": measure_counts,
    "sizes": measure_sizes,
    "solvers": measure_solvers,
    "memory": measure_memory,
}


# ---- what is made of the numbers -------------------------------------------------------------------------------------


def read() -> list[Row]:
    """The rows of ``results/balancer_cost.csv``."""
    with (RESULTS / "balancer_cost.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def losses_table(rows: Sequence[Row]) -> str:
    """Cost of a step with each method that takes one backward."""
    lines = ["| step | to a plain step |", "|---|---|"]
    return "\n".join(lines + cells(rows, "losses", "to_plain")) + "\n"


def steps_table(rows: Sequence[Row]) -> str:
    """Cost of a step with each method that looks at gradients."""
    lines = ["| step | to a plain step | to the bare passes |", "|---|---|---|"]
    cheap = {row["variant"] for row in rows if row["part"] == "losses"} - {"plain"}
    rows = [row for row in rows if row["part"] != "steps" or row["variant"] not in cheap]  # they have their own table
    every = [line.replace(" |", ", `every=10` |", 1) + " |" for line in cells(rows, "every", "to_plain")[1:]]
    return "\n".join(lines + cells(rows, "steps", "to_plain", "to_bare") + every) + "\n"


def cells(rows: Sequence[Row], part: str, *columns: str) -> list[str]:
    """A line per variant: plain and bare first, other libraries last."""
    chosen = [row for row in rows if row["part"] == part]
    first = [row for row in chosen if row["variant"] in ("plain", "bare")]
    rest = [row for row in chosen if row not in first]
    rest.sort(key=lambda row: ("torchjd" in row["variant"], row["variant"]))
    return [
        f"| {row['variant']} | " + " | ".join(f"{float(row[column]):.2f}" for column in columns) + " |"
        for row in [*first, *rest]
    ]


def solvers_table(rows: Sequence[Row]) -> str:
    """Milliseconds per step to find the weights."""
    lines = ["| method | " + " | ".join(f"K = {count}" for count in COUNTS) + " |", "|---" * (1 + len(COUNTS)) + "|"]
    chosen = [row for row in rows if row["part"] == "solvers"]
    for name in dict.fromkeys(row["variant"] for row in chosen):
        found = {row["objectives"]: row["milliseconds"] for row in chosen if row["variant"] == name}
        lines.append(f"| `{name}` | " + " | ".join(found.get(str(count), "") for count in COUNTS) + " |")
    return "\n".join(lines) + "\n"


def memory_table(rows: Sequence[Row]) -> str:
    """Peak memory beyond a plain step."""
    lines = ["| step, K = 3 | buffers beyond a plain step |", "|---|---|"]
    lines += [f"| {row['variant']} | {float(row['buffers']):.1f} |" for row in rows if row["part"] == "memory"]
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "cost_losses": losses_table,
    "cost_steps": steps_table,
    "cost_solvers": solvers_table,
    "cost_memory": memory_table,
}
DOCUMENT = ROOT / "docs" / "cost.md"


def draw() -> None:
    """Cost against the number of objectives and of parameters."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = read()
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "cost", "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, part, column, label in (
            (left, "counts", "objectives", "objectives K"),
            (right, "sizes", "parameters", "shared parameters, K = 3"),
        ):
            chosen = [row for row in rows if row["part"] == part]
            for name in dict.fromkeys(row["variant"] for row in chosen):
                points = sorted((int(row[column]), float(row["to_plain"])) for row in chosen if row["variant"] == name)
                colour = {"plain": "black", "bare": "grey"}.get(name)
                axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(label)
            axes.set_ylabel("time of a step / plain step")
            axes.grid(color="#e2e8f0")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
        figure.savefig(RESULTS / "balancer_cost.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
