"""``report.html``: one file that shows a run, with nothing loaded from outside."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.checkpoint import write_text
from engine.tracking import read_rows
from tasks import CrossEntropy, SquaredError, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

_CSS = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #0f172a; background: #f8fafc; margin: 0 auto; max-width: 1180px; padding: 24px 16px }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .75rem } p { margin: .25rem 0; color: #475569 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 16px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 16px }
.card, figure, pre, table { background: white; border: 1px solid #e2e8f0; border-radius: 10px }
.card { padding: 12px 16px } .card b { display: block; font-size: 1.35rem } .card span { color: #64748b; font-size: .85rem }
figure { margin: 0; padding: 12px } figure img { width: 100%; display: block } figcaption { color: #64748b; font-size: .85rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem } td, th { padding: 6px 12px; text-align: left; border-top: 1px solid #e2e8f0 }
tr:first-child > * { border-top: 0 } pre { padding: 12px 16px; overflow-x: auto; font-size: .82rem } .wide { overflow-x: auto }
details summary { cursor: pointer; color: #475569; margin-top: 8px } .stopped { color: #b45309 } .finished { color: #047857 }
"""
_CARDS = ("accuracy", "macro_f1", "r2", "r2_usd", "mae_usd", "loss")


def write_report(
    folder: Path,
    task: Task,
    predictions: Mapping[str, tuple[Tensor, Tensor]],
    pictures: Mapping[str, Figure] | None = None,
) -> Path:
    """Write ``report.html`` from the tables of a run folder and, if it was tested, predictions and pictures of the test split."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    sections = [
        _header(summary),
        _section("Learning", _learning(read_rows(folder / "metrics.csv"))),
        _section("Balancing", _balancing(read_rows(folder / "balance.csv"))),
        _section("Predictions on the test split", _predictions(task, predictions)),
        _section("Samples", _samples(pictures or {}), layout="stack"),
        _repeat(folder, summary),
    ]
    title = f"{summary['model']} on {summary['task']}, {summary['balancer']}"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _header(summary: Mapping[str, Any]) -> str:
    cards = "".join(
        f'<div class="card"><span>{html.escape(name.removeprefix("test/"))}</span><b>{"not finite" if value is None else f"{value:.4g}"}</b></div>'
        for name, value in sorted(summary["metrics"].items(), key=_card_order)
    )
    facts = (
        f"seed {summary['seed']} · {summary['epochs']} epochs, best {summary['best_epoch']} · {summary['steps']:,} steps · "
        f"{summary['seconds']:.1f} s of training · {summary['samples_per_second']:,.0f} samples/s · {summary['device']} · {summary['precision']}"
    )
    return (
        f"<h1>{html.escape(summary['model'])} on {html.escape(summary['task'])}, balanced by {html.escape(summary['balancer'])}</h1>"
        f'<p><b class="{summary["status"]}">{summary["status"]}</b> · {html.escape(facts)}</p>'
        + (
            f'<div class="cards">{cards}</div><p>Test split, looked at once, with the weights of the best epoch on the validation split.</p>'
            if cards
            else ""
        )
    )


def _card_order(item: tuple[str, float]) -> tuple[str, int]:
    _, objective, key = item[0].split("/")
    return objective, _CARDS.index(key) if key in _CARDS else len(_CARDS)


def _section(title: str, pictures: Iterator[tuple[str, str]], layout: str = "grid") -> str:
    shown = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for source, caption in pictures
    )
    return f'<h2>{title}</h2><div class="{layout}">{shown}</div>' if shown else ""


def _samples(pictures: Mapping[str, Figure]) -> Iterator[tuple[str, str]]:
    from engine import figures

    for caption, figure in pictures.items():
        yield figures.data_uri(figure), caption


def _learning(rows: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    from engine import figures  # matplotlib takes a second to import

    columns = [name for name in (rows[0] if rows else ()) if "/" in name]
    objectives = list(dict.fromkeys(name.split("/")[0] for name in columns))
    for objective in objectives:
        series = {
            f"{objective} {split}": _series(rows, f"{objective}/loss", "epoch", split) for split in ("train", "val")
        }
        if not any(x for x, _ in series.values()):
            continue  # what is judged as a whole has no loss of its own
        yield (
            figures.data_uri(figures.curves(f"loss of {objective}", series, "epoch", order=objectives)),
            "Dashed: training, solid: validation.",
        )
    for name in columns:
        if not name.endswith("/loss"):
            figure = figures.curves(name, {name: _series(rows, name, "epoch", "val")}, "epoch", order=objectives)
            yield figures.data_uri(figure), "Validation split."
    for a, b in list(combinations(objectives, 2))[:3]:
        x, y = (_series(rows, f"{name}/loss", "epoch", "val") for name in (a, b))
        if x[0] and x[0] == y[0]:
            figure = figures.trade_off(f"{a} against {b}", x, y, f"loss of {a}", f"loss of {b}")
            yield (
                figures.data_uri(figure),
                "Validation losses, epoch by epoch; further to the lower left is better for both.",
            )


def _balancing(rows: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    from engine import figures

    def all_of(kind: str) -> dict[str, tuple[list[float], list[float]]]:
        names = [name for name in (rows[0] if rows else ()) if name.startswith(kind + "/")]
        found = {name.removeprefix(kind + "/"): _series(rows, name, "step") for name in names}
        return {name: series for name, series in found.items() if series[0]}

    weights, losses, norms = all_of("weight"), all_of("loss"), all_of("norm")
    if weights:
        yield figures.data_uri(figures.curves("weights", weights, "step")), "Weight of each objective's gradient."
        shares = {name: _product(series, losses[name]) for name, series in weights.items()}
        yield (
            figures.data_uri(figures.curves("weighted losses", shares, "step")),
            "Weight times loss: how much each term asks for.",
        )
    if norms:
        yield (
            figures.data_uri(figures.curves("gradient lengths", norms, "step")),
            "Length of each objective's gradient, before weighting.",
        )
    cosines = all_of("cosine")
    if cosines:
        steps = next(iter(cosines.values()))[0]
        pairs = {name.replace("/", " · "): y for name, (_, y) in cosines.items() if len(y) == len(steps)}
        yield (
            figures.data_uri(figures.cosine_map("agreement of gradients", steps, pairs)),
            "Blue: the objectives' gradients agree; red: they conflict.",
        )
    conflicts = _series(rows, "conflicts", "step")
    if conflicts[0]:
        window = max(len(conflicts[1]) // 50, 1)
        chunks = [conflicts[1][i : i + window] for i in range(0, len(conflicts[1]), window)]
        smooth = (conflicts[0][::window], [sum(chunk) / len(chunk) for chunk in chunks])
        yield (
            figures.data_uri(figures.curves("share of pairs in conflict", {"conflicts": smooth}, "step")),
            "Pairs with a negative cosine, averaged over neighbouring steps.",
        )


def _predictions(task: Task, predictions: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[tuple[str, str]]:
    from engine import figures

    for objective in task.objectives:
        if objective.name not in predictions:
            continue
        predicted, actual = (tensor.numpy() for tensor in predictions[objective.name])
        if isinstance(objective.criterion, CrossEntropy):
            figure = figures.confusion(objective.name, predicted, actual, objective.criterion.classes)
            yield figures.data_uri(figure), "Each row: where the samples of one true class went."
        elif isinstance(objective.criterion, SquaredError):
            figure = figures.scatter(objective.name, predicted, actual, objective.criterion.unit)
            yield figures.data_uri(figure), "Darker: more samples; the line is a perfect prediction."


def _repeat(folder: Path, summary: Mapping[str, Any]) -> str:
    versions = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in summary["versions"].items()
    )
    config = html.escape((folder / "config.yaml").read_text(encoding="utf-8"))
    return (
        f"<h2>Repeat this run</h2><pre>{html.escape(summary['command'])}</pre>"
        f"<p>Commit {html.escape(str(summary['git'] or 'unknown'))}. Precision {summary['precision']}, {summary['world_size']} process.</p>"
        f'<details><summary>Versions</summary><div class="wide"><table>{versions}</table></div></details>'
        f"<details><summary>Configuration</summary><pre>{config}</pre></details>"
    )


def _product(a: tuple[list[float], list[float]], b: tuple[list[float], list[float]]) -> tuple[list[float], list[float]]:
    """Product of two series, where both have a value; a step that was skipped has losses, but no weights."""
    other = dict(zip(*b, strict=True))
    found = [(x, y * other[x]) for x, y in zip(*a, strict=True) if x in other]
    return [x for x, _ in found], [y for _, y in found]


def _series(rows: list[dict[str, str]], name: str, x: str, split: str | None = None) -> tuple[list[float], list[float]]:
    """(x, y) of the rows that have a finite value in column ``name``."""
    found = [
        (float(row[x]), float(row[name])) for row in rows if row.get(name) and (split is None or row["split"] == split)
    ]
    found = [(a, b) for a, b in found if math.isfinite(b)]
    return [a for a, _ in found], [b for _, b in found]
