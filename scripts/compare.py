"""Many runs side by side: results with 95 % intervals over seeds, delta-m, mean rank, Pareto front and cost.

python scripts/compare.py outputs                                    # every finished run below outputs/
python scripts/compare.py outputs/*-diamonds-* --baseline realtime   # relative to the runs of one balancer; default: sum
python scripts/compare.py outputs/dense-rooms-* --single-task        # relative to balancer=single, objective by objective
python scripts/compare.py outputs --metrics cut/accuracy price/r2    # what delta-m, rank and front are made of

Writes comparison.html, comparison.md and comparison.csv. docs/comparing.md says what each column means.
"""

from __future__ import annotations

import argparse
import csv
import html
import io
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from engine import figures  # noqa: E402
from engine.checkpoint import write_text  # noqa: E402
from engine.page import page, section, table  # noqa: E402
from engine.panels import series  # noqa: E402
from engine.tracking import read_rows  # noqa: E402
from scripts.comparison import Section, compare  # noqa: E402
from scripts.run_sets import ComparisonError, RunSet, estimate, find_runs, group  # noqa: E402

_MARKERS = ("o", "s", "^")  # of points, once all colours are taken
_WIDE = 12  # results that fit beside each other; of more, the table has the first of each objective


def main(arguments: Sequence[str] | None = None) -> None:
    """Read runs, compare them task by task, write three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="run folders, folders that contain some, or globs")
    parser.add_argument("--baseline", metavar="NAME", help="balancer, or label of a set, that others are relative to")
    parser.add_argument("--single-task", action="store_true", help="the baseline are the runs of balancer=single")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="results to score, such as cut/accuracy")
    parser.add_argument("--out", type=Path, default=Path("comparison"), metavar="FOLDER", help="default: comparison")
    options = parser.parse_args(arguments)
    if options.baseline and options.single_task:
        parser.error("--baseline and --single-task exclude each other")
    try:
        finished, unfinished = find_runs(options.runs)
        sections = [
            compare(title, sets, options.baseline, options.single_task, options.metrics)
            for title, sets in group(finished).items()
        ]
        options.out.mkdir(parents=True, exist_ok=True)
    except ComparisonError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: --out: cannot create {options.out} ({error.strerror})")
    for folder in unfinished:
        print(f"left out, as it is not finished: {folder}", file=sys.stderr)
    text = "\n".join(markdown(part) for part in sections)
    heading = f"<h1>Comparison of {len(finished)} runs</h1>"
    write_text(options.out / "comparison.html", page("Comparison of runs", [heading, *map(web, sections)]))
    write_text(options.out / "comparison.md", text)
    write_text(options.out / "comparison.csv", values(sections))
    print(text)
    print(f"open {options.out / 'comparison.html'}")


def cells(part: Section) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table: the best by mean rank first, or by name without ranks."""
    costs = ("cost", "samples/s")
    shown = sorted(part.columns, key=lambda name: (name in part.higher) + 2 * (name in costs))
    if len(part.higher) > _WIDE:
        main = part.main if len(part.main) <= _WIDE else []
        shown = [name for name in shown if name not in part.higher or name in main]
    arrows = {True: " ↑", False: " ↓"}
    heading = [
        "balancer",
        "seeds",
        *(name + (arrows[part.higher[name]] if name in part.higher else "") for name in shown),
    ]
    rows = []
    for i in order(part):
        each = part.sets[i]
        star = " ★" if each.label in part.front else ""
        rows.append([each.label + star, str(len(each.runs)), *(str(part.columns[name][i]) for name in shown)])
    return heading, rows


def order(part: Section) -> list[int]:
    """Positions of the sets from best to worst mean rank."""
    ranks = [each.mean for each in part.columns.get("mean rank", [])] or [0.0] * len(part.sets)
    return sorted(range(len(part.sets)), key=lambda i: math.inf if math.isnan(ranks[i]) else ranks[i])


def best(part: Section) -> list[tuple[int, int]]:
    """(row, column) of the best mean of each result in the table."""
    heading, _ = cells(part)
    found = []
    for column, name in enumerate(name.removesuffix(" ↑").removesuffix(" ↓") for name in heading):
        if name in part.higher:
            means = np.array([part.columns[name][i].mean for i in order(part)])
            if np.isfinite(means).any():
                found.append((int(np.nanargmax(means) if part.higher[name] else np.nanargmin(means)), column))
    return found


def markdown(part: Section) -> str:
    """Heading, table and notes."""
    heading, rows = cells(part)
    bold = set(best(part))
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for i, row in enumerate(rows):
        marked = [f"**{cell}**" if (i, j) in bold else cell.replace("|", "\\|") for j, cell in enumerate(row)]
        lines.append("| " + " | ".join(marked) + " |")
    return f"## {part.title}\n\n" + "\n".join(lines) + "\n\n" + "".join(f"- {note}\n" for note in part.notes)


def values(sections: Sequence[Section]) -> str:
    """A line per set and value, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "model", "balancer", "set", "seeds", "front", "value", "mean", "half_width"])
    for part in sections:
        for i, each in enumerate(part.sets):
            own = (part.title, each.model, each.balancer, each.label, len(each.runs), int(each.label in part.front))
            for name, found in part.columns.items():
                mean = f"{found[i].mean:.8g}" if math.isfinite(found[i].mean) else ""
                half = found[i].half
                writer.writerow([*own, name, mean, "" if half is None else f"{half:.8g}"])
    return file.getvalue()


def web(part: Section) -> str:
    """The section as HTML: table, notes, front and curves."""
    heading, rows = cells(part)
    note = "Mean over seeds and its 95 % interval (Student's t); bold: the best mean."
    return (
        section(part.title, [], note=note)
        + table(rows, heading, best(part))
        + "".join(f"<p>{html.escape(line)}</p>" for line in part.notes)
        + section("Pareto view of the test results", pareto(part))
        + section("Validation split, epoch by epoch", curves(part))
    )


def pareto(part: Section) -> Iterator[tuple[str, str]]:
    """Results of two objectives against each other, a point per set, for the first three pairs of objectives; and the legend."""
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
            colour = figures.COLOURS[i % len(figures.COLOURS)]
            axes.errorbar(
                x[i].mean,
                y[i].mean,
                xerr=x[i].half,
                yerr=y[i].half,
                fmt="o",
                color=colour,
                elinewidth=0.8,
                markersize=5,
            )
        axes.margins(0.15)
        axes.set_xlabel(a)
        axes.set_ylabel(b)
        better = " and ".join(f"{name} {'higher' if part.higher[name] else 'lower'}" for name in (a, b))
        yield (
            figures.data_uri(figure),
            f"Better: {better}. Dashed: sets that no other beats in both; bars: 95 % intervals.",
        )
    yield figures.data_uri(legend(part.sets)), "Colours of points and curves."


def curves(part: Section) -> Iterator[tuple[str, str]]:
    """Every scored result and every loss over epochs, a line per set, for as many as a page can hold."""
    tables = {each.label: [read_rows(run.folder / "metrics.csv") for run in each.runs] for each in part.sets}
    names = dict.fromkeys([*part.scored, *(name for name in part.higher if name.endswith("/loss"))])
    for name in list(names)[:_WIDE]:
        lines, bands = {}, {}
        for each in part.sets:
            found = [series(rows, name, "epoch", "val") for rows in tables[each.label]]
            found = [line for line in found if line[0]]
            if found:
                epochs = sorted(set.intersection(*(set(x) for x, _ in found)))
                points = [estimate([dict(zip(*line, strict=True))[epoch] for line in found]) for epoch in epochs]
                lines[each.label] = (epochs, [point.mean for point in points])
                halves = [point.half or 0.0 for point in points]
                low = [point.mean - half for point, half in zip(points, halves, strict=True)]
                high = [point.mean + half for point, half in zip(points, halves, strict=True)]
                bands[each.label] = (low, high)
        if lines:
            labels = [each.label for each in part.sets]
            figure = figures.curves(name, lines, "epoch", labels, bands, legend=False)
            yield figures.data_uri(figure), "Mean over seeds; band: 95 % interval."


def legend(sets: Sequence[RunSet]) -> figures.Figure:
    """The names of all sets beside their lines."""
    figure, axes = figures.new_axes("", height=0.4 + 0.2 * len(sets))
    count = len(figures.COLOURS)
    for i, each in enumerate(sets):
        style = figures.STYLES[i // count % len(figures.STYLES)]
        axes.plot(
            [],
            [],
            style,
            marker=_MARKERS[i // count % len(_MARKERS)],
            color=figures.COLOURS[i % count],
            label=textwrap.fill(each.label, 50),
        )
    axes.axis("off")
    figure.legend(*axes.get_legend_handles_labels(), loc="center left", frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
