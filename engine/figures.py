"""The pictures of a report: matplotlib figures as self-contained SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["confusion", "cosine_map", "curves", "data_uri", "scatter", "trade_off"]

_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#be185d")
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "legend.frameon": False,
}
Series = tuple[Sequence[float], Sequence[float]]


def data_uri(figure: Figure) -> str:
    """The figure as an SVG image that needs nothing from outside."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def curves(
    title: str, series: Mapping[str, Series], xlabel: str, ylabel: str = "", order: Sequence[str] = ()
) -> Figure:
    """Lines over time; logarithmic where positive values span more than a factor of 50, smoothed over long noisy runs.

    Args:
        title: Above the axes.
        series: Label -> (x, y). A label that ends in `` train`` is drawn dashed.
        xlabel: Below the axes.
        ylabel: Beside the axes.
        order: Objectives, so that each keeps its colour in every figure; a label starts with the name of its objective.
    """
    figure, axes = _axes(title)
    values = np.array([y for _, ys in series.values() for y in ys if np.isfinite(y)])
    logarithmic = len(values) > 0 and values.min() > 0 and values.max() > 50 * values.min()
    for index, (label, (x, y)) in enumerate(series.items()):
        objective = label.split("/")[0].removesuffix(" train").removesuffix(" val")
        colour = _COLOURS[(order.index(objective) if objective in order else index) % len(_COLOURS)]
        style = "--" if label.endswith(" train") else "-"
        if len(x) > 200:
            axes.plot(x, y, color=colour, alpha=0.2, linewidth=0.8)
            x, y = _smooth(x, False), _smooth(y, logarithmic)
        axes.plot(x, y, style, color=colour, label=label, linewidth=1.6, marker="o" if len(x) < 3 else None)
    if logarithmic:
        axes.set_yscale("log")
    if xlabel in ("epoch", "step"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if len(series) > 1:
        axes.legend(fontsize=9, frameon=False)
    return figure


def trade_off(title: str, x: Series, y: Series, xlabel: str, ylabel: str) -> Figure:
    """One objective against another, epoch by epoch; the last epoch is the large dot. ``x`` and ``y`` are (epochs, values)."""
    figure, axes = _axes(title)
    axes.plot(x[1], y[1], color="#94a3b8", linewidth=1)
    axes.scatter(x[1], y[1], c=list(x[0]), cmap="Blues", s=16, edgecolors="#2563eb", linewidths=0.4, zorder=2)
    axes.scatter(x[1][-1:], y[1][-1:], color="#d97706", s=60, zorder=3)
    for values, scale in ((x[1], axes.set_xscale), (y[1], axes.set_yscale)):
        if min(values) > 0 and max(values) > 50 * min(values):
            scale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure


def cosine_map(title: str, steps: Sequence[float], pairs: Mapping[str, Sequence[float]]) -> Figure:
    """Cosine between gradients, a row per pair of objectives, time from left to right; red is conflict."""
    figure, axes = _axes(title, height=1.4 + 0.35 * len(pairs))
    axes.grid(False)
    values = np.array(list(pairs.values()))
    columns = min(values.shape[1], 120)
    smooth = np.stack([np.nanmean(part, axis=1) for part in np.array_split(values, columns, axis=1)], axis=1)
    extent = (steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1, len(pairs) - 0.5, -0.5)
    image = axes.imshow(smooth, aspect="auto", cmap="RdBu", vmin=-1, vmax=1, extent=extent, interpolation="nearest")
    axes.set_yticks(range(len(pairs)), labels=list(pairs))
    axes.set_xlabel("step")
    figure.colorbar(image, ax=axes, label="cosine")
    return figure


def confusion(title: str, predicted: np.ndarray, actual: np.ndarray, classes: Sequence[str]) -> Figure:
    """Share of each true class (row) that is predicted as each class (column)."""
    size = len(classes)
    table = np.zeros((size, size))
    np.add.at(table, (actual, predicted), 1)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, axes = _axes(title, height=max(3.0, 0.5 * size + 1))
    axes.grid(False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if size <= 15:
        for i in range(size):
            for j in range(size):
                axes.text(
                    j,
                    i,
                    f"{share[i, j]:.0%}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if share[i, j] > 0.5 else "#334155",
                )
    axes.set_xticks(range(size), labels=list(classes), rotation=30, ha="right")
    axes.set_yticks(range(size), labels=list(classes))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def scatter(title: str, predicted: np.ndarray, actual: np.ndarray, unit: str) -> Figure:
    """Prediction against truth, with the diagonal."""
    figure, axes = _axes(title)
    finite = np.isfinite(predicted) & np.isfinite(actual)
    if finite.any():  # a run may have diverged
        axes.hexbin(actual[finite], predicted[finite], gridsize=50, bins="log", cmap="Blues", mincnt=1, linewidths=0)
        ends = [float(actual[finite].min()), float(actual[finite].max())]
        axes.plot(ends, ends, color="#d97706", linewidth=1)
    axes.set_xlabel(f"true ({unit})" if unit else "true")
    axes.set_ylabel("predicted")
    return figure


def _smooth(values: Sequence[float], logarithmic: bool) -> list[float]:
    """Means over 60 consecutive pieces; geometric means for a logarithmic axis."""
    pieces = np.array_split(np.log(values) if logarithmic else np.asarray(values), 60)
    return [float(np.exp(piece.mean()) if logarithmic else piece.mean()) for piece in pieces]


def _axes(title: str, height: float = 3.0) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, height))
        axes = figure.add_subplot()
        axes.set_title(title)
    return figure, axes
