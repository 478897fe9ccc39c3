"""Look of the figures in results/: one palette, sizes for a page, and labels beside lines.

Figures are transparent. In an SVG, text and lines change with the color scheme of the page that shows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from mozoo.svg import PALETTE

WIDTH = 8.6  # inches: what the repository host and the site show without making text smaller
#: Of lines and points; after the last one they come again with the next style and marker.
COLORS = (*PALETTE, "#a16207", "#7c8594")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "D", "^", "v", "P")
#: Marker -> the same in a text.
SIGNS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "*": "★"}
INK, SOFT, FAINT, GRID = "#334155", "#64748b", "#cbd5e1", "#e2e8f0"  # text, second text, frames, lines behind curves
#: Color -> the same on a dark page.
DARK: Mapping[str, str] = {
    "#000000": "#e2e8f0",
    "#111827": "#f1f5f9",
    INK: "#cbd5e1",
    "#374151": "#cbd5e1",
    SOFT: "#94a3b8",
    "#6b7280": "#94a3b8",
    FAINT: "#475569",
    GRID: "#333c4a",
    "#dcfce7": "#14532d",
    "#be123c": "#fb7185",
    **PALETTE,
    "#a16207": "#eab308",
    "#7c8594": "#a3adba",
}
STYLE: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#94a3b8",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.prop_cycle": cycler(linestyle=LINES) * cycler(color=COLORS),
}
CLEAR: Mapping[str, Any] = {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none"}


def look(index: int) -> dict[str, Any]:
    """Color, line style and marker of the n-th of several lines; forty of them differ."""
    turn = index // len(COLORS)
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": LINES[turn % len(LINES)],
        "marker": MARKERS[turn % len(MARKERS)],
    }


def themed(svg: str) -> str:
    """An SVG of matplotlib whose colors follow the page: those of ``DARK`` change on a dark one."""
    rules = [f"text:not([style*='fill:']){{fill:{INK}}}"]
    dark = [f"text:not([style*='fill:']){{fill:{DARK[INK]}}}"]
    for light, other in DARK.items():
        dark += [f"[style*='{kind}: {light}']{{{kind}:{other}!important}}" for kind in ("fill", "stroke")]
    theme = "".join(rules) + "@media (prefers-color-scheme:dark){" + "".join(dark) + "}"
    return re.sub(r"(<svg[^>]*>)", lambda start: f"{start[1]}\n <style>{theme}</style>", svg, count=1)


def plain_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Exactly these ticks on a logarithmic axis, as plain numbers: 1,000,000 is 1M."""

    def text(value: float, _: int) -> str:
        return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:g}"

    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def label_lines(axes: Axes, ends: Mapping[str, tuple[float, float]], colors: Mapping[str, str], height: float) -> None:
    """Write the name of each line at its end, right of the axes, in its color.

    Call it when limits and scales are final.

    Args:
        axes: Their right side must have room for the names.
        ends: Name -> the last point of its line.
        colors: Name -> color.
        height: Of the axes in inches, about.
    """
    places = {name: _fraction(axes, point) for name, point in ends.items()}
    order = sorted(places, key=lambda name: places[name][1])
    heights = spread([places[name][1] for name in order], gap=11.0 / 72 / height)
    moved = any(abs(y - places[name][1]) > 0.01 for name, y in zip(order, heights, strict=True))
    edge = 1.06 if moved else 1.02
    for name, y in zip(order, heights, strict=True):
        x, at = places[name]
        far = abs(y - at) > 0.01 or x < 0.95
        # to the middle of the left side, so that it crosses no other name
        arrow = {
            "arrowstyle": "-",
            "color": colors[name],
            "linewidth": 0.6,
            "shrinkA": 1,
            "shrinkB": 2,
            "relpos": (0.0, 0.5),
        }
        axes.annotate(
            name,
            (x, min(max(at, 0.0), 1.0)),
            (edge, y),
            xycoords="axes fraction",
            color=colors[name],
            va="center",
            arrowprops=arrow if far else None,
            annotation_clip=False,
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Ascending numbers, moved to be ``gap`` apart, within [0, 1] if they fit."""
    places = [float(np.clip(value, 0.0, 1.0)) for value in values]
    for _ in range(200):
        moved = False
        for i in range(len(places) - 1):
            lack = gap - (places[i + 1] - places[i])
            if lack > 1e-6:
                places[i], places[i + 1], moved = places[i] - lack / 2, places[i + 1] + lack / 2, True
        if not moved:
            break
    below, above = min(places, default=0.0), max(places, default=1.0) - 1.0
    shift = -below if below < 0 and above <= 0 else -above if above > 0 and below >= 0 else 0.0
    return [place + shift for place in places]


def limits(values: np.ndarray, reach: float = 1.5, margin: float = 0.06) -> tuple[float, float]:
    """Ends of an axis for most values: those far from the quartiles do not set them.

    Args:
        values: Any shape; what is not finite is left out.
        reach: How many interquartile ranges beyond the quartiles still count.
        margin: Room at both ends, as a share of the range.
    """
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [0.25, 0.75])
    near = known[(known >= low - reach * (high - low)) & (known <= high + reach * (high - low))]
    room = margin * (near.max() - near.min()) or 0.5
    return float(near.min() - room), float(near.max() + room)


def _fraction(axes: Axes, point: tuple[float, float]) -> tuple[float, float]:
    x, y = axes.transAxes.inverted().transform(axes.transData.transform(point))
    return float(x), float(y)
