"""The files of a comparison: ``comparison.html``, ``comparison.md`` and ``comparison.csv``."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoint import write_text
from engine.comparison.pictures import curves, pareto
from engine.comparison.run_sets import group
from engine.comparison.runs import ComparisonError, find_runs
from engine.comparison.section import Section, compare
from engine.comparison.tables import as_csv, as_markdown, best_cells, cells
from engine.page import page, section, table

__all__ = ["compare_runs"]


def compare_runs(
    places: Sequence[str],
    out: Path,
    baseline: str | None = None,
    single_task: bool = False,
    metrics: Sequence[str] | None = None,
) -> None:
    """Read runs, compare them task by task, write three files and print the Markdown.

    Args:
        places: Run folders, folders that contain some, or globs.
        out: Folder of the files.
        baseline: See :func:`engine.comparison.section.compare`, as for the next two.
        single_task: See there.
        metrics: See there.

    Raises:
        ComparisonError: Runs that cannot be compared, or a folder that cannot be made.
    """
    finished, unfinished = find_runs(places)
    sections = [compare(title, sets, baseline, single_task, metrics) for title, sets in group(finished).items()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComparisonError(f"--out: cannot create {out} ({error.strerror})") from None
    for folder in unfinished:
        print(f"left out, as it is not finished: {folder}", file=sys.stderr)
    text = "\n".join(map(as_markdown, sections))
    heading = f"<h1>Comparison of {len(finished)} runs</h1>"
    write_text(out / "comparison.html", page("Comparison of runs", [heading, *map(_as_html, sections)]))
    write_text(out / "comparison.md", text)
    write_text(out / "comparison.csv", as_csv(sections))
    print(text)
    print(f"open {out / 'comparison.html'}")


def _as_html(part: Section) -> str:
    """Table, notes, Pareto view and curves."""
    heading, rows = cells(part)
    note = "Mean over seeds and its 95 % interval (Student's t); bold: the best mean."
    return (
        section(part.title, [], note=note)
        + table(rows, heading, best_cells(part))
        + "".join(f"<p>{html.escape(line)}</p>" for line in part.notes)
        + section("Pareto view of the test results", pareto(part))
        + section("Validation split, epoch by epoch", curves(part))
    )
