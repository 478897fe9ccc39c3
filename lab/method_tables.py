"""Tables and figures of lab/benchmark_methods.py, from the CSV files in results/.

What a table says of a setting is the mean over seeds at its best learning rate, with Student's 95 % interval. Whether a setting is
better than the rival follows from differences paired by seed, corrected for all comparisons of a study (lab/significance.py).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lab import documents, results, studies
from lab.figure_style import FAINT, INK, SIGNS, SOFT, WIDTH, label_lines, limits, look, plain_ticks
from lab.grids import ROUNDS
from lab.significance import LEVEL, Difference, against, holm, paired, threshold
from lab.studies import AUTOSCALE, STUDIES, Trial, baseline, cost_file, directions, runs_file
from lab.study_plan import Plan
from mozoo.comparison.estimates import Estimate, estimate
from mozoo.figures import front
from mozoo.tracking import read_rows
from tasks.results import ResultKey
from tasks.scores import delta_m, mean_rank

OVER_TIME = ("uncertainty", "realtime", "dwa", "gradnorm", "famo", "mgda", "imtl_g", "nash_mtl")
WIDE = 4  # results that a table has columns for, and objectives whose pairs a figure has panels for
SOLVED = 0.9  # largest relative error of a field of which something is known
FULL = 100.0  # percent, of the fullest color in a map of changes
LINE = 11.0  # points, of values that stand above each other
_APART = 3.0  # pixels around a value

#: Setting -> how it is drawn and called.
Looks = Mapping[str, Mapping[str, Any]]


class Results:
    """A study, read from its files; it must be :func:`finished`.

    Args:
        name: Of the study.

    Attributes:
        plan: What validation chose.
        rates: Setting -> its best learning rate.
        higher: Heading -> whether higher is better.
        values: Setting -> heading -> results of its seeds, in the order of seeds, not a number where one diverged. Points of the
            sweep that were not among the best have the first seed alone.
        rival: What the others are compared with: the chosen point of the sweep, or ``sum``.
        compared: Labels of the others, the chosen point among them where ``sum`` is the rival.
        cost: Method -> time and memory relative to ``sum``.
    """

    def __init__(self, name: str) -> None:
        self.study = STUDIES[name]
        self.name, self.higher = name, directions(self.study)
        self.plan = plan_of(name)
        rows = studies.recorded(runs_file(name))
        self.rates, self.points, self.rival = self.plan.rates, self.plan.points, self.plan.rival or "sum"
        chosen = [self.plan.tuned] if self.plan.tuned else []
        self.compared = [label for label in dict.fromkeys([*self.study.compared, *chosen]) if label != self.rival]
        self.alone = [label for label in self.study.settings() if label.startswith("only ")]
        self.values = {}
        for label in [*self.compared, self.rival, *self.alone, *self.points]:
            rate = self.rates.get(label, self.study.rates[len(self.study.rates) // 2])
            found = [rows[label, rate, seed] for seed in self.study.seeds if (label, rate, seed) in rows]
            self.values[label] = {heading: [float(row[heading]) for row in found] for heading in self.higher}
        costs = read_rows(cost_file(name))
        self.cost = {row["setting"]: (float(row["time"]), float(row["memory"])) for row in costs}

    def estimate(self, label: str, heading: str) -> Estimate:
        """Mean over seeds, with its interval."""
        return estimate(self.values[label][heading])

    def means(self, label: str) -> dict[str, float]:
        """Heading -> mean over seeds."""
        return {heading: statistics.fmean(found) for heading, found in self.values[label].items()}

    @cached_property
    def reference(self) -> dict[str, float]:
        """Heading -> median over seeds of the baseline, which one bad run of five does not move."""
        return baseline(
            self.study, lambda label: {heading: float(np.median(x)) for heading, x in self.values[label].items()}
        )

    def deltas(self, label: str) -> list[float]:
        """delta-m in percent, one per seed; negative is better."""
        reference, found = self.reference, self.values[label]
        runs = zip(*found.values(), strict=True)
        return [delta_m(dict(zip(found, run, strict=True)), reference, self.higher) for run in runs]

    def delta(self, label: str) -> Estimate:
        """delta-m in percent; negative is better."""
        return estimate(self.deltas(label))

    def difference(self, label: str) -> Difference:
        """delta-m minus that of the rival, paired by seed."""
        return paired(self.deltas(label), self.deltas(self.rival))

    def adjusted(self) -> dict[str, float]:
        """Setting -> Holm's p-value of its difference to the rival."""
        return holm({label: self.difference(label).p for label in self.compared})

    def groups(self) -> tuple[list[str], list[str], list[str]]:
        """Settings better than, like, or worse than the rival."""
        return against(self.deltas(self.rival), {label: self.deltas(label) for label in self.compared})

    def ranks(self, labels: list[str]) -> dict[str, float]:
        """Mean rank of the means; a setting that diverged comes last."""
        last = {heading: -math.inf if higher else math.inf for heading, higher in self.higher.items()}
        means = {label: self.means(label) for label in labels}
        return mean_rank(
            {label: {h: last[h] if math.isnan(x) else x for h, x in row.items()} for label, row in means.items()},
            self.higher,
        )

    @property
    def unsolved(self) -> str:
        """The smallest error, in words, where no setting is far from that of zeros; else empty.

        By means over the seeds that did not diverge.
        """
        for heading, (key, _) in self.study.metrics.items():
            result = ResultKey.parse(key)
            if result.metric != "relative_l2":
                continue
            kept = [
                [x for x in self.values[label][heading] if math.isfinite(x)] for label in (*self.compared, self.rival)
            ]
            smallest = min((statistics.fmean(errors) for errors in kept if errors), default=math.inf)
            if smallest > SOLVED:
                return f"the smallest relative error of {result.objective} is {smallest:.2f}, and zero everywhere has 1"
        return ""


def plan_of(name: str) -> Plan:
    """The plan of a study as far as results/ hold its runs."""
    return Plan(name, STUDIES[name], Trial.recorded_row)


def finished(name: str) -> bool:
    """Whether results/ hold all runs of a study, and what a step of each setting costs."""
    known = {row["setting"] for row in read_rows(cost_file(name))} if cost_file(name).is_file() else set()
    return known >= set(STUDIES[name].timed) and not plan_of(name).missing


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(outcome: Results) -> str:
    """Methods, static weights, objectives alone."""
    study, ranked = outcome.study, [*outcome.compared, outcome.rival]
    shown = study.metrics if len(study.metrics) <= WIDE else {}
    ranks, adjusted, lines = outcome.ranks(ranked), outcome.adjusted(), []
    for label in [*ranked, *(outcome.alone if shown else [])]:
        cells = [called(outcome, label), f"{outcome.rates[label]:g}", str(outcome.plan.budget(label))]
        cells += [_cell(outcome.estimate(label, heading), digits) for heading, (_, digits) in shown.items()]
        cells += [_cell(outcome.delta(label), 2)] if label in ranks else [""]
        cells += [_cell(outcome.difference(label).mean, 2), f"{adjusted[label]:.2g}"] if label in adjusted else ["", ""]
        cells += [f"{ranks[label]:.1f}"] if label in ranks else [""]
        cells += [f"{value:.2f}" for value in outcome.cost[label]] if label in outcome.cost else ["", ""]
        lines.append(cells)
    head = ["setting", "lr", "runs", *shown, "delta-m, %", "to the rival", "p", "mean rank", "time", "memory"]
    against = "one model per objective" if study.alone is None else "`sum`"
    alone = (
        ""
        if shown or study.alone is not None
        else f"\n\nOne model per objective, median (all seeds): {references(outcome)}."
    )
    note = (
        f"{study.size}; {len(study.seeds)} seeds, learning rates from {', '.join(f'{r:g}' for r in study.rates)}. "
        f"delta-m against {against}, the median of its seeds; negative is better. To the rival: difference of delta-m, "
        f"paired by seed; p: Holm's, of {len(adjusted)} comparisons. Time and memory of a step relative to `sum`. {provenance(outcome)}"
    )
    ends = [called(outcome, label) for label in [*ranked, *outcome.alone] if not outcome.plan.rate_is_inside(label)]
    if ends:
        note += f" Best at an end of the rates that were tried, and maybe better beyond it: {', '.join(ends)}."
    return f"{documents.table(head, lines)}\n{note}{alone}\n\n{verdict(outcome)}"


def references(outcome: Results) -> str:
    """What delta-m is relative to, with the results of all seeds."""
    parts = []
    for heading, (key, digits) in outcome.study.metrics.items():
        seeds = sorted(outcome.values[f"only {ResultKey.parse(key).objective}"][heading])
        parts.append(
            f"{heading} {outcome.reference[heading]:.{digits}f} ({', '.join(f'{x:.{digits}f}' for x in seeds)})"
        )
    return "; ".join(parts)


def called(outcome: Results, label: str) -> str:
    """How tables and sentences name a setting."""
    if label in outcome.study.methods or label == AUTOSCALE:
        return f"`{label}`"
    return f"{label}, chosen" if label == outcome.plan.tuned else label


def provenance(outcome: Results) -> str:
    """The commits that rows were trained at."""
    rows = studies.recorded(runs_file(outcome.name))
    shown = [row for (label, _, _), row in rows.items() if label in outcome.values]
    known = Counter(row["git"] or ("diverged" if studies.diverged(row, outcome.study) else "unknown") for row in shown)
    return "Runs by commit: " + ", ".join(f"{commit} {count}" for commit, count in known.items()) + "."


def _cell(value: Estimate, digits: int) -> str:
    return value.text(digits) if math.isfinite(value.mean) else "diverged"


def rival_words(outcome: Results) -> str:
    """What the others are compared with, and whether it lies inside the grid."""
    if outcome.plan.tuned is None:
        return "Against `sum`"
    point, count = outcome.plan.tuned.removeprefix("static "), len(outcome.points)
    if outcome.rival == "sum":
        return f"Against `sum`, which validation finds better than the best of {count} static weights (v = {point})"
    place = (
        "inside the grid"
        if outcome.plan.inside
        else f"at an edge after {ROUNDS} extensions, so a wider one may do better"
    )
    return f"Against the static weights that validation chose of {count} (v = {point}, {place})"


def verdict(outcome: Results) -> str:
    """Settings better, and worse, than the rival."""
    groups = [[called(outcome, label) for label in group] for group in outcome.groups()]
    better, same, worse = (", ".join(group) or "none" for group in groups)
    failed = (
        f"No setting solves the problem: {outcome.unsolved}. So what follows counts nowhere. "
        if outcome.unsolved
        else ""
    )
    seeds, comparisons = len(outcome.study.seeds), len(outcome.compared)
    return (
        f"{failed}{rival_words(outcome)}, in delta-m: better {better}; no significant difference {same}; worse {worse}. "
        f"Significant is a corrected p below {LEVEL:g}. With {seeds} seeds and {comparisons} comparisons, the clearest difference "
        f"must be {threshold(seeds, comparisons):.1f} times its standard error for that.\n"
    )


def summary() -> str:
    """A line per study that counts."""
    head = ("study", "`sum`", "`grad_normalize`", "static weights, chosen", "lowest of the methods", "better", "worse")
    lines = []
    for outcome in counted(map(Results, filter(finished, STUDIES))):
        deltas = {label: outcome.delta(label) for label in outcome.study.methods}
        lowest = min(deltas, key=lambda label: (math.isnan(deltas[label].mean), deltas[label].mean))
        groups = outcome.groups()
        count = sum(label in deltas for group in groups for label in group)
        better, _, worse = ([label for label in group if label in deltas] for group in groups)
        tuned = "" if outcome.plan.tuned is None else _cell(outcome.delta(outcome.plan.tuned), 1)
        cells = [f"[{outcome.name}](docs/results.md#{outcome.name})", _cell(deltas["sum"], 1)]
        cells += [_cell(deltas["grad_normalize"], 1) if "grad_normalize" in deltas else "", tuned]
        cells += [f"{_cell(deltas[lowest], 1)} (`{lowest}`)", f"{len(better)} of {count}", f"{len(worse)}"]
        lines.append(cells)
    return documents.table(head, lines) + unfinished()


def counted(outcomes: Iterable[Results]) -> list[Results]:
    """Those that say something about methods: some setting solves the problem."""
    return [outcome for outcome in outcomes if not outcome.unsolved]


def unfinished() -> str:
    """Sentences on the studies that do not count, and on those that have not run."""
    done = list(filter(finished, STUDIES))
    failed = [name for name in done if Results(name).unsolved]
    names = [name for name in STUDIES if name not in done]
    said = f"\nNot counted, as no setting solves it: {', '.join(failed)}.\n" if failed else ""
    if not names:
        return said
    if len(names) > 1:
        return f"{said}\nNot finished, so not in this table: {len(names)} more studies; next `python lab/benchmark_methods.py {names[0]}`.\n"
    return f"{said}\nNot finished, so not in this table: `python lab/benchmark_methods.py {names[0]}`.\n"


def block(name: str) -> str:
    """Table and figures of a study."""
    if not finished(name):
        known = len(studies.recorded(runs_file(name)))
        begun = f"Not finished, {known} runs so far" if known else "Not run yet"
        return f"{begun}: `python lab/benchmark_methods.py {name}`. {STUDIES[name].size}.\n"
    pictures = [f"![Results of the sweep and of the methods, and their cost](../results/methods_{name}.svg)\n"]
    if weights_file(name).is_file():
        pictures.append(f"![Weights over time](../results/{weights_file(name).name})\n")
    return "\n".join([table(Results(name)), *pictures])


def weights_file(name: str) -> Path:
    """The figure of weights over time."""
    return results.RESULTS / f"methods_{name}_weights.svg"


BLOCKS: documents.Blocks = {
    "docs/results.md": {name: partial(block, name) for name in STUDIES},
    "README.md": {"methods": summary},
}


# ---- figures ---------------------------------------------------------------------------------------------------------


def figures(name: str) -> dict[str, Callable[[Path], None]]:
    """Pairs of results, and delta-m against cost, from the CSV files."""
    return {f"methods_{name}.svg": partial(results.save_figure, salt=name, draw=partial(draw_results, name))}


def weight_figures(name: str) -> dict[str, Callable[[Path], None]]:
    """Weights over time, from the runs at seed 0."""

    outcome = Results(name)
    known = [label for label in OVER_TIME if label in outcome.study.methods]
    trials = [Trial(name, label, outcome.rates[label], outcome.study.seeds[0]) for label in known]
    folders = {trial.label: trial.training.folder for trial in trials}
    there = {label: folder for label, folder in folders.items() if folder.is_dir()}
    if len(there) < len(folders):  # rows of an earlier session have none, and the figure stays as it is
        return {}
    return {weights_file(name).name: partial(results.save_figure, salt=name, draw=partial(draw_weights, name, there))}


def draw_results(name: str) -> Figure:
    """Results of the settings, and delta-m against cost, where the points have names.

    A panel per pair of objectives; of more than ``WIDE`` objectives, whose pairs would fill pages, a map of changes.
    """
    outcome = Results(name)
    objective = {heading: ResultKey.parse(key).objective for heading, (key, _) in outcome.study.metrics.items()}
    first = {objective[heading]: heading for heading in reversed(outcome.higher)}
    headings = [heading for heading in outcome.higher if heading in first.values()]
    if len(headings) == 1:
        headings = list(outcome.higher)[:2]
    looks: dict[str, dict[str, Any]] = {
        label: {**look(index), "markersize": 7, "label": label}
        for index, label in enumerate(outcome.study.timed)
        if label in outcome.values
    }
    if outcome.plan.tuned:
        looks[outcome.plan.tuned] = {"marker": "*", "color": INK, "markersize": 13, "label": "static weights, chosen"}
    height = max(3.7, 0.17 * (len(looks) + 2))
    if len(headings) > WIDE:
        figure = Figure(figsize=(WIDTH, 2 * height), layout="constrained")
        changes, cost = figure.subplots(2, 1)
        _draw_changes(changes, outcome, {heading: objective[heading] for heading in headings}, looks)
        panels = [cost]
    else:
        pairs = [(a, b) for i, a in enumerate(headings) for b in headings[i + 1 :]]
        lines = math.ceil((1 + len(pairs)) / 2)
        figure = Figure(figsize=(WIDTH, height * lines), layout="constrained")
        axes = figure.subplots(lines, 2, squeeze=False).ravel()
        for panel in axes[1 + len(pairs) :]:
            panel.set_axis_off()
        for panel, pair in zip(axes, pairs, strict=False):
            _draw_pair(panel, outcome, pair, looks)
        panels = list(axes[: len(pairs) + 1])
        cost = panels[-1]
    named = _draw_cost(cost, outcome, looks, height)
    figure.draw_without_rendering()  # the names have made the panels narrower
    for panel in panels:
        _part([text for text in panel.texts if text.get_text() not in named], panel)
    return figure


def _draw_pair(panel: Any, outcome: Results, pair: tuple[str, str], looks: Looks) -> None:
    """Two results of each setting, and those of the sweep with the line of its best."""
    x, y = pair
    places = {label: [outcome.estimate(label, heading).mean for heading in pair] for label in (*outcome.points, *looks)}
    sweep = np.array([places[label] for label in outcome.points])
    if outcome.points:
        panel.plot(*_edge(sweep, outcome.higher[x], outcome.higher[y]).T, color=FAINT, linestyle="-", zorder=0)
    cross = {"marker": "x", "color": SOFT}
    marks = [(point, cross) for point in sweep] + [(np.array(places[label]), each) for label, each in looks.items()]
    _mark(panel, marks, among=np.array([point for point, _ in marks]))
    panel.set(xlabel=x + _arrow(outcome.higher[x]), ylabel=y + _arrow(outcome.higher[y]))
    panel.set_title("results; x: static weights of the sweep", fontsize=9, weight="normal")
    panel.grid()


def _draw_changes(panel: Any, outcome: Results, names: Mapping[str, str], looks: Looks) -> None:
    """Change of each result of each setting in percent of the baseline, the best setting above.

    Args:
        names: Heading -> what its column is called.
    """
    reference = outcome.reference
    by_delta = sorted(looks, key=lambda label: (math.isnan(mean := outcome.delta(label).mean), mean))
    changes = np.array(
        [
            [delta_m({name: means[name]}, {name: reference[name]}, outcome.higher) for name in names]
            for means in map(outcome.means, by_delta)
        ]
    )
    panel.pcolormesh(np.clip(changes, -FULL, FULL), cmap="RdBu_r", vmin=-FULL, vmax=FULL, edgecolor="none")
    for (row, column), change in np.ndenumerate(changes):
        color = "#ffffff" if abs(change) > 0.6 * FULL else "#1e293b"  # on a cell, whose color no page changes
        text = str(round(change)) if math.isfinite(change) else "diverged"
        panel.text(column + 0.5, row + 0.5, text, color=color, ha="center", va="center")
    panel.set_xticks(np.arange(len(names)) + 0.5, list(names.values()))
    panel.set_yticks(np.arange(len(by_delta)) + 0.5, [looks[label]["label"] for label in by_delta])
    panel.tick_params(length=0)
    panel.invert_yaxis()
    what = "one model per objective" if outcome.study.alone is None else "sum"
    panel.set_title(f"change against {what}, %" + _arrow(False), fontsize=9, weight="normal")


def _draw_cost(cost: Any, outcome: Results, looks: Looks, height: float) -> set[str]:
    """delta-m against the time of a step; the names it has written at the side."""
    marks, ends, bars = [], [], []
    for label, each in looks.items():
        seconds, delta = outcome.cost.get(label, (1.0, 1.0))[0], outcome.delta(label)
        bars.append((seconds, delta.mean, delta.half, each["color"]))
        marks.append((np.array([seconds, delta.mean]), each))
        ends += [(seconds, delta.mean + sign * (delta.half or 0.0)) for sign in (-1, 0, 1)]
    _mark(cost, marks, among=np.array(ends))
    low, high = cost.get_ylim()
    for seconds, mean, half, color in bars:
        if low <= mean <= high:
            cost.errorbar(seconds, mean, yerr=half, color=color, capsize=2, fmt="none")
    cost.axhline(outcome.delta(outcome.rival).mean, color=FAINT, zorder=0)
    cost.set(xlabel="time of a step, relative to sum", ylabel="delta-m, %" + _arrow(False))
    cost.set_title("cost; bars: 95 % intervals", fontsize=9, weight="normal")
    cost.grid()
    cost.figure.draw_without_rendering()  # which lays it out
    named = {
        f"{SIGNS[each['marker']]} {each['label']}": (point, each["color"])
        for point, each in marks
        if np.isfinite(point).all()
    }
    label_lines(
        cost,
        {label: (float(point[0]), float(point[1])) for label, (point, _) in named.items()},
        {label: color for label, (_, color) in named.items()},
        height - 0.9,
    )
    return set(named)


def _mark(panel: Any, marks: Sequence[tuple[np.ndarray, Mapping[str, Any]]], among: np.ndarray) -> None:
    """Draw points in a frame around those ``among`` which they stand.

    One far from all others would press those together: it stands at the edge, hollow, with its value. Far is more than two
    interquartile ranges beyond the quartiles. What is not a number, as of runs that diverged, has no place.
    """
    low, high = np.array([limits(column, reach=2.0) for column in among.T]).T
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    for point, each in marks:
        if not np.isfinite(point).all():
            continue
        at = np.clip(point, low, high)
        if np.array_equal(at, point):
            panel.plot(*point, **{**each, "linestyle": ""})
            continue
        panel.plot(*at, **{**each, "linestyle": "", "markerfacecolor": "none", "clip_on": False, "zorder": 3})
        text = ", ".join(f"{value:.3g}" for value, shown in zip(point, at, strict=True) if value != shown)
        right, top = at > (low + high) / 2
        place: Any = {"ha": "right" if right else "left", "va": "top" if top else "bottom", "color": each["color"]}
        panel.annotate(text, at, (-6 if right else 6, -5 if top else 5), textcoords="offset points", **place)


def _part(texts: Sequence[Any], panel: Any) -> None:
    """Move values at the edge that stand on each other, or on a point, towards the middle.

    Call it when the layout is final.
    """
    points = [line.get_xydata() for line in panel.lines]
    spots = [panel.transData.transform(each[0]) for each in points if len(each) == 1]
    placed: list[Any] = [Bbox.from_extents(*(spot - _APART), *(spot + _APART)) for spot in spots]
    for text in texts:
        x, y = text.get_position()
        box = text.get_window_extent().padded(_APART)
        while any(box.overlaps(other) for other in placed):
            y += LINE if y > 0 else -LINE
            text.set_position((x, y))
            box = text.get_window_extent().padded(_APART)
        placed.append(box)


def _arrow(higher: bool) -> str:
    return " (higher is better)" if higher else " (lower is better)"


def _edge(points: np.ndarray, higher_x: bool, higher_y: bool) -> np.ndarray:
    """The points that no other beats in both results, from left to right."""
    signs = np.array([-1.0 if higher_x else 1.0, -1.0 if higher_y else 1.0])
    best = points[front(signs * points)]
    return np.asarray(best[best[:, 0].argsort()])


def draw_weights(name: str, folders: Mapping[str, Path]) -> Figure:
    """The share of each objective in the sum of weights, a panel per method."""
    objectives, columns = STUDIES[name].objectives, 4
    rows = max(math.ceil(len(folders) / columns), 1)
    figure = Figure(figsize=(WIDTH, 1.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    smallest, positive = [], []
    for panel, (label, folder) in zip(panels, folders.items(), strict=False):
        history = [row for row in read_rows(folder / "balance.csv") if row.get(f"weight/{objectives[0]}", "") != ""]
        steps = [int(row["step"]) for row in history]
        weights = np.array([[float(row[f"weight/{name}"]) for name in objectives] for row in history])
        shares = weights / weights.sum(1, keepdims=True)
        smallest.append(shares.min())
        positive += shares[shares > 0].tolist()
        for index, (name, share) in enumerate(zip(objectives, shares.T, strict=True)):
            panel.plot(steps, share, **{**look(index), "marker": ""}, label=name, linewidth=1.3)
        panel.set_title(label, fontsize=9)
        panel.locator_params(axis="x", nbins=4)
        panel.grid()
    for panel in panels[len(folders) :]:
        panel.set_axis_off()
    if smallest and min(smallest) >= 0 and np.median(smallest) < 1e-3:  # lines at 0 and at 1 would tell nothing
        panels[0].set_yscale("log")
        low = math.floor(math.log10(np.quantile(positive, 0.01)))
        panels[0].set_ylim(10.0 ** (low - 0.3), 2.0)
        plain_ticks(panels[0].yaxis, [10.0**power for power in range(0, low - 1, -math.ceil(-low / 4))])
    figure.supylabel("share of the weights")
    figure.supxlabel("step")
    # at the left, where a browser whose letters are wider cuts no name
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
