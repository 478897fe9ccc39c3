"""The cost of balancing: time and memory of every method against a plain backward.

python lab/benchmark_balancers.py                    # everything (about 20 minutes on two cores)
python lab/benchmark_balancers.py solvers memory     # some parts
python lab/benchmark_balancers.py --collect          # only draw and fill in the documents again

A step is a forward and a backward pass. "plain" is the backward pass of the summed losses; "bare" is one backward pass
through the trunk per objective and nothing else, below which no method that looks at every gradient can go. All variants
take turns in one process, so that a busy machine slows all alike; what is reported are ratios of medians.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balancing import balancer_class, create_balancer
from lab import backward_threads, command, documents, ours, results, solvers
from lab.figure_style import INK, SOFT, WIDTH, label_lines, look, plain_ticks
from lab.solvers import AGGREGATORS
from lab.timing import medians, peak_bytes, take_turns
from mozoo.device import describe_device, own_threads
from zoo import create_model

FILE = "balancer_cost.csv"
FIELDS = ("variant", "objectives", "parameters", "milliseconds", "to_plain", "to_bare", "buffers", "error")
COUNTS = (2, 3, 5, 10, 20, 40)
TRUNKS = ("mobilenet_v3_small", "resnet18", "resnet34", "resnet50")
BATCH, SIZE = 16, 64
CPU = torch.device("cpu")
#: Trunk -> batch and size of the images with which ``memory="lean"`` is measured.
LARGE = {"vit_small_patch16_224": (2, 224), "resnet50": (BATCH, SIZE)}
#: Mode of torchjd -> size of a chunk of gradients, and `optimize_gramian_computation`.
MODES = {"looped": (1, False), "vmapped": (None, False), "looped, summed Gramians": (1, True)}

#: Those that small models are compared with.
RIVALS = {name: AGGREGATORS[name][0] for name in ("aligned_mtl", "imtl_g", "mgda", "pcgrad", "upgrad")}

Row = dict[str, Any]
Losses = Callable[[], tuple[Tensor, dict[str, Tensor]]]


class Problem:
    """A trunk with a linear classifier per objective, and one random batch."""

    def __init__(self, objectives: int, trunk: str = "resnet18", batch: int = BATCH, size: int = SIZE) -> None:
        torch.manual_seed(0)
        self.names = [f"objective{k}" for k in range(objectives)]
        known = trunk in torchvision.models.list_models()
        self.trunk = torchvision.models.get_model(trunk) if known else timm.create_model(trunk, num_classes=0)
        for last in ("fc", "classifier"):
            if hasattr(self.trunk, last):
                setattr(self.trunk, last, nn.Identity())
        self.images = torch.randn(batch, 3, size, size)
        self.labels = torch.randint(4, (objectives, batch))
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
        self.trunk.zero_grad()
        self.heads.zero_grad()

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

    def torchjd(self, aggregator: str, chunk: int | None, optimize: bool) -> Callable[[], None]:
        """The same step by torchjd: gradients one by one (``chunk=1``) or vmapped (``None``)."""
        from torchjd import aggregation
        from torchjd.autojac import jac_to_grad, mtl_backward

        method = getattr(aggregation, aggregator)()

        def step() -> None:
            features, losses = self.forward()
            mtl_backward(list(losses.values()), features=features, parallel_chunk_size=chunk)
            jac_to_grad(self.shared, method, optimize_gramian_computation=optimize)

        return step


class SmallProblem(Problem):
    """A small model of the zoo, with one random batch.

    ``mlp`` is the model of the default run with a batch of 256 rows of 21 numbers. Every second objective is a classifier of
    five classes, the others are one number each. ``lenet`` has 64 images of 36 x 36 pixels and classifiers of ten classes.
    """

    def __init__(self, objectives: int, network: str) -> None:
        torch.manual_seed(0)
        self.names = [f"objective{k}" for k in range(objectives)]
        if network == "mlp":
            sizes = {name: (5, 1)[k % 2] for k, name in enumerate(self.names)}
            self.images, entry, facts = torch.randn(256, 21), "shared_trunk", {"in_features": 21}
        else:
            sizes = dict.fromkeys(self.names, 10)
            entry, facts = "shared_trunk_lenet", {"in_channels": 1, "image_size": 36}
            self.images = torch.randn(64, 1, 36, 36)
        classes = {name: size for name, size in sizes.items() if size > 1}
        model: Any = create_model(
            entry, **facts, classifiers=classes, regressors={name: 1 for name in self.names if name not in classes}
        )
        self.model, rows = model, len(self.images)
        self.targets = {
            name: torch.randint(size, (rows,)) if size > 1 else torch.randn(rows, 1) for name, size in sizes.items()
        }
        self.shared = list(model.shared_parameters())
        self.size = sum(p.numel() for p in self.shared)

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.model.features(self.images)
        outputs = self.model.heads(z)
        return z, {
            name: cross_entropy(outputs[name], target) if target.dim() == 1 else mse_loss(outputs[name], target)
            for name, target in self.targets.items()
        }

    def clear(self) -> None:
        self.model.zero_grad()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write ``results/balancer_cost.csv``, draw, and fill in the documents."""
    parser = command.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="turns of every variant (fewer where steps are long)")
    options = command.parse(parser, arguments, "part", PARTS)
    if not options.collect:
        parts = {part: partial(PARTS[part], options.rounds) for part in options.names}
        facts = results.environment(describe_device(CPU))
        results.record(results.RESULTS / FILE, FIELDS, parts, facts)
    results.write_figures(FIGURES)
    documents.write("benchmark_balancers", BLOCKS)


def compare(
    problem: Problem,
    variants: Mapping[str, Callable[[], None]],
    rounds: int,
    title: str,
    steps: int = 1,
    processor: bool = False,
) -> list[Row]:
    """Times of a step and their ratios; each variant makes ``steps`` of them at once."""
    times = medians(take_turns(variants, rounds, title, before=problem.clear), processor)
    return [
        {
            "variant": name,
            "objectives": len(problem.names),
            "parameters": problem.size,
            "milliseconds": f"{1000 * value / steps:.4g}",
            "to_plain": f"{value / times['plain']:.4g}",
            "to_bare": f"{value / times['bare']:.4g}" if "bare" in times else "",
            "device": describe_device(CPU),
        }
        for name, value in times.items()
    ]


def methods() -> list[str]:
    """Balancers that any batch can be given to."""
    return [name for name in ours.balancers() if name != "torchjd" and balancer_class(name).needs != "validation"]


def measures_gradients(name: str) -> bool:
    """Whether a step takes a backward pass per objective."""
    return balancer_class(name).needs in ("gramian", "jacobian")


def measure_losses(rounds: int) -> list[Row]:
    """Methods of one backward, K = 3, ResNet-18; small differences need more turns."""
    problem = Problem(3)
    variants = {"plain": problem.plain}
    needed: dict[str, dict[str, Any]] = {"prior_loss": {"prior_losses": dict.fromkeys(problem.names, 1.0)}}
    variants |= {
        name: problem.balanced(name, **needed.get(name, {})) for name in methods() if not measures_gradients(name)
    }
    return compare(problem, variants, 3 * rounds, "methods that look at losses")


def measure_steps(rounds: int) -> list[Row]:
    """Methods that measure gradients, K = 3, ResNet-18, with those of torchjd."""
    problem = Problem(3)
    variants = {"plain": problem.plain, "bare": problem.bare}
    variants |= {name: problem.balanced(name) for name in methods() if measures_gradients(name)}
    variants |= {f"{name}, features": problem.balanced(name, at="features") for name in ("mgda", "upgrad")}
    for aggregator in ("UPGrad", "MGDA", "PCGrad"):
        variants |= {f"torchjd {aggregator}, {mode}": problem.torchjd(aggregator, *MODES[mode]) for mode in MODES}
    return compare(problem, variants, rounds, "methods that look at gradients")


def measure_every(rounds: int) -> list[Row]:
    """New weights at every tenth step: the time of ten steps, divided by ten."""
    problem = Problem(3)

    def ten() -> None:
        for index in range(10):
            if index:
                problem.clear()
            problem.plain()

    variants = {"plain": ten} | {name: problem.balanced(name, steps=10, update_every=10) for name in ("mgda", "upgrad")}
    return compare(problem, variants, max(rounds // 3, 3), "every=10", steps=10)


def measure_curve(rounds: int, problem: Problem, title: str) -> list[Row]:
    """The steps whose cost is drawn as a curve."""
    variants = {
        "plain": problem.plain,
        "bare": problem.bare,
        "uncertainty": problem.balanced("uncertainty"),
        "upgrad": problem.balanced("upgrad"),
        "upgrad, features": problem.balanced("upgrad", at="features"),
        "torchjd UPGrad, looped": problem.torchjd("UPGrad", *MODES["looped"]),
    }
    return compare(problem, variants, max(3, rounds), title)


def measure_counts(rounds: int) -> list[Row]:
    """Cost against the number of objectives."""
    return [row for k in COUNTS for row in measure_curve(rounds * 3 // k, Problem(k), f"K = {k}")]


def measure_sizes(rounds: int) -> list[Row]:
    """Cost against the number of shared parameters."""
    return [row for trunk in TRUNKS for row in measure_curve(rounds // 2, Problem(3, trunk), trunk)]


@own_threads()
def measure_small(rounds: int, network: str = "mlp") -> list[Row]:
    """Every method on a small model, on one thread; those of torchjd in the best of its modes."""
    torch.set_num_threads(1)
    rows = []
    for count in (2, 10, 40):
        problem = SmallProblem(count, network)
        variants = {"plain": problem.plain, "bare": problem.bare}
        if count == 2:
            needed: dict[str, dict[str, Any]] = {"prior_loss": {"prior_losses": dict.fromkeys(problem.names, 1.0)}}
            names = [name for name in methods() if not measures_gradients(name)]
            variants |= {name: problem.balanced(name, **needed.get(name, {})) for name in names}
        if count < 40:
            variants |= {
                name: problem.balanced(name)
                for name in methods()
                if balancer_class(name).needs == "gramian" and (name != "krum" or count > 2)
            }
            variants |= {
                f"torchjd {aggregator}, {mode}": problem.torchjd(aggregator, *MODES[mode])
                for aggregator in RIVALS.values()
                for mode in MODES
            }
        variants |= {
            f"{name}, features": problem.balanced(name, at="features") for name in ("mgda", "pcgrad", "upgrad")
        }
        rows += compare(
            problem, variants, max(rounds * (6 if network == "mlp" else 2) // count, 5), f"{network}, K = {count}"
        )
    return rows


def measure_memory(rounds: int) -> list[Row]:
    """Peak memory of a step beyond a plain one, in buffers of the size of the shared gradient."""
    problem = Problem(3)
    variants = {"plain": problem.plain, "bare": problem.bare}
    variants |= {name: problem.balanced(name) for name in ("realtime", "mgda", "upgrad", "graddrop", "moco")}
    variants["upgrad, features"] = problem.balanced("upgrad", at="features")
    variants |= {f"torchjd UPGrad, {mode}": problem.torchjd("UPGrad", *MODES[mode]) for mode in MODES}
    facts = {"objectives": 3, "parameters": problem.size}
    buffers = buffers_beyond_plain(problem, variants)
    return [{"variant": name, **facts, "buffers": f"{value:.2f}"} for name, value in buffers.items()]


def buffers_beyond_plain(problem: Problem, variants: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Peak memory of each step beyond the plain one, in buffers of the shared gradient's size."""
    peaks = {}
    for name, step in variants.items():
        problem.clear()
        step()  # the first step makes state
        problem.clear()
        peaks[name] = peak_bytes(step)
    return {name: (peak - peaks["plain"]) / (4 * problem.size) for name, peak in peaks.items()}


@own_threads()
def measure_lean(rounds: int, trunk: str) -> list[Row]:
    """Time of the processor, on one thread, and memory: ten gradients at once, or segments."""
    torch.set_num_threads(1)
    problem = Problem(10, trunk, *LARGE[trunk])
    variants = {"plain": problem.plain, "bare": problem.bare}
    variants |= {f"mgda, `memory={memory}`": problem.balanced("mgda", memory=memory) for memory in ("full", "lean")}
    variants["torchjd MGDA, looped, summed Gramians"] = problem.torchjd("MGDA", *MODES["looped, summed Gramians"])
    buffers = buffers_beyond_plain(problem, variants)
    rows = compare(problem, variants, max(rounds // 5, 3), trunk, processor=True)
    return [row | {"buffers": f"{buffers[row['variant']]:.2f}"} for row in rows]


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "losses": measure_losses,
    "steps": measure_steps,
    "every": measure_every,
    "counts": measure_counts,
    "sizes": measure_sizes,
    "solvers": solvers.measure,
    "errors": solvers.measure_errors,
    "memory": measure_memory,
    "threads": backward_threads.measure,
    "small": measure_small,
    "lenet": partial(measure_small, network="lenet"),
    "lean_vit": partial(measure_lean, trunk="vit_small_patch16_224"),
    "lean_resnet": partial(measure_lean, trunk="resnet50"),
}


# ---- what is made of the numbers -------------------------------------------------------------------------------------


def read(*parts: str) -> list[dict[str, str]]:
    """The rows of these parts in ``results/balancer_cost.csv``."""
    return [row for row in results.read_rows(results.RESULTS / FILE) if row["part"] in parts]


def losses_table() -> str:
    """Cost of a step with each method that takes one backward."""
    return documents.table(("step", "to a plain step"), cells(read("losses"), "to_plain"))


def steps_table() -> str:
    """Cost of a step with each method that looks at gradients."""
    cheap = {row["variant"] for row in read("losses")} - {"plain"}
    steps = cells([row for row in read("steps") if row["variant"] not in cheap], "to_plain", "to_bare")
    every = [[f"{name}, `every=10`", f"{ratio} |"] for name, ratio in cells(read("every"), "to_plain")[1:]]
    return documents.table(("step", "to a plain step", "to the bare passes"), steps + every)


def cells(rows: Sequence[Mapping[str, str]], *columns: str) -> list[list[str]]:
    """A line per variant: plain and bare first, other libraries last."""

    def place(row: Mapping[str, str]) -> tuple[bool, str]:
        return "torchjd" in row["variant"], "" if row["variant"] in ("plain", "bare") else row["variant"]

    return [[row["variant"], *(f"{float(row[column]):.2f}" for column in columns)] for row in sorted(rows, key=place)]


def small_table(part: str) -> str:
    """Cost of a step of a small model, to a plain step or to the bare passes."""
    rows = read(part)
    cost = {(row["variant"], row["objectives"]): row for row in rows}
    counts = list(dict.fromkeys(row["objectives"] for row in rows))
    names = [name for name in dict.fromkeys(row["variant"] for row in rows) if not name.startswith("torchjd")]

    def cell(name: str, count: str) -> str:
        row = cost.get((name, count))
        if row is None:
            return ""
        dear = name in methods() and measures_gradients(name)
        text = f"{float(row['to_bare' if dear else 'to_plain']):.2f}" + (" of bare" if dear else "")
        modes = [
            other
            for key, other in cost.items()
            if key[0].startswith(f"torchjd {RIVALS.get(name)},") and key[1] == count
        ]
        if modes:
            ahead = min(float(other["milliseconds"]) for other in modes) / float(row["milliseconds"])
            text += f", {ahead:.2f}x"
        return text

    lines = [[name, *(cell(name, count) for count in counts)] for name in names]
    return documents.table(("step", *(f"K = {count}" for count in counts)), lines)


def solvers_table() -> str:
    """Milliseconds to find the weights: ours, and torchjd's behind a stroke."""
    return solvers.table(read("solvers"))


def errors_table() -> str:
    """By how much weights miss what their method promises: ours, and torchjd's."""
    return solvers.errors_table(read("errors"))


def memory_table() -> str:
    """Peak memory beyond a plain step."""
    lines = ([row["variant"], f"{float(row['buffers']):.1f}"] for row in read("memory"))
    return documents.table(("step, K = 3", "buffers beyond a plain step"), lines)


def threads_table() -> str:
    """Backward passes side by side, relative to the bare passes."""
    return backward_threads.table(read("threads"))


def lean_table(part: str) -> str:
    """Time and memory of whole gradients and of segments."""
    rows = read(part)
    lines = zip(cells(rows, "to_plain", "to_bare"), cells(rows, "buffers"), strict=True)
    head = "step, K = 10", "to a plain step", "to the bare passes", "buffers beyond a plain step"
    return documents.table(head, ([*times, buffers] for times, (_, buffers) in lines))


def draw() -> Figure:
    """Cost against the number of objectives and of parameters."""
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, part, column, label in (
        (left, "counts", "objectives", "objectives K"),
        (right, "sizes", "parameters", "shared parameters, K = 3"),
    ):
        rows, ends, colors = read(part), {}, {}
        for index, name in enumerate(dict.fromkeys(row["variant"] for row in rows)):
            points = sorted((int(row[column]), float(row["to_plain"])) for row in rows if row["variant"] == name)
            each = {"plain": {"color": INK}, "bare": {"color": SOFT}}.get(name, look(index))
            axes.plot(*zip(*points, strict=True), **{"marker": "o", "markersize": 4, **each}, linewidth=1.5)
            ends[name], colors[name] = points[-1], each["color"]
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="time of a step / plain step")
        places = sorted({int(row[column]) for row in rows})
        plain_ticks(axes.xaxis, places if column == "objectives" else (1e6, 2e6, 5e6, 1e7, 2e7))
        plain_ticks(axes.yaxis, (1, 1.5, 2, 3, 5, 10, 20, 40) if column == "objectives" else (0.9, 1, 1.2, 1.5, 2, 2.5))
        axes.grid()
        label_lines(axes, ends, colors, 3.0)
    return figure


BLOCKS: documents.Blocks = {
    "docs/cost.md": {
        "cost_losses": losses_table,
        "cost_steps": steps_table,
        "cost_solvers": solvers_table,
        "cost_errors": errors_table,
        "cost_memory": memory_table,
        "cost_threads": threads_table,
        "cost_small": partial(small_table, "small"),
        "cost_lenet": partial(small_table, "lenet"),
        "cost_lean_vit": partial(lean_table, "lean_vit"),
        "cost_lean_resnet": partial(lean_table, "lean_resnet"),
    }
}
FIGURES: results.Figures = {"balancer_cost.svg": partial(results.save_figure, salt="cost", draw=draw)}


if __name__ == "__main__":
    main()
