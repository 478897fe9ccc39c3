"""Pictures of the tables of a run: losses and results, weights, gradients and conflicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tasks.results import ResultKey, objectives_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 8  # with more objectives than colors, lines become rows of a heat map
_PAIRS = 28  # rows of a heat map: all pairs of eight objectives
Rows = list[dict[str, str]]
Series = tuple[list[float], list[float]]
Pictures = Iterator[tuple[str, str]]  # data URI, caption


def series(rows: Rows, name: str, x: str, split: str | None = None) -> Series:
    """(x, y) of the rows that have a finite value in column ``name``."""
    rows = [row for row in rows if row.get(name) and (split is None or row["split"] == split)]
    rows = [row for row in rows if math.isfinite(float(row[name]))]
    return [float(row[x]) for row in rows], [float(row[name]) for row in rows]


def result_keys(metrics: Rows) -> list[ResultKey]:
    """Those columns of ``metrics.csv`` that are results."""
    return [ResultKey.parse(name) for name in (metrics[0] if metrics else ()) if "/" in name]


def learning(metrics: Rows, balance: Rows) -> Pictures:
    """Losses and results over epochs, and losses against each other: of many, those in conflict."""
    from mozoo import figures  # matplotlib takes a second to import

    keys = result_keys(metrics)
    objectives = objectives_of(map(str, keys))
    loss_of = {name: str(ResultKey(name, "loss")) for name in objectives}
    if len(objectives) > MANY:
        for metric in dict.fromkeys(key.metric for key in keys):
            lines = {name: series(metrics, str(ResultKey(name, metric)), "epoch", "val") for name in objectives}
            yield from _together(metric, lines, "epoch", metric, "Validation split, epoch by epoch.")
    else:
        for name, column in loss_of.items():
            lines = {f"{name} {split}": series(metrics, column, "epoch", split) for split in ("train", "val")}
            lines = {label: line for label, line in lines.items() if line[0]}
            if lines:  # what is judged as a whole has no loss of its own
                figure = figures.curves(f"loss of {name}", lines, "epoch", order=objectives)
                yield figures.data_uri(figure), "Dashed: training, solid: validation."
        for key in keys:
            line = series(metrics, str(key), "epoch", "val")
            if line[0] and not key.is_loss:
                figure = figures.curves(str(key), {key.objective: line}, "epoch", order=objectives)
                yield figures.data_uri(figure), "Validation split."
    pairs = list(combinations(objectives, 2))
    if len(pairs) > 3:  # those that conflict most, by a sample of the steps
        sample = balance[:: len(balance) // 50 + 1]
        cosines = {pair: series(sample, f"cosine/{pair[0]}/{pair[1]}", "step")[1] or [1.0] for pair in pairs}
        pairs.sort(key=lambda pair: float(np.mean(cosines[pair])))
    for a, b in pairs[:3]:
        x, y = (series(metrics, loss_of[name], "epoch", "val") for name in (a, b))
        if len(x[0]) > 1 and x[0] == y[0]:
            figure = figures.trade_off(f"{a} against {b}", x, y, f"loss of {a}", f"loss of {b}")
            note = "Validation losses, epoch by epoch; lower left is better for both. "
            yield figures.data_uri(figure), f"{note}Filled: no other epoch beats it in both. Ring: the last."


def balancing(balance: Rows, metrics: Rows) -> Pictures:
    """Weights, gradients and conflicts over the steps of one phase, whose rows ``balance`` are."""

    from mozoo import figures

    def all_of(kind: str) -> dict[str, Series]:
        names = [name for name in (balance[0] if balance else ()) if name.startswith(kind + "/")]
        lines = {name.removeprefix(kind + "/"): series(balance, name, "step") for name in names}
        return {name: line for name, line in lines.items() if line[0]}

    order = objectives_of(map(str, result_keys(metrics)))
    losses, norms = all_of("loss"), all_of("norm")
    weights = all_of("weight") if len(losses) > 1 else {}  # one loss: nothing to balance
    weighted = {name: _product(line, losses[name]) for name, line in weights.items()}
    yield from _together("weights", weights, "step", "weight", "Weight of each objective's gradient.", order)
    note = "Weight times loss: how much each term asks for."
    yield from _together("weighted losses", weighted, "step", "weight x loss", note, order)
    note = "Length of each objective's gradient, before weighting."
    yield from _together("gradient lengths", norms, "step", "length", note, order)
    yield from _agreement(all_of("cosine"), list(norms))
    x, y = series(balance, "conflicts", "step")
    if x:
        lines = {"conflicts": _smooth(x, y)}
        figure = figures.curves("share of pairs in conflict", lines, "step", limits=(-0.02, 1.02))
        note = f"Pairs with a negative cosine, averaged over neighbouring steps; {np.mean(y):.0%} over the whole run."
        yield figures.data_uri(figure), note
    x, y = series(balance, "alignment", "step")
    if x:
        figure = figures.curves("alignment of gradients", {"alignment": _smooth(x, y)}, "step", limits=(-1.02, 1.02))
        note = "1: all gradients point the same way; -1: they cancel. Of two objectives, the cosine."
        yield figures.data_uri(figure), note
    parts = all_of("conflicts")
    if parts:
        shown = {name: _smooth(*line) for name, line in list(parts.items())[:_PAIRS]}
        picture = _heat_map("share of pairs in conflict, by group", shown, "step", "share")
        more = f" The first {_PAIRS} of {len(parts)} groups; balance.csv has all." if len(parts) > _PAIRS else ""
        yield figures.data_uri(picture), f"The same, part by part of the parameters.{more}"


def sharing(rows: Mapping[str, Mapping[str, float]]) -> Pictures:
    """What each objective takes from which tower or expert, of a model that mixes them."""
    from mozoo import figures

    if rows:
        note = "Each row: mean shares of towers or experts in what the objective reads, over a batch of the test split."
        yield figures.data_uri(figures.shares("shares of towers and experts", rows), crop=True), note


def _smooth(x: list[float], y: list[float]) -> Series:
    """About thirty means of neighbouring values."""
    window = max(len(y) // 30, 1)
    return x[::window], [float(np.mean(y[i : i + window])) for i in range(0, len(y), window)]


def _agreement(cosines: Mapping[str, Series], names: Sequence[str]) -> Pictures:
    """Cosines of all pairs over time; of many pairs, their means, and those in conflict."""
    from mozoo import figures

    if not cosines:
        return
    caption = "Blue: the objectives' gradients agree; red: they conflict."
    means = {name: float(np.mean(y)) for name, (_, y) in cosines.items()}
    chosen = list(cosines)
    if len(chosen) > _PAIRS:
        table = np.eye(len(names))
        for pair, mean in means.items():
            i, j = (names.index(name) for name in pair.split("/"))
            table[i, j] = table[j, i] = mean
        picture = figures.matrix("agreement of gradients, mean over the run", names, table, "cosine")
        yield figures.data_uri(picture), caption
        chosen = sorted(chosen, key=lambda pair: means[pair])[:_PAIRS]
        caption += f" Of {len(means)} pairs, the {_PAIRS} that conflict most."
    lines = {pair.replace("/", " · "): cosines[pair] for pair in chosen}
    yield figures.data_uri(_heat_map("agreement of gradients", lines, "step", "cosine")), caption


def _together(
    title: str, lines: Mapping[str, Series], xlabel: str, label: str, caption: str, order: Sequence[str] = ()
) -> Pictures:
    """Lines of all objectives in one picture; a heat map if they are many."""
    from mozoo import figures

    lines = {name: line for name, line in lines.items() if line[0]}
    if len(lines) > MANY:
        yield figures.data_uri(_heat_map(title, lines, xlabel, label)), caption
    elif lines:
        yield figures.data_uri(figures.curves(title, lines, xlabel, order)), caption


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
