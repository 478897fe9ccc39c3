"""A section in pictures: Pareto view and curves, with the names of the sets in each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mozoo import figures, svg
from mozoo.arguments import ConfigError
from mozoo.comparison.estimates import estimate
from mozoo.comparison.section import Section
from mozoo.thin_tables import NOTHING, ThinTable, read_thin
from mozoo.titles import ARROWS, titled
from tasks.results import ResultKey

_MANY = 12  # results that have a picture
_FEW = 12  # sets whose names fit a picture of a phone's width
_NAMED = len(figures.COLORS)  # sets with a color and a name; of more, those with the best mean rank
_OTHER = "#94a3b8"
_PLACES = ((5, 4), (5, -11), (-5, 4), (-5, -11), (0, 9), (0, -16))  # of a name beside its point, in points


def pareto(part: Section) -> Iterator[tuple[str, str]]:
    """First three pairs of results, a point per set with its name: (URI, caption)."""
    trained = [i for i, each in enumerate(part.sets) if each.balancer != "single"]
    colors = named_sets(part)
    for a, b in list(combinations(part.main, 2))[:3]:
        x, y = part.columns[a], part.columns[b]
        shown = [i for i in trained if math.isfinite(x[i].mean) and math.isfinite(y[i].mean)]
        if len(shown) < 2:
            continue
        few = len(shown) <= _FEW
        height, width, left = (3.4, 4.4, 0.21) if few else (5.2, 8.0, 0.12)
        objectives = [ResultKey.parse(name).objective for name in (a, b)]
        figure, axes = figures.new_axes(" against ".join(objectives), height, left, width=width)
        if not few:
            figure.subplots_adjust(bottom=0.1, top=0.94)
        signs = np.array([-1.0 if part.higher[name] else 1.0 for name in (a, b)])
        points = np.array([(x[i].mean, y[i].mean) for i in shown])
        best = figures.front(points * signs)
        edge = points[best]
        axes.plot(*edge[edge[:, 0].argsort()].T, color=_OTHER, linewidth=1, linestyle="--", zorder=1)
        for i in shown:
            look: Any = {"color": colors.get(part.sets[i].label, _OTHER), "elinewidth": 0.8, "markersize": 5}
            axes.errorbar(x[i].mean, y[i].mean, xerr=x[i].half, yerr=y[i].half, fmt="o", **look)
        _limit(axes, points)
        axes.locator_params(nbins=5)
        axes.set(
            **{
                f"{axis}label": titled(name) + ARROWS[part.higher[name]]
                for axis, name in zip("xy", (a, b), strict=True)
            }
        )
        first = [label for label in colors if label in {part.sets[i].label for i in shown}]
        order = sorted(range(len(shown)), key=lambda k: (not best[k], part.sets[shown[k]].label not in first))
        left_out = _write_names(figure, axes, [(part.sets[shown[k]].label, points[k]) for k in order])
        more = f" {left_out} names that found no room are left out." if left_out else ""
        yield svg.data_uri(figure), f"Dashed: sets that no other beats in both; bars: 95 % intervals.{more}"


def curves(part: Section) -> Iterator[tuple[str, str]]:
    """Scored results and losses over epochs, a line per set: (URI, caption)."""
    colors = named_sets(part)
    tables = {each.label: [_validation(run.folder) for run in each.runs] for each in part.sets}
    names = dict.fromkeys([*part.scored, *(name for name in part.higher if ResultKey.parse(name).is_loss)])
    for name in list(names)[:_MANY]:
        lines = {each.label: _means(name, tables[each.label]) for each in part.sets}
        lines = {label: line for label, line in lines.items() if len(line[0]) > 1}
        if lines:
            title = titled(name) + ARROWS[part.higher[name]]
            yield svg.data_uri(_drawn(title, lines, colors)), _caption(lines, colors)


def named_sets(part: Section) -> dict[str, str]:
    """Labels of the sets that pictures tell apart, with their colors: the best by mean rank."""
    ranks = [each.mean for each in part.columns.get("mean rank", [])] or [0.0] * len(part.sets)
    order = sorted(range(len(part.sets)), key=lambda i: math.inf if math.isnan(ranks[i]) else ranks[i])
    baseline = [i for i in order if part.sets[i].label == part.baseline]
    chosen = order if len(order) <= _NAMED else [*order[: _NAMED - len(baseline)], *baseline]
    return dict(zip([part.sets[i].label for i in dict.fromkeys(chosen)], figures.COLORS, strict=False))


Line = tuple[np.ndarray, np.ndarray, np.ndarray]  # epochs, means, halves of intervals


def _means(name: str, runs: Sequence[ThinTable]) -> Line:
    """Means over the runs that have values, at the epochs that all of these have."""
    found = [dict(zip(*rows.series(name, "epoch"), strict=True)) for rows in runs]
    found = [values for values in found if values]
    epochs = sorted(set.intersection(*map(set, found))) if found else []
    points = [estimate([values[epoch] for values in found]) for epoch in epochs]
    return np.array(epochs), np.array([p.mean for p in points]), np.array([p.half or 0.0 for p in points])


def _drawn(title: str, lines: Mapping[str, Line], colors: Mapping[str, str]) -> Figure:
    """Named sets in color above the others, and below the axes what the colors mean."""
    known = {label: colors[label] for label in colors if label in lines}
    columns = 1 if max(map(len, known), default=0) > 24 else 2
    rows = math.ceil(len(known) / columns)
    figure, axes = figures.new_axes(title, height=2.7 + 0.17 * rows)
    bottom = (0.5 + 0.17 * rows) / (2.7 + 0.17 * rows)
    top = 0.5 if "\n" in axes.get_title("left") else 0.27  # inches
    figure.subplots_adjust(bottom=bottom, top=1 - top / (2.7 + 0.17 * rows))
    for label, (epochs, means, _) in lines.items():
        if label not in known:
            axes.plot(epochs, means, color=_OTHER, linewidth=0.8, alpha=0.6, zorder=1)
    for label, color in known.items():
        epochs, means, halves = lines[label]
        axes.fill_between(epochs, means - halves, means + halves, color=color, alpha=0.15, linewidth=0)
        axes.plot(epochs, means, color=color, linewidth=1.6, label=figures.short(label, 52 // columns))
    means = np.concatenate([means for _, means, _ in lines.values()])
    figures.scale_to(axes, means)
    axes.set_ylim(*_range(means, axes.get_yscale() == "log"))
    axes.set_xlabel("epoch")
    look: Any = {"loc": "lower center", "ncols": columns, "frameon": False, "fontsize": 8, "borderaxespad": 0.1}
    figure.legend(*axes.get_legend_handles_labels(), **look)
    return figure


def _range(means: np.ndarray, logarithmic: bool) -> tuple[float, float]:
    """Ends of an axis that the means set: a wide interval does not press the lines together."""
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    if logarithmic:
        return low / 1.5, high * 1.5
    room = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    return low - room, high + room


def _caption(lines: Mapping[str, Line], colors: Mapping[str, str]) -> str:
    others = len([label for label in lines if label not in colors])
    note = "Validation split, mean over seeds; band: 95 % interval."
    gray = "another set, with a worse rank" if others == 1 else f"{others} other sets, with worse ranks"
    return f"{note} Gray: {gray}." if others else note


def _validation(folder: Path) -> ThinTable:
    """The validation results of a run; nothing of a damaged table."""
    try:
        return read_thin(folder / "metrics.csv", "split").get("val", NOTHING)
    except (ConfigError, OSError):
        return NOTHING


def _limit(axes: Axes, points: np.ndarray) -> None:
    """Axes that the points set, so that one wide interval does not move all points together."""
    low, high = points.min(0), points.max(0)
    space = np.where(high > low, high - low, np.maximum(np.abs(high), 1e-9) * 0.1)
    axes.set_xlim(low[0] - 0.2 * space[0], high[0] + 0.35 * space[0])
    axes.set_ylim(low[1] - 0.2 * space[1], high[1] + 0.25 * space[1])


def _write_names(figure: Figure, axes: Axes, points: Sequence[tuple[str, np.ndarray]]) -> int:
    """Write each name beside its point where it covers nothing; how many found no room."""
    scale = np.array(figure.get_size_inches()) * 72 * axes.get_position().size
    low, size = (
        np.array([axes.get_xlim()[0], axes.get_ylim()[0]]),
        np.array([np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())]),
    )
    spots = [(point - low) / size * scale for _, point in points]
    taken = [(spot[0] - 3, spot[1] - 3, spot[0] + 3, spot[1] + 3) for spot in spots]
    left_out = 0
    for (label, point), spot in zip(points, spots, strict=True):
        name = figures.short(label, 26)
        width = 4.3 * len(name)
        for dx, dy in _PLACES:
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            x = spot[0] + dx - {"left": 0, "right": width, "center": width / 2}[side]
            box = (x, spot[1] + dy, x + width, spot[1] + dy + 8)
            inside = box[0] >= 0 and box[2] <= scale[0] and box[1] >= 0 and box[3] <= scale[1]
            if inside and not any(map(partial(_overlap, box), taken)):
                place: Any = {"xytext": (dx, dy), "textcoords": "offset points", "ha": side, "fontsize": 7.5}
                axes.annotate(name, (point[0], point[1]), **place)
                taken.append(box)
                break
        else:
            left_out += 1
    return left_out


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
