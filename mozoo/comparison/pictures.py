"""A section in pictures: Pareto view and curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mozoo import figures
from mozoo.comparison.estimates import estimate
from mozoo.comparison.run_sets import RunSet
from mozoo.comparison.section import Section
from mozoo.panels import series
from mozoo.tracking import read_rows
from tasks.results import ResultKey

_MANY = 12  # results that have a picture
_MARKERS = ("o", "s", "^")  # of points, once all colors are taken


def pareto(part: Section) -> Iterator[tuple[str, str]]:
    """First three pairs of results, a point per set, and the legend: (URI, caption)."""
    trained = [i for i, each in enumerate(part.sets) if each.balancer != "single"]
    for a, b in list(combinations(part.main, 2))[:3]:
        x, y = part.columns[a], part.columns[b]
        shown = [i for i in trained if math.isfinite(x[i].mean) and math.isfinite(y[i].mean)]
        if not shown:
            continue
        figure, axes = figures.new_axes(f"{a} against {b}", height=3.2, left=0.21)
        signs = np.array([-1.0 if part.higher[name] else 1.0 for name in (a, b)])
        points = np.array([(x[i].mean, y[i].mean) for i in shown])
        edge = points[figures.front(points * signs)]
        axes.plot(*edge[edge[:, 0].argsort()].T, color="#94a3b8", linewidth=1, linestyle="--", zorder=1)
        for i in shown:
            look: Any = {"color": figures.COLORS[i % len(figures.COLORS)], "elinewidth": 0.8, "markersize": 5}
            axes.errorbar(x[i].mean, y[i].mean, xerr=x[i].half, yerr=y[i].half, fmt="o", **look)
        axes.margins(0.15)
        axes.set(xlabel=a, ylabel=b)
        better = " and ".join(f"{name} {'higher' if part.higher[name] else 'lower'}" for name in (a, b))
        note = f"Better: {better}. Dashed: sets that no other beats in both; bars: 95 % intervals."
        yield figures.data_uri(figure), note
    yield figures.data_uri(_legend(part.sets)), "Colours of points and curves."


def curves(part: Section) -> Iterator[tuple[str, str]]:
    """Scored results and losses over epochs, a line per set: (URI, caption)."""
    tables = {each.label: [read_rows(run.folder / "metrics.csv") for run in each.runs] for each in part.sets}
    names = dict.fromkeys([*part.scored, *(name for name in part.higher if ResultKey.parse(name).is_loss)])
    for name in list(names)[:_MANY]:
        lines, bands = {}, {}
        for each in part.sets:
            runs = [dict(zip(*series(rows, name, "epoch", "val"), strict=True)) for rows in tables[each.label]]
            runs = [run for run in runs if run]
            if runs:
                epochs = sorted(set.intersection(*map(set, runs)))
                points = [estimate([run[epoch] for run in runs]) for epoch in epochs]
                lines[each.label] = (epochs, [point.mean for point in points])
                halves = [point.half or 0.0 for point in points]
                low = [point.mean - half for point, half in zip(points, halves, strict=True)]
                high = [point.mean + half for point, half in zip(points, halves, strict=True)]
                bands[each.label] = (low, high)
        if lines:
            labels = [each.label for each in part.sets]
            figure = figures.curves(name, lines, "epoch", labels, bands, legend=False)
            yield figures.data_uri(figure), "Mean over seeds; band: 95 % interval."


def _legend(sets: Sequence[RunSet]) -> figures.Figure:
    """Labels of all sets beside their lines."""
    figure, axes = figures.new_axes("", height=0.4 + 0.2 * len(sets))
    count = len(figures.COLORS)
    for i, each in enumerate(sets):
        style = figures.STYLES[i // count % len(figures.STYLES)]
        marker, color = _MARKERS[i // count % len(_MARKERS)], figures.COLORS[i % count]
        axes.plot([], [], style, marker=marker, color=color, label=textwrap.fill(each.label, 50))
    axes.axis("off")
    figure.legend(*axes.get_legend_handles_labels(), loc="center left", frameon=False, fontsize=8)
    return figure
