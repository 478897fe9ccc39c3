"""The files of a comparison: ``comparison.html``, ``comparison.md`` and ``comparison.csv``."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mozoo.checkpoint import write_text
from mozoo.comparison.estimates import column_texts
from mozoo.comparison.pictures import curves, pareto
from mozoo.comparison.run_sets import RunSet, group
from mozoo.comparison.runs import ComparisonError, find_runs
from mozoo.comparison.section import Choices, Section, compare
from mozoo.page import escape, heading, index, page, section, sorting, table
from mozoo.titles import ARROWS, titled
from mozoo.visible import visible

_MANY = 12  # results that fit beside each other; of more, the table has the first of each objective


def compare_runs(places: Sequence[str], out: Path, choices: Choices) -> None:
    """Compare the runs in and below ``places``, write three files, print the Markdown.

    Raises ComparisonError for runs that cannot be compared, or a folder that cannot be made.
    """
    finished, others = find_runs(places)
    sections = _sections(group(finished), choices)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComparisonError(f"--out: cannot create {out} ({error.strerror})") from None
    for folder, reason in others.items():
        print(visible(f"left out, as {reason}: {folder}"), file=sys.stderr)
    text = "\n".join(map(_as_markdown, sections))
    start = f"<h1>Comparison of {len(finished)} run{'s' if len(finished) > 1 else ''}</h1>"
    start += index(part.title for part in sections) if len(sections) > 1 else ""
    end = section("Left out", [], note="; ".join(f"{folder}: {reason}" for folder, reason in others.items()))
    write_text(out / "comparison.html", page("Comparison of runs", [start, *map(_as_html, sections), end], sorting()))
    write_text(out / "comparison.md", text)
    write_text(out / "comparison.csv", _as_csv(sections))
    print(text)
    print(f"open {out / 'comparison.html'}")


def _sections(groups: Mapping[str, list[RunSet]], choices: Choices) -> list[Section]:
    """Of each task.

    One of several that lacks the runs of ``--single-task`` says so, and is as by default.
    """
    sections, problems = [], []
    for title, sets in groups.items():
        try:
            sections.append(compare(title, sets, choices))
        except ComparisonError as problem:
            problems.append(problem)
            if not choices.single_task or len(problems) == len(groups):
                raise problems[0] from None
            sections.append(compare(title, sets, replace(choices, single_task=False)))
            sections[-1].notes.insert(0, str(problem))
    return sections


def _columns(part: Section) -> list[str]:
    """Columns of the table, test results last but for the costs; of many results, the main ones."""
    costs = ("cost", "samples/s")
    names = sorted(part.columns, key=lambda name: (name in part.higher) + 2 * (name in costs))
    if len(part.higher) > _MANY:
        main = part.main if len(part.main) <= _MANY else []
        names = [name for name in names if name not in part.higher or name in main]
    return names


def _order(part: Section) -> list[int]:
    """Places of the sets by mean rank, those without one last."""
    ranks = [each.mean for each in part.columns.get("mean rank", [])] or [0.0] * len(part.sets)
    return sorted(range(len(part.sets)), key=lambda i: math.inf if math.isnan(ranks[i]) else ranks[i])


def _table(part: Section) -> tuple[list[list[str]], list[str], list[tuple[int, int]]]:
    """Rows by mean rank, columns, and (row, column) of the best mean of each result."""
    names, order = _columns(part), _order(part)
    texts = [column_texts(part.columns[name]) for name in names]
    rows = []
    for i in order:
        each = part.sets[i]
        star = " ★" if each.label in part.front else ""
        rows.append([each.label + star, str(len(each.runs)), *(column[i] for column in texts)])
    best = []
    for column, name in enumerate(names, start=2):
        means = np.array([part.columns[name][i].mean for i in order])
        if name in part.higher and np.isfinite(means).sum() > 1:
            best.append((int(np.nanargmax(means) if part.higher[name] else np.nanargmin(means)), column))
    return rows, ["balancer", "seeds", *names], best


def _as_markdown(part: Section) -> str:
    """Heading, table and notes."""
    rows, names, best = _table(part)
    heading = [name + ARROWS[part.higher.get(name)] for name in names]
    lines = ["| " + " | ".join(map(_cell, heading)) + " |", "|" + "---|" * len(heading)]
    for i, row in enumerate(rows):
        marked = [f"**{_cell(cell)}**" if (i, j) in best else _cell(cell) for j, cell in enumerate(row)]
        lines.append("| " + " | ".join(marked) + " |")
    notes = "".join(f"- {visible(note)}\n" for note in part.notes)
    return f"## {visible(part.title)}\n\n" + "\n".join(lines) + "\n\n" + notes


def _cell(text: str) -> str:
    return visible(text).replace("|", "\\|")


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


def _with_titles(line: str, part: Section) -> str:
    """A note whose results have titles, which may have commas."""
    names = "|".join(map(re.escape, sorted(part.higher, key=len, reverse=True)))
    return re.sub(rf"(?<![\w/])(?:{names})(?![\w/])", lambda found: f"\u201c{titled(found[0])}\u201d", line)


def _as_html(part: Section) -> str:
    """Table, notes, Pareto view and curves; no pictures of a single run, whose report has them."""
    runs = [run for each in part.sets for run in each.runs]
    rows, columns, best = _table(part)
    names = [(titled(name) if name in part.higher else name) + ARROWS[part.higher.get(name)] for name in columns]
    means = [
        [None, float(len(part.sets[i].runs)), *(part.columns[name][i].mean for name in columns[2:])]
        for i in _order(part)
    ]
    note = "Mean over seeds and its 95 % interval (Student's t); bold: the best mean. Press a heading to sort."
    shown = f"<p>{note}</p>" + table(rows, names, best, means)
    if len(runs) == 1:
        notes = ["A single run: its report.html shows it.", *part.notes]
        return heading(part.title) + table(rows, names) + "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        heading(part.title)
        + shown
        + "".join(f"<p>{escape(_with_titles(line, part))}</p>" for line in part.notes)
        + section("Pareto view of the test results", pareto(part), "wide-grid")
        + section("Results over the epochs", curves(part))
    )
