"""``report.html``: one file that shows a run, with nothing loaded from outside."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mozoo.checkpoint import write_text
from mozoo.page import cards, details, page, section, table
from mozoo.panels import MANY, Pictures, Rows, balancing, learning, result_keys, sharing
from mozoo.tracking import read_rows
from tasks import Task
from tasks.results import ResultKey, objectives_of, without_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Order of the results of an objective; others follow.
_RANKS = {name: rank for rank, name in enumerate(("accuracy", "macro_f1", "r2", "r2_usd", "mae_usd", "loss"))}


def write_report(
    folder: Path,
    task: Task,
    predictions: Mapping[str, tuple[Tensor, Tensor]],
    pictures: Mapping[str, Figure] | None = None,
    shares: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write ``report.html`` from a run's tables, predictions, pictures and shares of experts."""
    from mozoo import figures  # matplotlib takes a second to import

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    metrics, balance = read_rows(folder / "metrics.csv"), read_rows(folder / "balance.csv")
    phases = list(dict.fromkeys(row["phase"] for row in balance))
    samples = [(figures.data_uri(figure, crop=True), caption) for caption, figure in (pictures or {}).items()]
    parts = [_header(summary, metrics), section("Learning", learning(metrics, balance))]
    for phase in phases:
        title = "Balancing" if len(phases) == 1 else f"Balancing: {phase}"
        parts.append(section(title, balancing([row for row in balance if row["phase"] == phase], metrics)))
    parts += [
        section("Predictions on the test split", _predictions(task, predictions, summary["metrics"])),
        section("Sharing", sharing(shares or {})),
        section("Samples", samples, layout="stack"),
        _repeat(folder, summary),
    ]
    write_text(folder / "report.html", page(f"{summary['model']} on {summary['task']}, {summary['balancer']}", parts))
    return folder / "report.html"


def _header(summary: Mapping[str, Any], rows: Rows) -> str:
    """Title, facts and results: of the test split or, of a stopped run, the last on validation."""
    tested = without_split(summary["metrics"])
    note = f"Test split, looked at {summary['tested']}."
    if not tested:
        last = [row for row in rows if row["split"] == "val"][-1:]
        tested = {str(key): float(row[str(key)]) for row in last for key in result_keys(rows) if row[str(key)]}
        note = f"Validation split, epoch {summary['epochs']}: the run stopped before its test."
    facts = (
        f"seed {summary['seed']} · {summary['epochs']} epochs, best {summary['best_epoch']} · {summary['steps']:,} steps · "
        f"{summary['seconds']:.1f} s of training · {summary['samples_per_second']:,.0f} samples/s · {summary['device']} · {summary['precision']}"
    )
    return (
        f"<h1>{html.escape(summary['model'])} on {html.escape(summary['task'])}, balanced by {html.escape(summary['balancer'])}</h1>"
        f'<p><b class="{summary["status"]}">{summary["status"]}</b> · {html.escape(facts)}</p>'
        + (f"{_results(tested)}<p>{note}</p>" if tested else "")
    )


def _results(values: Mapping[str, float | None]) -> str:
    """A card per result; of many objectives, a card for each mean, and a table."""
    results = {ResultKey.parse(name): value for name, value in values.items()}
    keys = sorted(results, key=lambda key: (key.objective, _RANKS.get(key.metric, len(_RANKS))))
    objectives = objectives_of(map(str, keys))
    if len(objectives) <= MANY:
        return cards({str(key): _number(results[key]) for key in keys})
    metrics = sorted({key.metric for key in keys}, key=lambda metric: (_RANKS.get(metric, len(_RANKS)), metric))
    means = {}
    for metric in metrics:
        known = [value for key in keys if key.metric == metric and (value := results[key]) is not None]
        means[f"{metric}, mean of {len(known)}"] = _number(float(np.mean(known)) if known else None)
    rows = [
        [o, *(_number(results[key]) if (key := ResultKey(o, metric)) in results else "" for metric in metrics)]
        for o in objectives
    ]
    return cards(means) + details("Every objective", table(rows, ["objective", *metrics]))


def _number(value: float | None) -> str:
    return f"{value:.4g}" if value is not None and math.isfinite(value) else "not finite"


def _predictions(
    task: Task, predictions: Mapping[str, tuple[Tensor, Tensor]], tested: Mapping[str, float | None]
) -> Pictures:
    from mozoo import figures

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
            yield figures.data_uri(figure), "Each row: where the samples of one true class went, in percent." + rest
        elif "tags" in criterion.fits:
            figure = figures.tags(objective.name, predicted.numpy() >= 0.5, actual.numpy() > 0, criterion.classes)
            yield figures.data_uri(figure), "How many samples have each tag, and how many are predicted to." + rest
        else:
            if objective.unit:
                predicted, actual = objective.inverse_transform(predicted), objective.inverse_transform(actual)
            unit = objective.unit or criterion.unit
            figure = figures.scatter(objective.name, predicted.numpy(), actual.numpy(), unit)
            yield figures.data_uri(figure), "Darker: more samples; the line is a perfect prediction." + rest


def _repeat(folder: Path, summary: Mapping[str, Any]) -> str:
    facts = {"commit": summary["git"] or "unknown", **{key: summary[key] for key in ("device", "precision")}}
    facts |= {"processes": summary["world_size"], **summary["versions"]}
    config = html.escape((folder / "config.yaml").read_text(encoding="utf-8"))
    return (
        f"<h2>Repeat this run</h2><pre>{html.escape(summary['command'])}</pre>"
        + details("Configuration", f"<pre>{config}</pre>")
        + "<h2>Environment</h2>"
        + table([[name, str(value)] for name, value in facts.items()])
    )
