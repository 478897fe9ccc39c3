"""A section as a table: cells, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import numpy as np

from engine.comparison.section import Section

__all__ = ["MANY", "as_csv", "as_markdown", "best_cells", "cells"]

MANY = 12  # results that fit beside each other; of more, the table has the first of each objective
_ARROWS = {True: " ↑", False: " ↓", None: ""}


def _names(part: Section) -> list[str]:
    """Columns of the table that hold estimates."""
    costs = ("cost", "samples/s")
    shown = sorted(part.columns, key=lambda name: (name in part.higher) + 2 * (name in costs))
    if len(part.higher) > MANY:
        main = part.main if len(part.main) <= MANY else []
        shown = [name for name in shown if name not in part.higher or name in main]
    return shown


def cells(part: Section) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table: the best by mean rank first, or by name without ranks."""
    names = _names(part)
    heading = ["balancer", "seeds", *(name + _ARROWS[part.higher.get(name)] for name in names)]
    rows = []
    for i in _order(part):
        each = part.sets[i]
        star = " ★" if each.label in part.front else ""
        rows.append([each.label + star, str(len(each.runs)), *(str(part.columns[name][i]) for name in names)])
    return heading, rows


def _order(part: Section) -> list[int]:
    """Positions of the sets from best to worst mean rank."""
    ranks = [each.mean for each in part.columns.get("mean rank", [])] or [0.0] * len(part.sets)
    return sorted(range(len(part.sets)), key=lambda i: math.inf if math.isnan(ranks[i]) else ranks[i])


def best_cells(part: Section) -> list[tuple[int, int]]:
    """(row, column) of the best mean of each result in the table."""
    places = []
    for column, name in enumerate(_names(part), start=2):
        if name in part.higher:
            means = np.array([part.columns[name][i].mean for i in _order(part)])
            if np.isfinite(means).any():
                places.append((int(np.nanargmax(means) if part.higher[name] else np.nanargmin(means)), column))
    return places


def as_markdown(part: Section) -> str:
    """Heading, table and notes."""
    heading, rows = cells(part)
    bold = set(best_cells(part))
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for i, row in enumerate(rows):
        marked = [f"**{cell}**" if (i, j) in bold else cell.replace("|", "\\|") for j, cell in enumerate(row)]
        lines.append("| " + " | ".join(marked) + " |")
    return f"## {part.title}\n\n" + "\n".join(lines) + "\n\n" + "".join(f"- {note}\n" for note in part.notes)


def as_csv(sections: Sequence[Section]) -> str:
    """A line per set and value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "model", "balancer", "set", "seeds", "front", "value", "mean", "half_width"])
    for part in sections:
        for i, each in enumerate(part.sets):
            own = (part.title, each.model, each.balancer, each.label, len(each.runs), int(each.label in part.front))
            for name, column in part.columns.items():
                mean, half = column[i].mean, column[i].half
                shown = (f"{mean:.8g}" if math.isfinite(mean) else "", "" if half is None else f"{half:.8g}")
                writer.writerow([*own, name, *shown])
    return file.getvalue()
