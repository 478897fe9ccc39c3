"""Pictures of predicted and of true maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from tasks.task import Batch, Prediction

# fmt: off
_PALETTE = np.array([to_rgb(color) for color in (
    "#1f77b4", "#9467bd", "#f7dc6f", "#d62728", "#8c6d46", "#ff7f0e", "#17becf", "#e377c2", "#2ca02c", "#bcbd22",
    "#111827", "#cbd5e1", "#7dd3fc", "#fda4af", "#84cc16", "#6d28d9", "#0f766e", "#b45309", "#64748b",
)])
# fmt: on


def compare(
    samples: Sequence[Batch], outputs: Sequence[Mapping[str, Tensor]], names: Sequence[str], classes: int
) -> Figure:
    """A row per sample without a batch dimension: image, prediction and truth of each map."""
    columns = 1 + 2 * len(names)
    height, width = samples[0].inputs[0].shape[-2:]
    figure = Figure(figsize=(1.7 * columns, 1.75 * len(samples) * height / width), layout="constrained")
    grid = figure.subplots(len(samples), columns, squeeze=False)
    for axes, sample, output in zip(grid, samples, outputs, strict=True):
        pictures = {"image": sample.inputs[0].permute(1, 2, 0).numpy().clip(0, 1)}
        for name in names:
            truth = sample.targets[name]
            limit = float(truth.max()) if name == "depth" else float(classes)
            pictures[f"{name}, predicted"] = paint(name, output[name], limit)
            pictures[f"{name}, true"] = paint(name, truth, limit)
        for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
            if axis in grid[0]:
                axis.set_title(title, fontsize=8, fontweight="normal", loc="center")
    return figure


def paint(name: str, values: Tensor, limit: float) -> np.ndarray:
    """(H, W, 3) colors of a map; black where it is unknown.

    Args:
        name: ``segmentation``, ``depth`` or ``normals``.
        values: Labels (H, W) or scores (C, H, W); depth (1, H, W); normals (3, H, W).
        limit: The depth that gets the last color.
    """
    array = values.detach().cpu().numpy()
    if name == "segmentation":
        labels = array.argmax(0) if array.ndim == 3 else array
        return np.where((labels < 0)[..., None], 0.0, _PALETTE[labels % len(_PALETTE)])
    if name == "depth":
        colors = colormaps["viridis"](np.clip(array[0] / max(limit, 1e-9), 0, 1))[..., :3]
        return np.where((array[0] == 0)[..., None], 0.0, colors)
    length = np.sqrt((array * array).sum(0, keepdims=True))
    unit = array / np.maximum(length, 1e-9)
    return np.moveaxis(np.where(length > 0, unit / 2 + 0.5, 0.0), 0, -1)


def decode(outputs: Mapping[str, Tensor], classes: Sequence[str]) -> Prediction:
    """Labels (N, H, W), depths (N, H, W), normals (N, H, W, 3), and their colors.

    Each depth map has its own scale. ``outputs`` (N, C, H, W) are on the CPU.
    """
    maps: dict[str, np.ndarray] = {}
    pictures: dict[str, np.ndarray] = {}
    legends: dict[str, dict[str, Sequence[str | int]]] = {}
    for name, values in outputs.items():
        limits = values.flatten(1).max(1).values.tolist()
        colors = np.stack([paint(name, value, limit) for value, limit in zip(values, limits, strict=True)])
        pictures[name] = (255 * colors).round().astype(np.uint8)
        array = values.movedim(1, -1).numpy()
        if name == "segmentation":
            maps[name] = array.argmax(-1).astype(np.uint8)
            codes = [to_hex(_PALETTE[label % len(_PALETTE)]) for label in range(len(classes))]
            legends[name] = {"label": range(len(classes)), "class": classes, "colour": codes}
        else:
            maps[name] = array[..., 0] if name == "depth" else array
    return Prediction({}, maps, pictures, legends)
