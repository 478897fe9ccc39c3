"""Pictures of the tables of a run: losses and results, weights, gradients and conflicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from mozoo.thin_tables import NOTHING, Series, ThinTable
from mozoo.titles import Titles
from tasks.results import ResultKey, objectives_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 8  # with more objectives than colors, lines become rows of a heat map
_PAIRS = 28  # rows of a heat map: all pairs of eight objectives
Pictures = Iterator[tuple[str, str]]  # data URI, caption
Metrics = Mapping[str, ThinTable]  # by split


def result_keys(metrics: Metrics) -> list[ResultKey]:
    """Those columns of ``metrics.csv`` that are results."""
    return [ResultKey.parse(name) for table in list(metrics.values())[:1] for name in table.columns if "/" in name]


def epochs_of(metrics: Metrics) -> int:
    """How many epochs the tables have."""
    return max((len(table.series("epoch", "epoch")[0]) for table in metrics.values()), default=0)


def learning(metrics: Metrics, balance: Iterable[ThinTable], titles: Titles, best: int) -> Pictures:
    """Losses and results over epochs, and losses against each other: of many, those in conflict.

    ``best`` is the best epoch, or 0. Of a single epoch there is nothing.
    """
    from mozoo import figures, svg  # matplotlib takes a second to import

    if epochs_of(metrics) < 2:
        return
    keys = titles.sorted(result_keys(metrics))
    objectives = objectives_of(map(str, keys))
    val, train = metrics.get("val", NOTHING), metrics.get("train", NOTHING)
    mark = float(best) if best > 0 and len(val.series("epoch", "epoch")[0]) > 1 else None
    note = " Dotted: the best epoch." if mark else ""
    if len(objectives) > MANY:
        for metric in dict.fromkeys(key.metric for key in keys):
            same = [key for key in keys if key.metric == metric]
            yield from _results_together(metric, same, val, titles)
    else:
        for name in objectives:
            column = str(ResultKey(name, "loss"))
            lines = {f"{name} train": train.series(column, "epoch"), f"{name} val": val.series(column, "epoch")}
            lines = {label: line for label, line in lines.items() if line[0]}
            if lines:  # what is judged as a whole has no loss of its own
                figure = figures.curves(f"{name}: loss ↓", lines, "epoch", order=objectives, best=mark)
                caption = "Dashed: training, solid: validation." if len(lines) == 2 else "Training."
                yield svg.data_uri(figure), caption + note
        for key in keys:
            line = val.series(str(key), "epoch")
            if line[0] and not key.is_loss and not _constant({"": line}):
                title = titles.full(key) + titles.arrow(key)
                figure = figures.curves(title, {key.objective: line}, "epoch", order=objectives, best=mark)
                yield svg.data_uri(figure), "Validation split." + note
    pairs = list(combinations(objectives, 2))
    if len(pairs) > 3:  # those that conflict most
        cosines = {}
        for a, b in pairs:
            found = [value for table in balance for value in table.series(f"cosine/{a}/{b}", "step")[1]]
            cosines[a, b] = float(np.mean(found or [1.0]))
        pairs.sort(key=lambda pair: cosines[pair])
    for a, b in pairs[:3]:
        x, y = (val.series(str(ResultKey(name, "loss")), "epoch") for name in (a, b))
        if len(x[0]) > 1 and x[0] == y[0]:
            ring = float(best) if best > 0 else x[0][-1]
            figure = figures.trade_off(f"{a} against {b}", x, y, f"loss of {a}", f"loss of {b}", ring)
            caption = "Validation losses, epoch by epoch; lower left is better for both. Filled: no other epoch beats it in both."
            yield svg.data_uri(figure), f"{caption} Ring: the {'best' if best > 0 else 'last'} epoch."


def _results_together(metric: str, keys: Sequence[ResultKey], val: ThinTable, titles: Titles) -> Pictures:
    """One metric of many objectives; of different units, relative to the first epoch."""
    lines = {key.objective: val.series(str(key), "epoch") for key in keys}
    title, caption, label = titles.metric(metric) + titles.arrow(keys[0]), "Validation split, epoch by epoch.", metric
    if not titles.comparable(keys):
        lines = {name: (x, [value / y[0] for value in y]) for name, (x, y) in lines.items() if y and y[0]}
        caption += " Each row is relative to its first epoch, as the objectives have different units."
        label = "relative to the first"
    yield from _together(title, lines, "epoch", label, caption)


def balancing(balance: ThinTable, order: Sequence[str], notes: list[str]) -> Pictures:
    """Weights, gradients and conflicts over the steps of one phase.

    What does not change has no picture; ``notes`` gets a line that says what it is.
    """
    from mozoo import figures, svg

    def all_of(kind: str) -> dict[str, Series]:
        names = [name for name in balance.columns if name.startswith(kind + "/")]
        lines = {name.removeprefix(kind + "/"): balance.series(name, "step") for name in names}
        return {name: line for name, line in lines.items() if line[0]}

    steps = balance.columns.get("step", np.empty(0))
    if len(steps) == 1:  # a curve of it would be a dot
        notes.append(f"Only step {steps[0]:.0f} is in balance.csv; with trainer.log_every=1 every step is.")
        return
    losses, norms = all_of("loss"), all_of("norm")
    weights = all_of("weight") if len(losses) > 1 else {}  # one loss: nothing to balance
    if _constant(weights):
        values = {name: f"{y[0]:.4g}" for name, (_, y) in weights.items()}
        told = ", ".join(f"{name} {value}" for name, value in values.items())
        told = told if len({*values.values()}) > 1 else f"{values.popitem()[1]} for all"
        notes.append(f"The weights are the same in every step: {told}.")
    else:
        weighted = {name: _product(line, losses[name]) for name, line in weights.items()}
        yield from _together("weights", weights, "step", "weight", "Weight of each objective's gradient.", order)
        note = "Weight times loss: the size of each term in the sum."
        yield from _together("weighted losses", weighted, "step", "weight x loss", note, order)
    note = "Length of each objective's gradient, before weighting."
    yield from _together("gradient lengths", norms, "step", "length", note, order)
    yield from _agreement(all_of("cosine"), list(norms))
    x, y = balance.series("conflicts", "step")
    if _constant({"": (x, y)}):
        notes.append(f"The share of pairs of gradients in conflict is {y[0]:.0%} in every step.")
    elif x:
        lines = {"conflicts": _smooth(x, y)}
        figure = figures.curves("pairs in conflict", lines, "step", limits=(-0.02, 1.02))
        note = f"Share of pairs with a negative cosine, averaged over neighboring steps; {np.mean(y):.0%} over the whole run."
        yield svg.data_uri(figure), note
    x, y = balance.series("alignment", "step")
    if x and len(norms) > 2:  # of two, it is the cosine
        figure = figures.curves("alignment of gradients", {"alignment": _smooth(x, y)}, "step", limits=(-1.02, 1.02))
        note = f"Alignment score: 1, all gradients point the same way; -1, they cancel. Mean {_two(float(np.mean(y)))}."
        yield svg.data_uri(figure), note
    parts = all_of("conflicts")
    if parts and not any(max(y) > 0 for _, y in parts.values()):
        notes.append("No part of the shared parameters has gradients in conflict in any step.")
    elif parts:
        shown = {name: _smooth(*line) for name, line in list(parts.items())[:_PAIRS]}
        shares = {name: float(np.mean(line[1])) for name, line in parts.items()}
        most = max(shares, key=lambda name: shares[name])
        more = f" The first {_PAIRS} of {len(parts)} are shown; balance.csv has all." if len(parts) > _PAIRS else ""
        note = f"Share of pairs in conflict in each part of the shared parameters; most in {most}, {shares[most]:.0%}.{more}"
        yield svg.data_uri(_heat_map("conflicts by part", shown, "step", "share")), note


def sharing(rows: Mapping[str, Mapping[str, float]]) -> Pictures:
    """What each objective takes from which tower or expert, of a model that mixes them."""
    from mozoo import figures, svg

    if rows:
        note = "Each row: mean shares of towers or experts in what the objective reads, over a batch of the test split."
        yield svg.data_uri(figures.shares("shares of towers and experts", rows), crop=True), note


def _two(value: float) -> str:
    """Two decimals, and no sign of a zero."""
    return f"{round(float(value), 2) + 0.0:.2f}"


def _constant(lines: Mapping[str, Series]) -> bool:
    """Whether there are several values, and all of a line are the same."""
    return bool(lines) and all(len(y) > 1 and min(y) == max(y) for _, y in lines.values())


def _smooth(x: list[float], y: list[float]) -> Series:
    """About thirty means of neighboring values, or fewer, of five each."""
    window = max(len(y) // 30, min(len(y) // 4, 5), 1)
    return x[::window], [float(np.mean(y[i : i + window])) for i in range(0, len(y), window)]


def _agreement(cosines: Mapping[str, Series], names: Sequence[str]) -> Pictures:
    """Cosines of all pairs over time; of many pairs, their means, and those in conflict."""
    from mozoo import figures, svg

    if not cosines:
        return
    caption = "Blue: the objectives' gradients agree; red: they conflict."
    means = {name: float(np.mean(y)) for name, (_, y) in cosines.items()}
    if len(cosines) == 1:
        ((pair, line),) = cosines.items()
        title = "cosine of the gradients"
        figure = figures.curves(title, {pair: line}, "step", limits=(-1.02, 1.02))
        yield (
            svg.data_uri(figure),
            f"{' and '.join(pair.split('/'))}: below 0 the gradients conflict. Mean {_two(means[pair])}.",
        )
        return
    chosen = list(cosines)
    if len(chosen) > 3:
        table = np.eye(len(names))
        for pair, mean in means.items():
            i, j = (names.index(name) for name in pair.split("/"))
            table[i, j] = table[j, i] = mean
        picture = figures.matrix("agreement of gradients, mean", names, table, "cosine")
        yield svg.data_uri(picture), f"Mean over the run. {caption}"
    if len(chosen) > _PAIRS:
        chosen = sorted(chosen, key=lambda pair: means[pair])[:_PAIRS]
        caption += f" Of {len(means)} pairs, the {_PAIRS} that conflict most."
    lines = {pair.replace("/", " · "): cosines[pair] for pair in chosen}
    yield svg.data_uri(_heat_map("agreement of gradients", lines, "step", "cosine")), caption


def _together(
    title: str, lines: Mapping[str, Series], xlabel: str, label: str, caption: str, order: Sequence[str] = ()
) -> Pictures:
    """Lines of all objectives in one picture; a heat map if they are many."""
    from mozoo import figures, svg

    lines = {name: line for name, line in lines.items() if line[0]}
    if len(lines) > MANY:
        yield svg.data_uri(_heat_map(title, lines, xlabel, label)), caption
    elif lines:
        yield svg.data_uri(figures.curves(title, lines, xlabel, order)), caption


def _heat_map(title: str, lines: Mapping[str, Series], xlabel: str, label: str) -> Figure:
    """A row per line; those with gaps, such as of skipped steps, are left out."""
    from mozoo import figures

    x = max((x for x, _ in lines.values()), key=len)
    rows = {name: line[1] for name, line in lines.items() if len(line[0]) == len(x)}
    return figures.heat_map(title, x, rows, xlabel, label)


def _product(a: Series, b: Series) -> Series:
    """Product of two series where both have a value; a skipped step has losses, but no weights."""
    first, second = (dict(zip(*line, strict=True)) for line in (a, b))
    x = [step for step in first if step in second]
    return x, [first[step] * second[step] for step in x]
