"""Tables and figures of lab/benchmark_methods.py, from the CSV files in results/.

What a table says of a setting is the mean over seeds at its best learning rate, with Student's 95 % interval. One is called
better than another in a result only where the two intervals do not meet, and ranks count only those that are better so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lab import documents, results
from lab.figure_style import FAINT, INK, SIGNS, SOFT, WIDTH, label_lines, limits, look
from lab.studies import METHODS, STUDIES, Trial, baseline, directions
from mozoo.comparison.estimates import Estimate, estimate
from mozoo.figures import front
from mozoo.tracking import read_rows
from tasks.results import ResultKey
from tasks.scores import delta_m

OVER_TIME = ("uncertainty", "realtime", "dwa", "gradnorm", "famo", "mgda", "imtl_g", "nash_mtl")


class Results:
    """A study's results, read from its files.

    Args:
        name: Of the study.

    Attributes:
        higher: Heading -> whether higher is better.
        values: Setting -> heading -> results of its seeds, in the order of seeds; none if one of them diverged.
        tuned: The point of the sweep with the best mean delta-m on the validation split.
        rate: Setting -> its best learning rate.
        cost: Method -> time and memory relative to ``sum``.
    """

    def __init__(self, name: str) -> None:
        self.study = STUDIES[name]
        self.name, self.higher = name, directions(name)
        rows = [row for row in read_rows(runs_file(name)) if row["chosen"] == "1"]
        grouped = {label: [row for row in rows if row["setting"] == label] for label in self.study.settings()}
        self.values = {
            label: {heading: [float(row[heading]) for row in mine] for heading in self.higher}
            for label, mine in grouped.items()
        }
        self.rate = {label: mine[0]["lr"] for label, mine in grouped.items()}
        self.cost = {row["setting"]: (float(row["time"]), float(row["memory"])) for row in read_rows(cost_file(name))}
        self.alone = [label for label in grouped if label.startswith("only ")]
        self.points = [label for label in grouped if label.startswith("fixed ")]
        validated = {label: [float(row["val delta-m"]) for row in grouped[label]] for label in self.points}
        self.tuned = min(self.points, key=lambda label: statistics.fmean(validated[label]))

    def estimate(self, label: str, heading: str) -> Estimate:
        """Mean over seeds, with its interval."""
        return estimate(self.values[label][heading])

    def means(self, label: str) -> dict[str, float]:
        """Heading -> mean over seeds."""
        return {heading: statistics.fmean(values) for heading, values in self.values[label].items()}

    def delta(self, label: str) -> Estimate:
        """delta-m in percent; negative is better."""
        reference = baseline(self.name, self.means)
        seeds = range(len(self.study.seeds))
        values = self.values[label]
        return estimate([delta_m({h: values[h][i] for h in values}, reference, self.higher) for i in seeds])

    def ranks(self, labels: list[str]) -> dict[str, float]:
        """Mean over results of 1 + how many others are better beyond the intervals."""
        places: dict[str, list[int]] = {label: [] for label in labels}
        for heading, higher in self.higher.items():
            estimates = {label: self.estimate(label, heading) for label in labels}
            for label in labels:
                better = (beyond(other, estimates[label], higher) for other in estimates.values())
                places[label].append(1 + sum(better))
        return {label: statistics.fmean(ranks) for label, ranks in places.items()}


def beyond(one: Estimate, other: Estimate, higher: bool) -> bool:
    """Whether ``one`` is better, and the intervals do not meet."""
    distance = (one.mean - other.mean) * (1 if higher else -1)
    return distance > (one.half or 0.0) + (other.half or 0.0)


def runs_file(name: str) -> Path:
    """The CSV file with a row per run."""
    return results.RESULTS / f"methods_{name}.csv"


def cost_file(name: str) -> Path:
    """The CSV file with the cost of a step of each method."""
    return results.RESULTS / f"methods_{name}_cost.csv"


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(outcome: Results) -> str:
    """Methods, the best point of the sweep, objectives alone."""
    study, ranked = outcome.study, [*METHODS, outcome.tuned]
    ranks, lines = outcome.ranks(ranked), []
    for label in [*ranked, *outcome.alone]:
        cells = [_name(label), outcome.rate[label]]
        cells += [_cell(outcome.estimate(label, heading), digits) for heading, (_, digits) in study.metrics.items()]
        cells += [_cell(outcome.delta(label), 2), f"{ranks[label]:.1f}"] if label in ranks else ["", ""]
        cells += [f"{value:.2f}" for value in outcome.cost[label]] if label in outcome.cost else ["", ""]
        lines.append(cells)
    head = ["setting", "lr", *outcome.higher, "delta-m, %", "mean rank", "time", "memory"]
    against = "one model per objective" if study.alone is None else "`sum`"
    note = (
        f"{study.size}; {len(study.seeds)} seeds, learning rates {', '.join(f'{r:g}' for r in study.rates)}. "
        f"delta-m against {against}; negative is better. Time and memory of a step relative to `sum`."
    )
    ends = [_name(label) for label in [*ranked, *outcome.alone] if float(outcome.rate[label]) in study.rates[::2]]
    if ends:
        note += f" Best at an end of these rates, and maybe better beyond it: {', '.join(ends)}."
    return f"{documents.table(head, lines)}\n{note}\n\n{verdict(outcome)}"


def _name(label: str) -> str:
    return f"`{label}`" if label in METHODS else label


def _cell(value: Estimate, digits: int) -> str:
    return value.text(digits) if math.isfinite(value.mean) else "diverged"


def against_the_sweep(outcome: Results) -> tuple[list[str], list[str], list[str]]:
    """Methods with a delta-m better than, like, or worse than the chosen static weights."""
    tuned = outcome.delta(outcome.tuned)
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for label in METHODS:
        delta = outcome.delta(label)
        worse = beyond(tuned, delta, higher=False) or math.isnan(delta.mean)
        groups[0 if beyond(delta, tuned, higher=False) else 2 if worse else 1].append(f"`{label}`")
    return groups


def verdict(outcome: Results) -> str:
    """Methods better, and worse, than the chosen static weights beyond the intervals."""
    better, same, worse = (", ".join(group) or "none" for group in against_the_sweep(outcome))
    last = len(outcome.study.objectives) == 2 and outcome.tuned in (outcome.points[0], outcome.points[-1])
    chosen = f"{outcome.tuned}, the last at that end: a wider sweep may do better" if last else outcome.tuned
    return (
        f"Against the static weights that validation chose of the sweep's {len(outcome.points)} ({chosen}), in delta-m: "
        f"better {better}; no difference beyond the intervals {same}; worse {worse}.\n"
    )


def summary() -> str:
    """A line per study that was run."""
    head = ("study", "`sum`", "static weights of a sweep", "lowest of the methods", "better than the sweep", "worse")
    lines = []
    for name in STUDIES:
        if not runs_file(name).is_file():
            continue
        outcome = Results(name)
        deltas = {label: outcome.delta(label) for label in METHODS}
        lowest = min(METHODS, key=lambda label: (math.isnan(deltas[label].mean), deltas[label].mean))
        better, _, worse = against_the_sweep(outcome)
        cells = [f"[{name}](docs/results.md#{name})", _cell(deltas["sum"], 1), _cell(outcome.delta(outcome.tuned), 1)]
        cells += [f"{_cell(deltas[lowest], 1)} (`{lowest}`)", f"{len(better)} of {len(METHODS)}", f"{len(worse)}"]
        lines.append(cells)
    return documents.table(head, lines)


def block(name: str) -> str:
    """Table and figures of a study."""
    if not runs_file(name).is_file():
        return f"Not run yet: `python lab/benchmark_methods.py {name}`.\n"
    pictures = f"![Results of the sweep and of the methods, and their cost](../results/methods_{name}.svg)\n"
    pictures += f"\n![Weights over time](../results/methods_{name}_weights.svg)\n"
    return f"{table(Results(name))}\n{pictures}"


BLOCKS: documents.Blocks = {
    "docs/results.md": {name: partial(block, name) for name in STUDIES},
    "README.md": {"methods": summary},
}


# ---- figures ---------------------------------------------------------------------------------------------------------


def figures(name: str) -> dict[str, Callable[[Path], None]]:
    """Pairs of results, and delta-m against cost, from the CSV files."""
    return {f"methods_{name}.svg": partial(results.save_figure, salt=name, draw=partial(draw_results, name))}


def weight_figures(name: str) -> dict[str, Callable[[Path], None]]:
    """Weights over time, from the runs at seed 0."""

    def draw() -> Figure:
        outcome = Results(name)
        trials = [Trial(name, label, float(outcome.rate[label]), outcome.study.seeds[0]) for label in OVER_TIME]
        folders = {trial.label: trial.training.folder for trial in trials}
        return draw_weights(name, {label: folder for label, folder in folders.items() if folder.is_dir()})

    return {f"methods_{name}_weights.svg": partial(results.save_figure, salt=name, draw=draw)}


def draw_results(name: str) -> Figure:
    """A panel per pair of objectives, and one of cost, where the points have names."""
    outcome = Results(name)
    objective = {heading: ResultKey.parse(key).objective for heading, (key, _) in outcome.study.metrics.items()}
    first = {objective[heading]: heading for heading in reversed(outcome.higher)}
    headings = [heading for heading in outcome.higher if heading in first.values()]
    if len(headings) == 1:
        headings = list(outcome.higher)[:2]
    pairs = [(a, b) for i, a in enumerate(headings) for b in headings[i + 1 :]]
    looks: dict[str, dict[str, Any]] = {
        label: {**look(index), "markersize": 7, "label": label} for index, label in enumerate(METHODS)
    }
    looks[outcome.tuned] = {"marker": "*", "color": INK, "markersize": 13, "label": "static weights, chosen"}
    lines = math.ceil((1 + len(pairs)) / 2)
    height = max(3.7, 0.17 * (len(looks) + 2))
    figure = Figure(figsize=(WIDTH, height * lines), layout="constrained")
    axes = figure.subplots(lines, 2, squeeze=False).ravel()
    for panel in axes[1 + len(pairs) :]:
        panel.set_axis_off()
    cross = {"marker": "x", "color": SOFT}
    for panel, (x, y) in zip(axes, pairs, strict=False):
        places = {label: [outcome.estimate(label, h).mean for h in (x, y)] for label in (*outcome.points, *looks)}
        sweep = np.array([places[label] for label in outcome.points])
        panel.plot(*_edge(sweep, outcome.higher[x], outcome.higher[y]).T, color=FAINT, linestyle="-", zorder=0)
        marks = [(point, cross) for point in sweep] + [(np.array(places[label]), each) for label, each in looks.items()]
        _mark(panel, marks, among=np.array([point for point, _ in marks]))
        panel.set(xlabel=x + _arrow(outcome.higher[x]), ylabel=y + _arrow(outcome.higher[y]))
        panel.set_title("results; x: static weights of the sweep", fontsize=9, weight="normal")
        panel.grid()
    cost = axes[len(pairs)]
    marks, ends, bars = [], [], []
    for label, each in looks.items():
        seconds, delta = outcome.cost.get(label, (1.0, 1.0))[0], outcome.delta(label)
        bars.append((seconds, delta.mean, delta.half, each["color"]))
        marks.append((np.array([seconds, delta.mean]), each))
        ends += [(seconds, delta.mean + sign * (delta.half or 0.0)) for sign in (-1, 0, 1)]
    _mark(cost, marks, among=np.array(ends))
    low, high = cost.get_ylim()
    for seconds, mean, half, color in bars:
        if low <= mean <= high:
            cost.errorbar(seconds, mean, yerr=half, color=color, capsize=2, fmt="none")
    cost.axhline(outcome.delta(outcome.tuned).mean, color=FAINT, zorder=0)
    cost.set(xlabel="time of a step, relative to sum", ylabel="delta-m, %" + _arrow(False))
    cost.set_title("cost; bars: 95 % intervals", fontsize=9, weight="normal")
    cost.grid()
    named = {
        f"{SIGNS[each['marker']]} {each['label']}": (point, each["color"])
        for point, each in marks
        if np.isfinite(point).all()
    }
    label_lines(
        cost,
        {label: (float(point[0]), float(point[1])) for label, (point, _) in named.items()},
        {label: color for label, (_, color) in named.items()},
        height - 0.9,
    )
    return figure


def _mark(panel: Any, marks: Sequence[tuple[np.ndarray, Mapping[str, Any]]], among: np.ndarray) -> None:
    """Draw points in a frame around those ``among`` which they stand.

    One far from all others would press those together: it stands at the edge, hollow, with its value. Far is more than two
    interquartile ranges beyond the quartiles. What is not a number, as of runs that diverged, has no place.
    """
    low, high = np.array([limits(column, reach=2.0) for column in among.T]).T
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    for point, each in marks:
        if not np.isfinite(point).all():
            continue
        at = np.clip(point, low, high)
        if np.array_equal(at, point):
            panel.plot(*point, **{**each, "linestyle": ""})
            continue
        panel.plot(*at, **{**each, "linestyle": "", "markerfacecolor": "none", "clip_on": False, "zorder": 3})
        text = ", ".join(f"{value:.3g}" for value, shown in zip(point, at, strict=True) if value != shown)
        right, top = at > (low + high) / 2
        away = 5 + 11 * (len(panel.texts) % 3)  # several at one place
        place: Any = {"ha": "right" if right else "left", "va": "top" if top else "bottom", "color": each["color"]}
        panel.annotate(text, at, (-6 if right else 6, -away if top else away), textcoords="offset points", **place)


def _arrow(higher: bool) -> str:
    return " (higher is better)" if higher else " (lower is better)"


def _edge(points: np.ndarray, higher_x: bool, higher_y: bool) -> np.ndarray:
    """The points that no other beats in both results, from left to right."""
    signs = np.array([-1.0 if higher_x else 1.0, -1.0 if higher_y else 1.0])
    best = points[front(signs * points)]
    return np.asarray(best[best[:, 0].argsort()])


def draw_weights(name: str, folders: Mapping[str, Path]) -> Figure:
    """The share of each objective in the sum of weights, a panel per method."""
    objectives, columns = STUDIES[name].objectives, 4
    rows = max(math.ceil(len(folders) / columns), 1)
    figure = Figure(figsize=(WIDTH, 1.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    smallest = []
    for panel, (label, folder) in zip(panels, folders.items(), strict=False):
        history = [row for row in read_rows(folder / "balance.csv") if row.get(f"weight/{objectives[0]}", "") != ""]
        steps = [int(row["step"]) for row in history]
        weights = np.array([[float(row[f"weight/{name}"]) for name in objectives] for row in history])
        shares = weights / weights.sum(1, keepdims=True)
        smallest.append(shares.min())
        for index, (name, share) in enumerate(zip(objectives, shares.T, strict=True)):
            panel.plot(steps, share, **{**look(index), "marker": ""}, label=name, linewidth=1.3)
        panel.set_title(label, fontsize=9)
        panel.locator_params(axis="x", nbins=4)
        panel.grid()
    for panel in panels[len(folders) :]:
        panel.set_axis_off()
    if smallest and min(smallest) >= 0 and np.median(smallest) < 1e-3:  # lines at 0 and at 1 would tell nothing
        panels[0].set_yscale("log")
    figure.supylabel("share of the weights")
    figure.supxlabel("step")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure
