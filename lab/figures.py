"""Pictures of each method on two conflicting gradients, and the table of all methods.

python lab/figures.py        # writes results/arrows_*.svg and the table in docs/balancing.md (seconds)

Every arrow is what ``backward`` left in ``.grad``. Every entry of the table is an attribute of the class or a measurement
of it; only what bilevel methods cost, and the row of the adapter, are written by hand.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Wedge
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balancing import Balancer, BilevelBalancer, Composed, balancer_class, create_balancer
from lab import command, documents, results

DATA: Mapping[str, Any] = results.read_yaml(Path(__file__).with_suffix(".yaml"))
FAMILIES: Mapping[str, Sequence[str]] = DATA["families"]


# ---- a problem whose losses and gradients are chosen -----------------------------------------------------------------


class Problem(nn.Module):
    """Losses that are linear in shared parameters, with chosen values and gradients.

    Args:
        size: P, how many parameters.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def choose(self, losses: Tensor, jacobian: Tensor) -> None:
        """Set the (K,) losses and their (K, P) gradients."""
        self.values, self.jacobian, self.theta.grad = losses, jacobian, None

    def forward(self) -> dict[str, Tensor]:
        """Name -> loss."""
        return dict(zip(names(len(self.values)), self.values + self.jacobian @ self.theta, strict=True))


@dataclass
class Step:
    """The gradient that a method left in one step, and its weights if it has any."""

    direction: Tensor
    weights: Tensor | None


def names(count: int) -> tuple[str, ...]:
    """``a``, ``b``, ``c``, ..."""
    return tuple("abcdefghij"[:count])


def make(name: str, count: int = 2, units: Sequence[float] | None = None, **arguments: Any) -> Balancer:
    """A balancer for ``count`` objectives, with its required arguments, in ``units``."""
    if name == "prior_loss":
        arguments.setdefault("prior_losses", dict(zip(names(count), units or [1.0] * count, strict=True)))
    return create_balancer(name, names(count), **arguments)


def follow(
    balancer: Balancer,
    steps: Sequence[tuple[Tensor, Tensor]],
    optimizer: type[torch.optim.Adam | torch.optim.SGD] = torch.optim.Adam,
) -> list[Step]:
    """Steps, each an epoch with its losses and gradients; ``optimizer`` moves learned weights."""
    problem, taken = Problem(steps[0][1].shape[1]), []
    own = optimizer(balancer.parameters(), lr=0.02) if any(True for _ in balancer.parameters()) else None
    for index, step in enumerate(steps):
        problem.choose(*step)
        if isinstance(balancer, BilevelBalancer):
            report = balancer.meta_backward(problem, Problem.__call__, Problem.__call__, lr=0.01)
        else:
            report = balancer.backward(problem(), shared=[problem.theta])
        grad = problem.theta.grad
        taken.append(Step(torch.zeros_like(problem.theta) if grad is None else grad, report.weights))
        if balancer.observes and index + 1 < len(steps):
            problem.choose(*steps[index + 1])
            balancer.observe(problem())
        if own is not None:
            own.step()
            own.zero_grad()
        balancer.next_epoch()
    return taken


# ---- pictures --------------------------------------------------------------------------------------------------------

#: Two gradients at an obtuse angle, the second twice as long as the first, and a third for methods that need it.
ANGLES, LENGTHS = (145.0, 15.0, 80.0), (1.0, 2.0, 1.2)
#: The losses at four steps: the smaller one falls faster.
LOSSES = ((1.2, 2.4, 1.5), (1.0, 2.2, 1.4), (0.8, 2.0, 1.3), (0.6, 1.8, 1.2))
A, B, C, GOOD, BAD, CONE = "#2563eb", "#d97706", "#9333ea", "#111827", "#be123c", "#dcfce7"
COLUMNS, LEFT, RIGHT, BOTTOM, TOP = 4, -1.35, 2.25, -0.5, 2.1


def pictures() -> dict[str, tuple[str, ...]]:
    """File -> its panels."""
    before: dict[str, tuple[str, ...]] = {"losses": (), "gradients": ("sum",), "jacobians": ("sum",)}
    return {key: (*first, *(n for n in FAMILIES[key] if n != "torchjd")) for key, first in before.items()}


def example(name: str, seed: int = 0) -> tuple[Tensor, Step]:
    """The gradients that a panel shows, and what the method makes of them at the last step."""
    count = 3 if name in DATA["three"] else 2
    turn = [math.radians(angle) for angle in ANGLES[:count]]
    rows = [[n * math.cos(t), n * math.sin(t)] for n, t in zip(LENGTHS, turn, strict=False)]
    jacobian = torch.tensor(rows, dtype=torch.float64)
    steps = [(torch.tensor(values[:count], dtype=torch.float64), jacobian) for values in LOSSES]
    return jacobian, follow(make(name, count, seed=seed, **DATA["arguments"].get(name, {})), steps)[-1]


def draw(family: str) -> Figure:
    """A panel per method: gradients, directions that harm no objective, and its direction."""
    panels = pictures()[family]
    lines = math.ceil(len(panels) / COLUMNS)
    layout = ConstrainedLayoutEngine(h_pad=0.04, w_pad=0.03, hspace=0.0, wspace=0.0)
    figure = Figure(figsize=(1.6 * COLUMNS, 1.6 * lines + 0.75), layout=layout)
    grid = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes, name in zip(grid, panels, strict=False):
        panel(axes, name, labels=axes is grid[0])
    for axes in grid[len(panels) :]:
        axes.axis("off")
    legend = [
        Patch(color=CONE, label="harms no objective"),
        Line2D([], [], color=GOOD, linewidth=2.5, label="d inside"),
        Line2D([], [], color=BAD, linewidth=2.5, label="d outside"),
    ]
    (first, *_, last), steps = [values[:2] for values in LOSSES], len(LOSSES)
    title = f"Step {steps} of {steps}; the losses (a, b) went from {first} to {last}"  # of all panels
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": 3, "columnspacing": 1.2}
    figure.legend(handles=legend, title=title, frameon=False, **place)
    return figure


def panel(axes: Any, name: str, labels: bool) -> None:
    """Draw one method."""
    jacobian, step = example(name)
    axes.set(xlim=(LEFT, RIGHT), ylim=(BOTTOM, TOP), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_color("#cbd5e1")
    cone(axes, jacobian)
    for row, color, letter in zip(jacobian.tolist(), (A, B, C), "abc", strict=False):
        arrow(axes, row, color, 1.6)
        if labels or letter == "c":
            axes.text(row[0] * 0.9, row[1] + 0.14, f"g$_{letter}$", color=color, ha="center", va="bottom")
    if name in DATA["random"]:
        tips = [example(name, seed)[1].direction.tolist() for seed in range(1, 17)]
        axes.scatter(*zip(*tips, strict=True), s=7, color="#6b7280", zorder=3)
    d = step.direction
    harms = bool((jacobian @ unit(d) < -TOLERANCE).any())
    reach = (0.95 * (RIGHT if d[0] > 0 else LEFT), 0.95 * (TOP if d[1] > 0 else BOTTOM))
    shown = min(1.0, *(limit / value for value, limit in zip(d.tolist(), reach, strict=True) if value != 0))
    arrow(axes, (shown * d).tolist(), BAD if harms else GOOD, 2.6)
    axes.set_title(name, family="monospace", fontsize=10.5 if len(name) < 18 else 8.5, weight="bold", pad=16)
    axes.text(0.5, 1.03, label(step), transform=axes.transAxes, ha="center", va="bottom", fontsize=9.5, color="#374151")
    note = f"d is {1 / shown:.0f} times as long" if shown < 1 else DATA["notes"].get(name, "")
    axes.text(0.5, 0.02, note, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5, color="#6b7280")


def label(step: Step) -> str:
    """The weights in words."""
    if step.weights is None:
        return "no weights"
    return "w = " + ", ".join(f"{w:.2f}" for w in step.weights.tolist()).replace("-", "\N{MINUS SIGN}")


def arrow(axes: Any, tip: Sequence[float], color: str, width: float) -> None:
    """From the origin to ``tip``, with a head that leaves room for a shaft."""
    look: dict[str, Any] = {"arrowstyle": "-|>,head_length=0.45,head_width=0.22", "color": color, "linewidth": width}
    look |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": min(5 + 2.5 * width, 20 * math.hypot(*tip))}
    axes.annotate("", xy=tip, xytext=(0, 0), arrowprops={**look, "joinstyle": "miter"})


def cone(axes: Any, jacobian: Tensor) -> None:
    """Shade the directions that have a non-negative product with every gradient."""
    angles = [math.degrees(math.atan2(y, x)) for x, y in jacobian.tolist()]
    low, high = max(angles) - 90, min(angles) + 90
    if low < high:
        axes.add_patch(Wedge((0, 0), 10, low, high, facecolor=CONE, edgecolor="none", zorder=0))


# ---- the table -------------------------------------------------------------------------------------------------------

#: Agreement of directions and signs of products: well above rounding in single precision, well below what anyone notices.
TOLERANCE = 1e-4


def chooser() -> str:
    """The table as Markdown: attributes of the classes, and two measurements of each."""
    head = ("method", "needs", "a step costs", "scale", "heads", "preference on", "unit-free", "harms an objective")
    lines = []
    for family, methods in FAMILIES.items():
        for name in methods:
            cls, link = balancer_class(name), f"[`{name}`](balancing_{family}.md#{name})"
            if name == "torchjd":
                cells = ["gramian or jacobian", "K backwards", "own", "unit", "rows", "by aggregator", "by aggregator"]
            else:
                own = (cls.needs, cost(cls), cls.convention)
                cells = [*own, heads(name), cls.preference_on, invariance(name), harm(name)]
            lines.append([link, *cells])
    return documents.table(head, lines)


def cost(cls: type[Balancer]) -> str:
    """What a step costs, in backward passes through the shared parameters."""
    if issubclass(cls, BilevelBalancer):
        return DATA["bilevel"][cls.name]
    turns = cls.active not in (Balancer.active, Composed.active)
    words = "K backwards" if cls.needs in ("gramian", "jacobian") and not turns else "1 backward"
    words += ", of one objective" * turns + ", a forward more" * bool(cls.observes)
    return words + ", gradients kept" * cls.remembers


def heads(name: str) -> str:
    """What the gradients of heads are multiplied with by default."""
    balancer = make(name, 3)
    rule = balancer.head_rule if balancer.measures else "weighted"
    return f"{rule}, after `{balancer.loss_balancer.name}`" if isinstance(balancer, Composed) else rule


def invariance(name: str) -> str:
    """Whether directions stay the same if one loss is given in a unit a thousandth as large.

    What is learned takes plain gradient steps here: Adam would turn the rounding errors of a zero gradient into steps.
    """
    units = torch.tensor([1.0, 1000.0, 1.0], dtype=torch.float64)
    for seed in range(10):
        steps = random_steps(seed, count=3, length=4)
        scaled = [(losses * units, jacobian * units[:, None]) for losses, jacobian in steps]
        plain = follow(make(name, 3), steps, torch.optim.SGD)
        other = follow(make(name, 3, units.tolist()), scaled, torch.optim.SGD)
        for one, two in zip(plain, other, strict=True):
            if (unit(one.direction) - unit(two.direction)).norm() > TOLERANCE:
                return "no"
    return "yes"


def harm(name: str) -> str:
    """Whether the method is ever seen to harm an objective."""
    counts = [count for count in (2, 3, 5) if count > 2 or name not in DATA["three"]]
    harmful = [count for count in counts if harms(name, count)]
    if not harmful:
        return "never"
    return "sometimes" if harmful[0] == counts[0] else "if K > 2"


def harms(name: str, count: int) -> bool:
    """Whether the direction of the K-th step has a negative product with one of its gradients.

    That is looked for in 70 random runs that end with a conflict.
    """
    runs = (random_steps(seed, count, length=count) for seed in itertools.count(1))
    conflicting = (steps for steps in runs if bool((steps[-1][1] @ steps[-1][1].T < 0).any()))
    for steps in itertools.islice(conflicting, 70):
        d, jacobian = unit(follow(make(name, count), steps)[-1].direction), steps[-1][1]
        if bool((jacobian @ d < -TOLERANCE * jacobian.norm(dim=1)).any()):
            return True
    return False


def random_steps(seed: int, count: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Losses (K,) and gradients (K, K) of some steps; objectives differ in size about threefold."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, count + 1, generator=generator, dtype=torch.float64)
    scale, steps = base[:, 0].exp(), []
    for _ in range(length):
        noise = torch.randn(base.shape, generator=generator, dtype=torch.float64)
        losses = scale * (1 + 0.2 * noise[:, 0].tanh())
        steps.append((losses, scale[:, None] * (base + 0.3 * noise)[:, 1:]))
    return steps


def unit(vector: Tensor) -> Tensor:
    """Of length 1; the zero vector as it is."""
    return vector / vector.norm().clamp(min=1e-30)


BLOCKS: documents.Blocks = {"docs/balancing.md": {"chooser": chooser}}
FIGURES: results.Figures = {
    f"arrows_{family}.svg": partial(
        results.save_figure, salt=family, draw=partial(draw, family), style={"font.size": 10}
    )
    for family in pictures()
}


def main() -> None:
    """Write everything."""
    command.parser(__doc__).parse_args()
    results.write_figures(FIGURES)
    documents.write("figures", BLOCKS)


if __name__ == "__main__":
    main()
