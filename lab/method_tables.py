"""Tables and figures of lab/benchmark_methods.py, from the CSV files in results/.

What a table says of a setting is the mean over seeds at its best learning rate, with Student's 95 % interval. One is called
better than another in a result only where the two intervals do not meet, and ranks count only those that are better so.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.comparison.estimates import Estimate, estimate
from engine.tracking import read_rows
from lab import documents
from lab.benchmark_methods import METHODS, STUDIES, Job, baseline, directions
from lab.tables import RESULTS, ROOT
from tasks.results import ResultKey
from tasks.scores import delta_m

__all__ = ["Results", "block", "draw", "fill_in", "summary", "table", "verdict"]

DOCUMENT = ROOT / "docs" / "results.md"
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
        rows = [row for row in _read(_file(name)) if row["chosen"] == "1"]
        grouped = {label: [row for row in rows if row["setting"] == label] for label in self.study.settings()}
        self.values = {
            label: {heading: [float(row[heading]) for row in mine] for heading in self.higher}
            for label, mine in grouped.items()
        }
        self.rate = {label: mine[0]["lr"] for label, mine in grouped.items()}
        self.cost = {row["setting"]: (float(row["time"]), float(row["memory"])) for row in _read(_cost_file(name))}
        self.alone = [label for label in grouped if label.startswith("only ")]
        self.points = [label for label in grouped if label.startswith("fixed ")]
        validated = {label: [float(row["val delta-m"]) for row in grouped[label]] for label in self.points}
        self.tuned = min(self.points, key=lambda label: statistics.fmean(validated[label]))

    def estimate(self, label: str, heading: str) -> Estimate:
        """Mean over seeds, with its interval."""
        return estimate(self.values[label][heading])

    def means(self, label: str) -> dict[str, float]:
        """Heading -> mean over seeds."""
        return {heading: statistics.fmean(found) for heading, found in self.values[label].items()}

    def delta(self, label: str) -> Estimate:
        """delta-m in percent; negative is better."""
        reference = baseline(self.name, self.means)
        seeds = range(len(self.study.seeds))
        values = self.values[label]
        return estimate([delta_m({h: values[h][i] for h in values}, reference, self.higher) for i in seeds])

    def ranks(self, labels: list[str]) -> dict[str, float]:
        """Mean over results of 1 + how many others are better beyond the intervals."""
        found = {label: [] for label in labels}  # type: dict[str, list[int]]
        for heading, higher in self.higher.items():
            estimates = {label: self.estimate(label, heading) for label in labels}
            for label in labels:
                better = (beyond(other, estimates[label], higher) for other in estimates.values())
                found[label].append(1 + sum(better))
        return {label: statistics.fmean(ranks) for label, ranks in found.items()}


def beyond(one: Estimate, other: Estimate, higher: bool) -> bool:
    """Whether ``one`` is better, and the intervals do not meet."""
    distance = (one.mean - other.mean) * (1 if higher else -1)
    return distance > (one.half or 0.0) + (other.half or 0.0)


def _file(name: str) -> Path:
    return RESULTS / f"methods_{name}.csv"


def _cost_file(name: str) -> Path:
    return RESULTS / f"methods_{name}_cost.csv"


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(found: Results) -> str:
    """Methods, the best point of the sweep, objectives alone."""
    against = "one model per objective" if found.study.alone is None else "`sum`"
    head = ["setting", "lr", *found.higher, "delta-m, %", "mean rank", "time", "memory"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    ranked = [*METHODS, found.tuned]
    ranks = found.ranks(ranked)
    for label in [*ranked, *found.alone]:
        cells = [_name(label), found.rate[label]]
        cells += [_cell(found.estimate(label, heading), digits) for heading, (_, digits) in found.study.metrics.items()]
        cells.append(_cell(found.delta(label), 2) if label in ranks else "")
        cells.append(f"{ranks[label]:.1f}" if label in ranks else "")
        cells += [f"{value:.2f}" for value in found.cost[label]] if label in found.cost else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    seeds = len(found.study.seeds)
    lines += [
        "",
        f"{found.study.size}; {seeds} seeds, learning rates {', '.join(f'{r:g}' for r in found.study.rates)}.",
    ]
    lines[-1] += f" delta-m against {against}; negative is better. Time and memory of a step relative to `sum`."
    ends = [_name(label) for label in [*ranked, *found.alone] if float(found.rate[label]) in found.study.rates[::2]]
    if ends:
        lines[-1] += f" Best at an end of these rates, and maybe better beyond it: {', '.join(ends)}."
    return "\n".join(lines) + "\n\n" + verdict(found)


def _name(label: str) -> str:
    return f"`{label}`" if label in METHODS else label


def _cell(value: Estimate, digits: int) -> str:
    return value.text(digits) if math.isfinite(value.mean) else "diverged"


def against_the_sweep(found: Results) -> tuple[list[str], list[str], list[str]]:
    """Methods that are better in delta-m than the static weights that validation chose; no different; worse or diverged."""
    tuned = found.delta(found.tuned)
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for label in METHODS:
        delta = found.delta(label)
        worse = beyond(tuned, delta, higher=False) or math.isnan(delta.mean)
        groups[0 if beyond(delta, tuned, higher=False) else 2 if worse else 1].append(f"`{label}`")
    return groups


def verdict(found: Results) -> str:
    """Who is better than the best static weights of the sweep, and who is worse, beyond the intervals."""
    better, same, worse = (", ".join(group) or "none" for group in against_the_sweep(found))
    last = len(found.study.objectives) == 2 and found.tuned in (found.points[0], found.points[-1])
    chosen = f"{found.tuned}, the last at that end: a wider sweep may do better" if last else found.tuned
    return (
        f"Against the static weights that validation chose of the sweep's {len(found.points)} ({chosen}), in delta-m: "
        f"better {better}; no difference beyond the intervals {same}; worse {worse}.\n"
    )


def summary() -> str:
    """A line per study that was run."""
    head = ("study", "`sum`", "static weights of a sweep", "lowest of the methods", "better than the sweep", "worse")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in STUDIES:
        if not _file(name).is_file():
            continue
        found = Results(name)
        deltas = {label: found.delta(label) for label in METHODS}
        lowest = min(METHODS, key=lambda label: (math.isnan(deltas[label].mean), deltas[label].mean))
        better, _, worse = against_the_sweep(found)
        cells = [f"[{name}](docs/results.md#{name})", _cell(deltas["sum"], 1), _cell(found.delta(found.tuned), 1)]
        cells += [f"{_cell(deltas[lowest], 1)} (`{lowest}`)", f"{len(better)} of {len(METHODS)}", f"{len(worse)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def block(name: str) -> str:
    """Table and figures of a study."""
    if not _file(name).is_file():
        return f"Not run yet: `python lab/benchmark_methods.py {name}`.\n"
    pictures = f"![Results of the sweep and of the methods, and their cost](../results/methods_{name}.svg)\n"
    pictures += f"\n![Weights over time](../results/methods_{name}_weights.svg)\n"
    return f"{table(Results(name))}\n{pictures}"


def fill_in() -> None:
    """Write the tables into the page."""
    documents.fill_in(DOCUMENT, "benchmark_methods", {name: block(name) for name in STUDIES})
    documents.fill_in(ROOT / "README.md", "benchmark_methods", {"methods": summary()})


# ---- figures ---------------------------------------------------------------------------------------------------------


def draw(name: str) -> None:
    """Pairs of results, delta-m against cost, and weights over time of the runs at seed 0."""
    from matplotlib import rc_context

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        found = Results(name)
        _draw_results(found).savefig(RESULTS / f"methods_{name}.svg", metadata={"Date": None})
        folders = {
            label: Job(name, label, float(found.rate[label]), found.study.seeds[0]).folder for label in OVER_TIME
        }
        figure = _draw_weights(found, {label: folder for label, folder in folders.items() if folder.is_dir()})
        figure.savefig(RESULTS / f"methods_{name}_weights.svg", metadata={"Date": None})


def _draw_results(found: Results) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    objective = {heading: ResultKey.parse(key).objective for heading, (key, _) in found.study.metrics.items()}
    first = {objective[heading]: heading for heading in reversed(found.higher)}
    headings = [heading for heading in found.higher if heading in first.values()]
    if len(headings) == 1:
        headings = list(found.higher)[:2]
    pairs = [(a, b) for i, a in enumerate(headings) for b in headings[i + 1 :]]
    figure = Figure(figsize=(5.2 * (1 + len(pairs)), 4.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(pairs))
    looks: dict[str, dict[str, Any]] = {
        label: {"marker": "osD"[i // 10], "color": f"C{i % 10}", "label": label} for i, label in enumerate(METHODS)
    }
    looks[found.tuned] = {"marker": "*", "color": "black", "markersize": 12, "label": "chosen by validation"}
    cross = {"marker": "x", "color": "#64748b", "label": "static weights"}
    for panel, (x, y) in zip(axes, pairs, strict=False):
        place = partial(_means, found, x, y)
        sweep = np.array([place(label) for label in found.points])
        panel.plot(*_edge(sweep, found.higher[x], found.higher[y]).T, color="#cbd5e1", zorder=0)
        marks = [(point, cross) for point in sweep] + [(np.array(place(label)), look) for label, look in looks.items()]
        _mark(panel, marks, among=np.array([point for point, _ in marks]))
        panel.set_xlabel(x + _arrow(found.higher[x]))
        panel.set_ylabel(y + _arrow(found.higher[y]))
        panel.grid(color="#e2e8f0")
    cost = axes[-1]
    marks, ends = [], []
    for label, look in looks.items():
        seconds, delta = found.cost.get(label, (1.0, 1.0))[0], found.delta(label)
        cost.errorbar(seconds, delta.mean, yerr=delta.half, color=look["color"], capsize=2, fmt="none")
        marks.append((np.array([seconds, delta.mean]), look))
        ends += [(seconds, delta.mean + sign * (delta.half or 0.0)) for sign in (-1, 1)]
    _mark(cost, marks, among=np.array(ends))
    cost.axhline(found.delta(found.tuned).mean, color="#cbd5e1", zorder=0)
    cost.set_xlabel("time of a step, relative to sum")
    cost.set_ylabel("delta-m, %" + _arrow(False))
    cost.grid(color="#e2e8f0")
    handles = [Line2D([], [], linestyle="", **look) for look in (cross, *looks.values())]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _mark(panel: Any, marks: Sequence[tuple[np.ndarray, Mapping[str, Any]]], among: np.ndarray) -> None:
    """Draw points in a frame around those ``among`` which they stand.

    One far from all others would press those together: it stands at the edge, hollow, with its value. Far is more than five
    interquartile ranges beyond the quartiles. What is not a number, as of runs that diverged, has no place.
    """
    among = among[np.isfinite(among).all(1)]
    low, high = np.quantile(among, [0.25, 0.75], axis=0)
    reach = np.where(high > low, 5 * (high - low), np.inf)
    near = np.where(np.abs(among - among.clip(low, high)) <= reach, among, np.nan)
    low, high = np.nanmin(near, axis=0), np.nanmax(near, axis=0)
    margin = np.where(high > low, 0.06 * (high - low), 0.5)
    low, high = low - margin, high + margin
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    for point, look in marks:
        if not np.isfinite(point).all():
            continue
        at = np.clip(point, low, high)
        if np.array_equal(at, point):
            panel.plot(*point, linestyle="", **look)
            continue
        panel.plot(*at, linestyle="", **{**look, "markerfacecolor": "white", "clip_on": False, "zorder": 3})
        text = ", ".join(f"{value:.3g}" for value, seen in zip(point, at, strict=True) if value != seen)
        offset = (5, 5 + 9 * (len(panel.texts) % 3))  # several at one place
        panel.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=8, color=look["color"])


def _means(found: Results, x: str, y: str, label: str) -> tuple[float, float]:
    return found.estimate(label, x).mean, found.estimate(label, y).mean


def _arrow(higher: bool) -> str:
    return " (higher is better)" if higher else " (lower is better)"


def _edge(points: np.ndarray, higher_x: bool, higher_y: bool) -> np.ndarray:
    """The points that no other beats in both results, from left to right."""
    from engine.figures import front

    signs = np.array([-1.0 if higher_x else 1.0, -1.0 if higher_y else 1.0])
    best = points[front(signs * points)]
    return np.asarray(best[best[:, 0].argsort()])


def _draw_weights(found: Results, folders: Mapping[str, Path]) -> Any:
    """The share of each objective in the sum of weights, a panel per method."""
    from matplotlib.figure import Figure

    columns = 4
    rows = max(math.ceil(len(folders) / columns), 1)
    figure = Figure(figsize=(3.2 * columns, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    smallest = []
    for panel, (label, folder) in zip(panels, folders.items(), strict=False):
        history = [row for row in read_rows(folder / "balance.csv") if f"weight/{found.study.objectives[0]}" in row]
        history = [row for row in history if row[f"weight/{found.study.objectives[0]}"] != ""]
        steps = [int(row["step"]) for row in history]
        weights = np.array([[float(row[f"weight/{name}"]) for name in found.study.objectives] for row in history])
        shares = weights / weights.sum(1, keepdims=True)
        smallest.append(shares.min())
        for name, share in zip(found.study.objectives, shares.T, strict=True):
            panel.plot(steps, share, label=name, linewidth=1.2)
        panel.set_title(label, loc="left", fontsize=10)
        panel.grid(color="#e2e8f0")
    for panel in panels[len(folders) :]:
        panel.set_axis_off()
    if smallest and min(smallest) >= 0 and np.median(smallest) < 1e-3:  # lines at 0 and at 1 would tell nothing
        panels[0].set_yscale("log")
    figure.supylabel("share of the weights")
    figure.supxlabel("step")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return figure
