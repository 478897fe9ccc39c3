"""Figures of finished runs: results over time, and outputs of the best weights.

Each takes the runs of a table: the folders of each row, a seed each. Most show the first row and the first seed. Data are read from
the folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.utils import make_grid

import train
from lab.figure_style import COLORS, INK, LINES, SOFT, WIDTH, label_lines, limits, look
from mozoo import figures, tools
from mozoo.evaluation import expert_shares
from mozoo.prediction import best_folder, load_best
from mozoo.run_evaluation import evaluation_config
from mozoo.tracking import read_rows
from tasks import Batch, CrossEntropy, Objective, TensorData
from tasks.gan_task import GanTask

COLUMNS, ROWS = 8, 2  # of garments, the first of the test split
GENERATED = 6  # samples of each class
GARMENT, GAP = 0.97, 0.17  # width of a garment in inches; between garments, as a share of that
SHARED = 2000  # samples that gates are averaged over
LINE = 13  # points from one line of text to the next
WRONG = "#dc2626"
ON_LIGHT = "#1e293b"  # text on a cell, which is light on a dark page too
Runs = Mapping[str, Sequence[Path]]
View = Callable[[Batch, Mapping[str, Tensor]], Tensor]


def over_time(panels: Mapping[str, str], runs: Runs) -> Figure:
    """Validation results over epochs: means over seeds, in a band from lowest to highest.

    Args:
        panels: Column of ``metrics.csv`` -> title.
        runs: Label -> run folders.
    """
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        ends, colors, late = {}, {}, []
        for index, (label, folders) in enumerate(runs.items()):
            name, each = label.strip("`"), look(index - 1) if index else {"color": INK, "linestyle": "-"}
            tables = [[row for row in read_rows(run / "metrics.csv") if row["split"] == "val"] for run in folders]
            epochs = [int(row["epoch"]) for row in tables[0]]
            values = np.array([[float(row[column]) for row in rows] for rows in tables])
            mean, width = values.mean(0), 1.5 if index else 2.5
            axes.fill_between(epochs, values.min(0), values.max(0), color=each["color"], alpha=0.15, linewidth=0)
            axes.plot(epochs, mean, color=each["color"], linestyle=each["linestyle"], linewidth=width)
            ends[name], colors[name] = (epochs[-1], float(mean[-1])), each["color"]
            late.append(mean[len(mean) // 6 :])
        axes.set_ylim(*limits(np.concatenate(late), reach=3.0))
        axes.set_xlim(1, max(x for x, _ in ends.values()))
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid()
        label_lines(axes, ends, colors, 3.2)
    return figure


def confusion(objective: str, runs: Runs) -> Figure:
    """What the samples of each class are taken for."""
    o, predicted, actual = _predicted(objective, runs)
    assert isinstance(o.criterion, CrossEntropy)
    return _with_text_on_cells(figures.confusion(objective, predicted.numpy(), actual.numpy(), o.criterion.classes))


def scatter(objective: str, unit: str, runs: Runs) -> Figure:
    """Predicted against true values, in the unit that people use."""
    o, predicted, actual = _predicted(objective, runs)
    x, y = (o.inverse_transform(each).numpy() for each in (predicted, actual))
    figure = figures.scatter(objective, x, y, unit)
    figure.axes[0].locator_params(axis="x", nbins=5)
    return figure


@torch.no_grad()
def reported(runs: Runs, first: int | None = None) -> Figure:
    """The samples of ``report.html``; ``first``: of these samples of the test split alone."""
    job = _load(runs)
    split: Any = job.splits.test
    (figure,) = job.task.pictures(job.trained, split if first is None else Subset(split, range(first))).values()
    return figure


def reported_of(label: str, first: int, runs: Runs) -> Figure:
    """As :func:`reported`, of the run of one row."""
    return reported({label: runs[label]}, first)


def _with_text_on_cells(figure: Figure) -> Figure:
    """The figure with texts on colored cells that keep their color on a dark page."""
    for axes in figure.axes:
        for text in axes.texts:
            if text.get_color() == INK:
                text.set_color(ON_LIGHT)
    return figure


@torch.no_grad()
def answers(view: View, runs: Runs) -> Figure:
    """Garments with true and predicted classes; errors are red."""
    job = _load(runs)
    split = job.splits.test
    assert isinstance(split, TensorData)
    batch = split.batch(torch.arange(min(COLUMNS * ROWS, len(split))))
    outputs = job.task.outputs(job.trained, batch)
    cells = job.task.decode(outputs).cells
    lines: list[tuple[str, Sequence[Any], Sequence[str]]] = []  # label, words, right ones
    for o in job.task.objectives:
        if isinstance(o.criterion, CrossEntropy):
            truth = [o.criterion.classes[label] for label in batch.targets[o.name].tolist()]
            if not lines or lines[-1][2] != truth:
                lines.append(("true", truth, truth))
            lines.append((o.name.replace("_", " "), cells[o.name], truth))
    pictures = view(batch, outputs)
    rows = -(-len(pictures) // COLUMNS)
    tall, text = GARMENT * pictures.shape[1] / pictures.shape[2], LINE * (len(lines) + 1) / 72  # inches
    figure = Figure(figsize=(GARMENT * (COLUMNS + GAP * (COLUMNS - 1)), rows * (tall + text)))
    figure.subplots_adjust(0, text / figure.get_figheight(), 1, 1, wspace=GAP, hspace=text / tall)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, (axes, picture) in enumerate(zip(grid.ravel(), pictures, strict=False)):
        axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for place, (label, words, right) in enumerate(lines):
            look: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "fontsize": 8}
            look["fontweight"] = "bold" if label == "true" else "normal"
            below = -5 - LINE * place
            if number % COLUMNS == 0:
                axes.annotate(label, (0, 0), (-8, below), ha="right", **look)
            color = "black" if words[number] == right[number] else WRONG
            axes.annotate(words[number], (0.5, 0), (0, below), ha="center", color=color, **look)
    return figure


def whole(batch: Batch, outputs: Mapping[str, Tensor]) -> Tensor:
    """The picture that the model sees."""
    return batch.inputs[0][:, 0]


def halves(batch: Batch, outputs: Mapping[str, Tensor]) -> Tensor:
    """The two views, with a gap between them."""
    left, right = batch.inputs
    picture = right[:, 0]
    return torch.cat([left.view(len(left), picture.shape[1], -1), torch.ones_like(picture[..., :2]), picture], dim=2)


def garment_over_copy(batch: Batch, outputs: Mapping[str, Tensor]) -> Tensor:
    """The garment, and below it the image that the model made of its measurements."""
    return torch.cat([batch.targets["image"], outputs["image"].clamp(0, 1)], dim=2)[:, 0]


@torch.no_grad()
def samples(runs: Runs) -> Figure:
    """Real garments beside generated ones, a column for each class."""
    job = _load(runs)
    split = job.splits.test
    assert isinstance(job.task, GanTask)
    assert isinstance(split, TensorData)
    classes = job.task.class_loss.classes
    labels = split.targets["real_class"]
    rows = torch.stack([(labels == label).nonzero()[:GENERATED, 0] for label in range(len(classes))], dim=1).flatten()
    made, _ = job.task.sample(job.trained, len(rows))
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = {"real": split.inputs[0][rows], "generated": made}
    for axes, (title, images) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        sheet = make_grid((images + 1) / 2, nrow=len(classes), padding=2, pad_value=1)[0]
        axes.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        side = images.shape[-1] + 2
        axes.set_xticks([side * (column + 0.5) for column in range(len(classes))], classes, rotation=45, ha="right")
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left")
    return figure


def calibration(objective: str, runs: Runs) -> Figure:
    """True against predicted rates: means of ten equal parts of the test split.

    The parts are in the order of the prediction.
    """
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.axline((0, 0), slope=1, color=SOFT, linestyle="--", linewidth=1, label="no error")
    for index, (label, folders) in enumerate(runs.items()):
        _, predicted, actual = _predicted(objective, {label: folders})
        order = predicted.flatten().argsort()
        x, y = (torch.stack([part.mean() for part in each.flatten()[order].chunk(10)]) for each in (predicted, actual))
        each = {**look(index), "linestyle": LINES[index % len(LINES)], "markersize": 4}
        axes.plot(x.numpy(), y.numpy(), **each, label=label.replace("`", ""))
    axes.set_xlabel("predicted conversion rate")
    axes.set_ylabel("true conversion rate")
    axes.grid()
    figure.legend(loc="outside lower left")
    return figure


@torch.no_grad()
def sharing(runs: Runs) -> Figure:
    """Shares of towers and experts per objective in ``cross_stitch``, ``mmoe`` and ``ple``.

    Mean and deviation over the units of a layer (``cross_stitch``) or over the samples of the test split.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    titles = {
        "cross_stitch": ("cross_stitch: own tower", "layer"),
        "mmoe": ("mmoe: each expert", "expert"),
        "ple": ("ple: own experts", "level"),
    }
    for axes, (name, (title, xlabel)) in zip(panels, titles.items(), strict=True):
        shares, start = _shares(_load({name: runs[f"`{name}`"]}))
        for number, (objective, values) in enumerate(shares.items()):
            places = np.arange(1, 1 + values.shape[1])
            middle = places + 0.38 * (number - (len(shares) - 1) / 2)
            mean, spread = values.mean(0).numpy(), values.std(0).numpy()
            axes.bar(middle, mean, 0.36, yerr=spread, color=COLORS[number], ecolor=SOFT, label=objective)
        axes.axhline(start, color=INK, linestyle="--", linewidth=1, label="before training")
        axes.set_title(title)
        axes.set(xticks=places, xlabel=xlabel)
        axes.grid(axis="y")
    panels[0].set(ylabel="share", ylim=(0, 1.05))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@torch.no_grad()
def image_sharing(runs: Runs) -> Figure:
    """Shares of trunks and experts in models for images and maps, means over test samples."""
    names = ("cross_stitch_timm", "mmoe_timm", "ple_timm")
    tables = []
    for name in names:
        job = _load({name: runs[f"`{name}`"]})
        tables.append(expert_shares(job.trained, job.task, job.splits.test, SHARED, torch.device("cpu")))
    return draw_sharing(dict(zip(names, tables, strict=True)))


def draw_sharing(tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """A panel per model, with a row per reader and a column per expert."""
    figure = Figure(figsize=(WIDTH, 1.0 + max(2.4, 0.22 * max(map(len, tables.values())))), layout="constrained")
    panels = figure.subplots(1, len(tables), width_ratios=[2 + _columns(rows) for rows in tables.values()])
    for axes, (name, rows) in zip(panels, tables.items(), strict=True):
        figures.draw_shares(axes, rows)
        axes.set_title(name)
    return _with_text_on_cells(figure)


def _columns(rows: Mapping[str, Mapping[str, float]]) -> int:
    return len({name for row in rows.values() for name in row})


def _shares(job: tools.Run) -> tuple[dict[str, Tensor], float]:
    """Objective -> shares (units or samples, places), and what they are about at the start."""
    model, name = job.trained, job.config.model["name"]
    x = job.splits.test.inputs[0]  # type: ignore[union-attr]
    if name == "cross_stitch":
        # of each layer (readers, towers, width)
        mixes = [torch.stack([mix[o].abs() for o in model.objectives]) for mix in model.mixes]
        own = torch.stack([(mix / mix.sum(1, keepdim=True)).diagonal().T for mix in mixes], dim=2)
        return dict(zip(model.objectives, own, strict=True)), job.config.model["own"]
    if name == "mmoe":
        return {o: _chosen(model, model.gate[o], x) for o in model.objectives}, 1 / len(model.experts)
    own_experts, shared = (job.config.model[key] for key in ("own_experts", "shared_experts"))
    shares = {}
    for o in model.objectives:
        levels = [_chosen(model, level.gate[o], x)[:, :own_experts].sum(1) for level in model.levels]
        shares[o] = torch.stack(levels, dim=1)
    return shares, own_experts / (own_experts + shared)


def _chosen(model: nn.Module, gate: nn.Module, x: Tensor) -> Tensor:
    """How much of each expert a gate takes, (B, experts)."""
    shares: list[Tensor] = []
    hook = gate.register_forward_hook(lambda module, inputs, output: shares.append(output.softmax(dim=1)))
    model(x)
    hook.remove()
    return shares[0]


def _predicted(objective: str, runs: Runs) -> tuple[Objective, Tensor, Tensor]:
    """The objective, with predictions and labels of the test split."""
    job = _load(runs)
    size, workers = tools.evaluation_size(job.config), job.config.trainer.num_workers
    evaluation = tools.evaluate(job.trained, job.task, job.splits, size, job.precision, workers, name="test")
    assert evaluation is not None  # it is not to be stopped
    return next(o for o in job.task.objectives if o.name == objective), *evaluation.predictions[objective]


def _load(runs: Runs) -> tools.Run:
    """The first of the runs with its best weights, on the CPU."""
    folder = next(iter(runs.values()))[0]
    job = train.build(evaluation_config(folder, {"trainer.device": "cpu"}))
    load_best(best_folder(folder), job.trained)
    job.trained.eval()
    return job


#: File in results/ -> what draws it, given the runs of its table.
FIGURES: dict[str, Callable[[Runs], Figure]] = {
    "diamonds_usd.svg": partial(over_time, {"cut/accuracy": "accuracy of cut", "price/r2": "R2 of price"}),
    "shared_trunk_cut.svg": partial(confusion, "cut"),
    "shared_trunk_price.svg": partial(scatter, "price", "US dollars"),
    "soft_sharing.svg": sharing,
    "image_sharing.svg": image_sharing,
    "map_sharing.svg": image_sharing,
    "multi_fashion.png": partial(answers, whole),
    "impressions.svg": partial(calibration, "cvr"),
    "compressed_fashion.png": partial(answers, garment_over_copy),
    "two_view_fashion.png": partial(answers, halves),
    "ring_of_gaussians.png": reported,
    "fashion_gan.png": samples,
    "rooms.png": partial(reported, first=2),
    "dense_vit.png": partial(reported_of, "`dense_vit model.encoder=resnet18`", 1),
    "pinn_burgers.png": reported,
    "pinn_helmholtz.png": reported,
}
