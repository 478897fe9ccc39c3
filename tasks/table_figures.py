"""Pictures of a table's inputs for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.table_inputs import CategoryInput, Input, day

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 24  # inputs
_BARS = 12  # categories of one
_COLUMNS = 4


def distributions(inputs: Sequence[Input]) -> Figure:
    """A small picture for each of the first 24 inputs, from the distribution that it keeps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = inputs[:_SHOWN]
    lines = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(2.6 * _COLUMNS, 1.7 * lines), layout="constrained")
    grid = figure.subplots(lines, _COLUMNS, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, column in zip(grid.flat, shown, strict=False):
        if isinstance(column, CategoryInput):
            pairs = sorted(zip(column.counts[1:], column.values, strict=True), reverse=True)[: _BARS - 1]
            bars = [(name or "missing", count) for count, name in pairs]
            rest = sum(column.counts) - sum(count for _, count in bars)
            bars += [("other", rest)] if rest else []
            axes.bar(range(len(bars)), [count for _, count in bars], color="#d97706")
            axes.set_xticks(range(len(bars)), [_short(name) for name, _ in bars], rotation=90, fontsize=6)
        else:
            edges = np.linspace(*column.edges, len(column.counts) + 1)
            axes.bar(edges[:-1], column.counts, np.diff(edges), align="edge", color="#2563eb")
            axes.tick_params(labelsize=6)
            if column.type == "date":
                axes.xaxis.set_major_locator(MaxNLocator(3))
                axes.xaxis.set_major_formatter(lambda days, _: f"{day(days):%Y-%m}")
        axes.set_title(_short(column.name, 28), fontsize=8, loc="left")
        axes.set_yticks([])
    return figure


def missing_shares(inputs: Sequence[Input]) -> Figure:
    """A bar for each of the 24 inputs that are missing most often."""
    from matplotlib.figure import Figure

    pairs = sorted(((c.missing, c.name) for c in inputs if c.missing), reverse=True)[:_SHOWN]
    figure = Figure(figsize=(4.4, 0.9 + 0.22 * len(pairs)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(pairs)), [100 * share for share, _ in pairs], color="#94a3b8")
    axes.set_yticks(range(len(pairs)), [_short(name, 28) for _, name in pairs], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("percent of rows")
    return figure


def _short(text: str, length: int = 10) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
