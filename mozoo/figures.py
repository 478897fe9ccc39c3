"""The pictures of a report as matplotlib figures; :mod:`mozoo.svg` puts them on a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from mozoo.svg import INK, PALETTE, PAPER, plain_ticks
from mozoo.visible import visible

COLORS = tuple(PALETTE)
STYLES = ("-", "-.", ":")  # of lines, once all colors are taken
#: From faint to full: more is stronger on a light page and on a dark one.
_STRENGTH = LinearSegmentedColormap.from_list("strength", ["#3b82f640", "#3b82f6ff"])
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "text.color": "#334155",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # where it is, so that matplotlib need not look for room
    "axes.formatter.offset_threshold": 6,  # ticks as they are, unless what they share is longer
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "legend.frameon": False,
    "text.parse_math": False,
}
_TITLE = 46  # letters of a title that fit a phone's width
Series = tuple[Sequence[float], Sequence[float]]


def curves(
    title: str,
    series: Mapping[str, Series],
    xlabel: str,
    order: Sequence[str] = (),
    bands: Mapping[str, Series] | None = None,
    limits: tuple[float, float] | None = None,
    legend: bool = True,
    best: float | None = None,
) -> Figure:
    """Lines over time, smoothed if long; logarithmic if positive values span a factor of 50.

    Args:
        title: Above the axes.
        series: Label -> (x, y). A label that ends in `` train`` is drawn dashed.
        xlabel: Below the axes.
        order: Objectives, so that each keeps its color in every figure; a label is one, or one and its split.
        bands: Label of a series -> lower and upper end of the band around it.
        limits: Of the y axis; as the values need by default.
        legend: Whether to name the lines, if there are several.
        best: Where to draw a vertical line and dots, as at the best epoch.
    """
    figure, axes = new_axes(title)
    if best is not None:
        axes.axvline(best, color="#64748b", linestyle=":", linewidth=1.4, zorder=1)
    values = np.array([y for _, ys in series.values() for y in ys if np.isfinite(y)])
    logarithmic = limits is None and _spans_magnitudes(values)
    for index, (label, (x, y)) in enumerate(series.items()):
        objective = label.removesuffix(" train").removesuffix(" val")
        number = order.index(objective) if objective in order else index
        color = COLORS[number % len(COLORS)]
        style = "--" if label.endswith(" train") else STYLES[number // len(COLORS) % len(STYLES)]
        if bands and label in bands:
            low = np.maximum(bands[label][0], values.min() / 3) if logarithmic else bands[label][0]
            axes.fill_between(x, low, bands[label][1], color=color, alpha=0.15, linewidth=0)
        if len(x) > 200:
            axes.plot(x, y, color=color, alpha=0.2, linewidth=0.8)
            x, y = _smooth(x, False), _smooth(y, logarithmic)
        dot: Any = {"marker": "o", "markerfacecolor": "white" if style == "--" else color} if len(x) < 3 else {}
        axes.plot(x, y, style, color=color, label=short(label), linewidth=1.6, **dot)
        if best is not None and best in x:
            axes.plot(best, y[list(x).index(best)], "o", color=color, markersize=5)
    if logarithmic:
        _logarithmic(axes)
    if xlabel in ("epoch", "step"):
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if limits:
        axes.set_ylim(*limits)
    axes.set_xlabel(xlabel)
    if len(series) > 1 and legend:
        axes.legend(fontsize=9, frameon=False, loc="best" if len(values) < 2000 else "upper right")
    return figure


def trade_off(title: str, x: Series, y: Series, xlabel: str, ylabel: str, ring: float) -> Figure:
    """One objective against another, epoch by epoch; ``x`` and ``y`` are (epochs, values).

    Filled dots: epochs that no other beats in both; the epoch nearest to ``ring`` has one.
    """
    figure, axes = new_axes(title, left=0.21)
    points = np.array([x[1], y[1]]).T
    chosen = int(np.abs(np.array(x[0]) - ring).argmin())
    best = points[front(points)]
    axes.plot(*points.T, color="#94a3b8", linewidth=1, marker="o", markersize=3, markerfacecolor="white")
    axes.plot(*best.T, "o", color="#2563eb", markersize=5)
    axes.plot(*points[chosen], "o", color="#d97706", markersize=11, markerfacecolor="none", markeredgewidth=2)
    side = "left" if points[0, 0] < points[:, 0].mean() else "right"
    above = len(points) < 2 or points[1, 1] <= points[0, 1]
    place: Any = {"xytext": (0, 5 if above else -12), "textcoords": "offset points", "ha": side}
    axes.annotate(f"epoch {x[0][0]:.0f}", points[0], fontsize=8, **place)
    axes.margins(0.12)
    for values, scale, axis in ((x[1], axes.set_xscale, axes.xaxis), (y[1], axes.set_yscale, axes.yaxis)):
        if _spans_magnitudes(np.array(values)):
            scale("log")
            _plain(axis)
        else:
            axis.set_major_locator(MaxNLocator(4))
    axes.set(xlabel=short(xlabel, 45), ylabel=short(ylabel))
    return figure


def front(points: np.ndarray) -> np.ndarray:
    """(N,) Pareto front of (N, M) points to minimize: no other is as good and somewhere better."""
    no_worse = (points[:, None] <= points[None]).all(2)
    better = (points[:, None] < points[None]).any(2)
    return np.logical_not((no_worse & better).any(0))


def heat_map(title: str, x: Sequence[float], rows: Mapping[str, Sequence[float]], xlabel: str, label: str) -> Figure:
    """Values over time, a row each, time from left to right.

    ``rows``: name -> a value for each of ``x``. ``label`` is what the colors mean; ``cosine``: from -1, red, to 1, blue;
    ``share``: from 0 to 1.
    """
    values = np.array(list(rows.values()), dtype=float)
    columns = np.array_split(values, min(values.shape[1], 120), axis=1)
    smooth = np.stack([part.mean(1) for part in columns], axis=1)
    figure, axes = new_axes(title, height=1.3 + 0.22 * len(rows), grid=False)
    margin = (x[-1] - x[0]) / max(len(x) - 1, 1) / 2 or 0.5
    extent = (x[0] - margin, x[-1] + margin, len(rows) - 0.5, -0.5)
    limits = {"cosine": {"cmap": "RdBu", "vmin": -1, "vmax": 1}, "share": {"cmap": "Reds", "vmin": 0, "vmax": 1}}
    colors: Any = limits.get(label, {"cmap": "viridis"})
    logarithmic = label not in limits and _spans_magnitudes(smooth)
    image = axes.imshow(
        smooth, aspect="auto", extent=extent, interpolation="nearest", norm="log" if logarithmic else None, **colors
    )
    axes.set_yticks(range(len(rows)), labels=list(map(short, rows)), fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.set_xlabel(xlabel)
    bar = figure.colorbar(image, ax=axes, label=label, aspect=max(6, 2 * len(rows)), pad=0.02)
    bar.ax.tick_params(labelsize=8)
    if logarithmic:
        _plain(bar.ax.yaxis)
    return figure


def matrix(title: str, names: Sequence[str], table: np.ndarray, label: str) -> Figure:
    """A value in [-1, 1] for each pair of names; red is negative."""
    figure, axes = new_axes(title, height=4.2, grid=False)
    image = axes.imshow(table, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    size = 8 if len(names) < 20 else 5
    shown = list(map(short, names))
    axes.set_xticks(range(len(names)), labels=shown, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), labels=shown, fontsize=size)
    figure.colorbar(image, ax=axes, label=label, aspect=30, pad=0.02)
    return figure


def shares(title: str, rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """A share for each row and each column that the row has: row -> column -> share."""
    figure, axes = new_axes(title, height=min(1.2 + 0.26 * len(rows), 8.0), grid=False)
    draw_shares(axes, rows)
    return figure


def draw_shares(axes: Axes, rows: Mapping[str, Mapping[str, float]]) -> None:
    """The same on axes that exist; of up to ten columns, the numbers too."""
    longest_first = sorted(rows.values(), key=len, reverse=True)
    columns = list(dict.fromkeys(name for row in longest_first for name in row))
    table = np.array([[row.get(name, np.nan) for name in columns] for row in rows.values()])
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if len(columns) <= 10:
        for i, j in np.argwhere(np.isfinite(table)):
            color = PAPER if table[i, j] > 0.5 else INK
            axes.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(columns)), labels=list(map(short, columns)), rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), labels=list(map(short, rows)), fontsize=8)


def confusion(title: str, predicted: np.ndarray, actual: np.ndarray, classes: Sequence[str]) -> Figure:
    """Share of each true class (row) that is predicted as each class (column); errors are red."""
    size = len(classes)
    table = np.zeros((size, size))
    np.add.at(table, (actual, predicted), 1)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, axes = new_axes(title, height=min(max(2.7, 0.32 * size + 1), 6.0), grid=False)
    right = np.eye(size, dtype=bool)
    for part, cmap in ((right, "Blues"), (~right, "Reds")):
        shown = np.ma.masked_array(share, ~part)
        axes.imshow(shown, cmap=cmap, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if size <= 10:
        for i, j in np.ndindex(size, size):
            color = PAPER if share[i, j] > 0.5 else INK
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=9, color=color)
    if size <= 30:
        labels = list(map(short, classes))
        axes.set_xticks(range(size), labels=labels, rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(size), labels=labels, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def tags(title: str, predicted: np.ndarray, actual: np.ndarray, names: Sequence[str]) -> Figure:
    """Share of samples (N, C) with each tag, true and predicted; dark: both.

    Of many, the 20 most frequent.
    """
    order = np.argsort(-actual.mean(0), kind="stable")[:20]
    both = (predicted & actual).mean(0)[order]
    figure, axes = new_axes(title, height=min(max(2.7, 0.36 * len(order) + 1), 7.0), grid=False)
    places = np.arange(len(order))
    for offset, values, color, label in ((-0.2, actual, "#d97706", "true"), (0.2, predicted, "#2563eb", "predicted")):
        axes.barh(places + offset, values.mean(0)[order], 0.36, color=color, alpha=0.45, label=label)
        axes.barh(places + offset, both, 0.36, color=color)
    axes.set_yticks(places, labels=[short(names[i]) for i in order], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of samples")
    axes.set_xlim(right=1.35 * axes.get_xlim()[1])  # room for the legend
    axes.legend(fontsize=9, frameon=False, loc="center right")
    return figure


def scatter(title: str, predicted: np.ndarray, actual: np.ndarray, unit: str) -> Figure:
    """Prediction against truth, with the diagonal."""
    figure, axes = new_axes(title, left=0.2)
    finite = np.isfinite(predicted) & np.isfinite(actual)
    if finite.any():  # a run may have diverged
        x, y = actual[finite], predicted[finite]
        # the same height as the truth at least: nearly constant predictions would be a line too thin to see
        places = [[x.min(), x.max()], [min(x.min(), y.min()), max(x.max(), y.max())]]
        table, *edges = np.histogram2d(x, y, bins=60, range=places)
        shade = np.ma.masked_equal(np.log1p(table.T), 0)
        axes.pcolormesh(*edges, shade, cmap=_STRENGTH, vmin=0, rasterized=True)
        ends = [float(x.min()), float(x.max())]
        axes.plot(ends, ends, color="#d97706", linewidth=1)
        letters = max(len(f"{end:.0f}") for end in axes.get_ylim())
        figure.subplots_adjust(left=0.2 + 0.02 * max(letters - 5, 0))  # room for long numbers
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel=f"true ({short(unit, 40)})" if unit else "true", ylabel="predicted")
    return figure


def scale_to(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis for values that need one, and whole numbers of epochs."""
    if _spans_magnitudes(values[np.isfinite(values)]):
        _logarithmic(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    _plain(axes.yaxis)


def _spans_magnitudes(values: np.ndarray) -> bool:
    """Whether values are shown better on a logarithmic axis."""
    return bool(values.size and values.min() > 0 and values.max() > 50 * values.min())


def _smooth(values: Sequence[float], logarithmic: bool) -> list[float]:
    """Means over 60 consecutive pieces; geometric means for a logarithmic axis."""
    pieces = np.array_split(np.log(values) if logarithmic else np.asarray(values), 60)
    return [float(np.exp(piece.mean()) if logarithmic else piece.mean()) for piece in pieces]


def short(name: str, longest: int = 28) -> str:
    """A name that fits: without its middle if it is long, indented if matplotlib would hide it."""
    name = visible(name)
    if len(name) > longest:
        name = f"{name[: longest // 2]}\N{HORIZONTAL ELLIPSIS}{name[-(longest - longest // 2 - 1) :]}"
    return f" {name}" if name.startswith("_") else name


def _plain(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers.

    They are at 1 and 3 times powers of ten, or at powers of ten where these are many.
    """
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high < 1e4 * low else (1.0,), numticks=6))
    plain_ticks(axis)


def new_axes(
    title: str, height: float = 2.7, left: float = 0.16, grid: bool = True, width: float = 4.4
) -> tuple[Figure, Axes]:
    """Axes of a phone's width, 4.4 inches, or another.

    Without ``grid``, margins fit the labels. They are fixed otherwise, as computing them doubles the time.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout=None if grid else "constrained")
        axes = figure.add_subplot()
        lines = textwrap.wrap(short(title, 64), round(_TITLE * width / 4.4)) or [""]
        axes.set_title("\n".join(lines), fontsize=11 if len(title) < 36 else 9, x=0.012)
        axes.yaxis.get_offset_text().set(ha="right", fontsize=8)  # a factor of all ticks, beside the title
        axes.yaxis.OFFSETTEXTPAD = 7  # points above the highest tick, whose number it would stand on
        if grid:
            axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # quarters have a digit more
            top = 0.9 if len(lines) == 1 else 1 - 0.5 / height
            figure.subplots_adjust(left=left, right=0.97, bottom=0.18, top=top)
        else:
            axes.grid(False)
    return figure, axes
