"""``report.html``: one file that shows a run, with nothing loaded from outside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mozoo.checkpoint import write_text
from mozoo.page import cards, details, escape, number, page, reloading, section, table
from mozoo.panels import MANY, Metrics, Pictures, balancing, epochs_of, learning, result_keys, sharing
from mozoo.thin_tables import ThinTable, read_thin
from mozoo.titles import Titles
from tasks import Task
from tasks.results import ResultKey, objectives_of, without_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BROAD = 7.0  # inches of a picture that a phone should not shrink


def write_report(
    folder: Path,
    task: Task,
    predictions: Mapping[str, tuple[Tensor, Tensor]],
    pictures: Mapping[str, Figure] | None = None,
    shares: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write ``report.html`` from a run's tables, predictions, pictures and shares of experts."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return write_page(folder, task, summary, predictions, pictures, shares)


def write_page(
    folder: Path,
    task: Task,
    summary: Mapping[str, Any],
    predictions: Mapping[str, tuple[Tensor, Tensor]],
    pictures: Mapping[str, Figure] | None = None,
    shares: Mapping[str, Mapping[str, float]] | None = None,
    reload: float | None = None,
) -> Path:
    """The same with this ``summary``; an open page loads itself again after ``reload`` seconds."""
    from mozoo import svg  # matplotlib takes a second to import

    titles = Titles(task)
    metrics, balance = read_thin(folder / "metrics.csv", "split"), read_thin(folder / "balance.csv", "phase")
    samples = [(svg.data_uri(figure, crop=True), caption) for caption, figure in (pictures or {}).items()]
    broad = {caption for caption, figure in (pictures or {}).items() if figure.get_figwidth() > _BROAD}
    order = objectives_of(map(str, titles.sorted(result_keys(metrics))))
    learned = learning(metrics, balance.values(), titles, summary["best_epoch"])
    parts = [_header(summary, metrics, titles), section("Learning", learned, note=_thinned(metrics))]
    parts.append(_only_epoch(metrics, titles))
    for phase, rows in balance.items():
        title = "Balancing" if len(balance) == 1 else f"Balancing: {phase}"
        notes = [_thinned({phase: rows})]
        drawn = list(balancing(rows, order, notes))
        parts.append(section(title, drawn, note=" ".join(filter(None, notes))))
    parts += [
        section("Predictions on the test split", _predictions(task, predictions, summary["metrics"])),
        section("Sharing", sharing(shares or {})),
        section("Samples", samples, layout="stack", broad=broad),
        _repeat(folder, summary),
    ]
    title = f"{summary['model']} on {summary['task']}, {summary['balancer']}"
    script = "" if reload is None else reloading(reload)
    write_text(folder / "report.html", page(title, parts, script))
    return folder / "report.html"


def _thinned(tables: Mapping[str, ThinTable]) -> str:
    """What became of a table with more rows than a picture can show."""
    merged = max((each.merged for each in tables.values()), default=1)
    return f"Of a long table: each point is the mean of {merged:,} rows." if merged > 1 else ""


def _only_epoch(metrics: Metrics, titles: Titles) -> str:
    """Results of the first epoch as a table while there is no other, as a curve would be a dot."""
    if epochs_of(metrics) != 1:
        return ""
    splits = {split: metrics[split].last for split in ("train", "val") if split in metrics}
    rows = []
    for key in titles.sorted(result_keys(metrics)):
        found = [values.get(str(key), math.nan) for values in splits.values()]
        cells = ["" if math.isnan(value) else f"{number(value)} {titles.unit(key)}".strip() for value in found]
        rows.append([_name(key, titles), *cells])
    names = {"train": "training", "val": "validation"}
    shown = table(rows, ["after the first epoch", *(names[split] for split in splits)])
    return f"<h2>Learning</h2><p>One epoch, so there are no curves.</p>{shown}"


def _header(summary: Mapping[str, Any], metrics: Metrics, titles: Titles) -> str:
    """Title, facts and results: of the test split or, of a stopped run, the last on validation."""
    tested = without_split(summary["metrics"])
    note = f"Test split, evaluated {summary.get('tested')}."
    if not tested:
        last = metrics["val"].last if "val" in metrics else {}
        tested = {str(key): last[str(key)] for key in result_keys(metrics) if str(key) in last}
        tested = {key: value for key, value in tested.items() if not math.isnan(value)}
        rest = "the run stopped before its test" if summary["status"] == "stopped" else "the test comes at the end"
        note = f"Validation split, epoch {summary['epochs']}: {rest}."
    facts = [
        f"seed {summary['seed']}",
        f"{summary['epochs']} epoch{'' if summary['epochs'] == 1 else 's'}"
        + (f", best {summary['best_epoch']}" if summary["epochs"] else ""),
        f"{summary['steps']:,} steps",
    ]
    if summary["seconds"]:  # which are known after the first epoch
        facts += [f"{number(summary['seconds'])} s of training", f"{number(summary['samples_per_second'])} samples/s"]
    facts += [summary["device"], summary["precision"]]
    facts += [summary["written"]] if "written" in summary else []
    return (
        f"<h1>{escape(summary['model'])} on {escape(summary['task'])}, balanced by {escape(summary['balancer'])}</h1>"
        f'<p><b class="{escape(summary["status"])}">{escape(summary["status"])}</b> · {escape(" · ".join(facts))}</p>'
        + (f"{_results(tested, titles)}<p>{escape(note)}</p>" if tested else "")
    )


def _results(values: Mapping[str, float | None], titles: Titles) -> str:
    """A card per result; of many objectives, a table, and a card per mean with a meaning."""
    results = {ResultKey.parse(name): value for name, value in values.items()}
    keys = titles.sorted(list(results))
    objectives = objectives_of(map(str, keys))
    if len(objectives) <= MANY:
        return cards((_name(key, titles), number(results[key]), titles.unit(key)) for key in keys)
    means = []
    for metric in dict.fromkeys(key.metric for key in keys):
        same = [key for key in keys if key.metric == metric]
        known = [value for key in same if (value := results[key]) is not None]
        if titles.comparable(same) and known:
            name = f"{titles.metric(metric)}, mean of {len(known)}{titles.arrow(same[0])}"
            means.append((name, number(float(np.mean(known))), titles.unit(same[0])))
    every = _every(results, keys, titles)
    return cards(means) + (details("Every objective", every) if means else every)


def _every(results: Mapping[ResultKey, float | None], keys: list[ResultKey], titles: Titles) -> str:
    """A row per objective."""
    metrics = {key.metric: titles.metric(key.metric) + titles.arrow(key) for key in keys}
    rows = []
    for objective in objectives_of(map(str, keys)):
        own = [ResultKey(objective, metric) for metric in metrics]
        cells = [f"{number(results[key])} {titles.unit(key)}".strip() if key in results else "" for key in own]
        rows.append([objective, *cells])
    return table(rows, ["objective", *metrics.values()])


def _name(key: ResultKey, titles: Titles) -> str:
    return f"{key.objective}: {titles.metric(key.metric)}{titles.arrow(key)}"


def _predictions(
    task: Task, predictions: Mapping[str, tuple[Tensor, Tensor]], tested: Mapping[str, float | None]
) -> Pictures:
    from mozoo import figures, svg  # matplotlib takes a second to import

    rest = ""
    shown = [o for o in task.objectives if o.name in predictions and hasattr(o.criterion, "fits")]
    if len(shown) > MANY:
        rest = f" The {MANY} objectives of {len(shown)} with the largest loss are shown."
        shown = sorted(shown, key=lambda o: -(tested.get(str(ResultKey(o.name, "loss", "test"))) or math.inf))[:MANY]
    for objective in shown:
        criterion: Any = objective.criterion
        predicted, actual = predictions[objective.name]
        if {"classes", "ordered"} & {*criterion.fits}:
            # probabilities are those of the second of two classes
            labels = predicted >= 0.5 if predicted.is_floating_point() else predicted
            figure = figures.confusion(objective.name, labels.long().numpy(), actual.numpy(), criterion.classes)
            note = "Each row: where the samples of one true class went, in percent; red: wrong."
            yield svg.data_uri(figure), note + rest
        elif "tags" in criterion.fits:
            figure = figures.tags(objective.name, predicted.numpy() >= 0.5, actual.numpy() > 0, criterion.classes)
            yield svg.data_uri(figure), "How many samples have each tag, and how many are predicted to." + rest
        else:
            if objective.unit:
                predicted, actual = objective.inverse_transform(predicted), objective.inverse_transform(actual)
            unit = objective.unit or criterion.unit
            figure = figures.scatter(objective.name, predicted.numpy(), actual.numpy(), unit)
            yield svg.data_uri(figure), "Stronger: more samples; the line is a perfect prediction." + rest


def _repeat(folder: Path, summary: Mapping[str, Any]) -> str:
    facts = {"commit": summary["git"] or "unknown", **{key: summary[key] for key in ("device", "precision")}}
    facts |= {"processes": summary["world_size"], **summary["versions"]}
    config = escape((folder / "config.yaml").read_text(encoding="utf-8"), lines=True)
    return (
        f"<h2>Repeat this run</h2><pre>{escape(summary['command'], lines=True)}</pre>"
        + details("Configuration", f"<pre>{config}</pre>")
        + "<h2>Environment</h2>"
        + table([[name, str(value)] for name, value in facts.items()])
    )
