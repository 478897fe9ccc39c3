"""The files of a comparison: ``comparison.html``, ``comparison.md`` and ``comparison.csv``."""

from __future__ import annotations

import csv
import html
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mozoo.checkpoint import write_text
from mozoo.comparison.pictures import curves, pareto
from mozoo.comparison.run_sets import group
from mozoo.comparison.runs import ComparisonError, find_runs
from mozoo.comparison.section import Choices, Section, compare
from mozoo.page import page, section, table

_MANY = 12  # results that fit beside each other; of more, the table has the first of each objective
_ARROWS = {True: " ↑", False: " ↓", None: ""}


def compare_runs(places: Sequence[str], out: Path, choices: Choices) -> None:
    """Compare the runs in and below ``places``, write three files, print the Markdown.

    Raises ComparisonError for runs that cannot be compared, or a folder that cannot be made.
    """
    finished, unfinished = find_runs(places)
    sections = [compare(title, sets, choices) for title, sets in group(finished).items()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComparisonError(f"--out: cannot create {out} ({error.strerror})") from None
    for folder in unfinished:
        print(f"left out, as it is not finished: {folder}", file=sys.stderr)
    text = "\n".join(map(_as_markdown, sections))
    heading = f"<h1>Comparison of {len(finished)} runs</h1>"
    write_text(out / "comparison.html", page("Comparison of runs", [heading, *map(_as_html, sections)]))
    write_text(out / "comparison.md", text)
    write_text(out / "comparison.csv", _as_csv(sections))
    print(text)
    print(f"open {out / 'comparison.html'}")


def _table(part: Section) -> tuple[list[list[str]], list[str], list[tuple[int, int]]]:
    """Rows by mean rank, heading, and (row, column) of the best mean of each result."""
    costs = ("cost", "samples/s")
    names = sorted(part.columns, key=lambda name: (name in part.higher) + 2 * (name in costs))
    if len(part.higher) > _MANY:
        main = part.main if len(part.main) <= _MANY else []
        names = [name for name in names if name not in part.higher or name in main]
    ranks = [each.mean for each in part.columns.get("mean rank", [])] or [0.0] * len(part.sets)
    order = sorted(range(len(part.sets)), key=lambda i: math.inf if math.isnan(ranks[i]) else ranks[i])
    rows = []
    for i in order:
        each = part.sets[i]
        star = " ★" if each.label in part.front else ""
        rows.append([each.label + star, str(len(each.runs)), *(str(part.columns[name][i]) for name in names)])
    best = []
    for column, name in enumerate(names, start=2):
        means = np.array([part.columns[name][i].mean for i in order])
        if name in part.higher and np.isfinite(means).any():
            best.append((int(np.nanargmax(means) if part.higher[name] else np.nanargmin(means)), column))
    return rows, ["balancer", "seeds", *(name + _ARROWS[part.higher.get(name)] for name in names)], best


def _as_markdown(part: Section) -> str:
    """Heading, table and notes."""
    rows, heading, best = _table(part)
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for i, row in enumerate(rows):
        marked = [f"**{cell}**" if (i, j) in best else cell.replace("|", "\\|") for j, cell in enumerate(row)]
        lines.append("| " + " | ".join(marked) + " |")
    return f"## {part.title}\n\n" + "\n".join(lines) + "\n\n" + "".join(f"- {note}\n" for note in part.notes)


def _as_csv(sections: Sequence[Section]) -> str:
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


def _as_html(part: Section) -> str:
    """Table, notes, Pareto view and curves."""
    note = "Mean over seeds and its 95 % interval (Student's t); bold: the best mean."
    return (
        section(part.title, [], note=note)
        + table(*_table(part))
        + "".join(f"<p>{html.escape(line)}</p>" for line in part.notes)
        + section("Pareto view of the test results", pareto(part))
        + section("Validation split, epoch by epoch", curves(part))
    )
