"""Pictures of predicted and of true maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from tasks.map_kinds import MapKind
from tasks.task import Batch, Prediction

_ROWS = 256  # that are painted at a time, as colors of a large picture need much memory

# fmt: off
_PALETTE = np.array([to_rgb(color) for color in (
    "#1f77b4", "#9467bd", "#f7dc6f", "#d62728", "#8c6d46", "#ff7f0e", "#17becf", "#e377c2", "#2ca02c", "#bcbd22",
    "#111827", "#cbd5e1", "#7dd3fc", "#fda4af", "#84cc16", "#6d28d9", "#0f766e", "#b45309", "#64748b",
)])
# fmt: on


def compare(samples: Sequence[Batch], outputs: Sequence[Mapping[str, Tensor]], maps: Mapping[str, MapKind]) -> Figure:
    """A row per sample without a batch dimension: image, prediction and truth of each map."""
    columns = 1 + 2 * len(maps)
    height, width = samples[0].inputs[0].shape[-2:]
    figure = Figure(figsize=(1.7 * columns, 1.75 * len(samples) * height / width), layout="constrained")
    grid = figure.subplots(len(samples), columns, squeeze=False)
    for axes, sample, output in zip(grid, samples, outputs, strict=True):
        pictures = {"image": sample.inputs[0].permute(1, 2, 0).numpy().clip(0, 1)}
        for name, kind in maps.items():
            truth = sample.targets[name]
            limit = float(truth.max()) if truth.any() else float(output[name].max())
            pictures[f"{name}, predicted"] = paint(kind, predicted(kind, output[name]), limit)
            pictures[f"{name}, true"] = paint(kind, truth.numpy(), limit)
        for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
            if axis in grid[0]:
                axis.set_title(title, fontsize=8, fontweight="normal", loc="center")
    return figure


def predicted(kind: MapKind, output: Tensor) -> np.ndarray:
    """A model's output (C, H, W) as the map that it predicts, in the shape of a target."""
    values = output.detach().float().cpu()
    if kind.kind == "classes":
        return values.argmax(0).numpy()
    return (values.sigmoid() if kind.kind in ("binary", "share") else values).numpy()


def paint(kind: MapKind, values: np.ndarray, limit: float) -> np.ndarray:
    """(H, W, 3) colors of a map; black where it is unknown.

    Args:
        kind: Of the map.
        values: Labels (H, W); shares, depths (1, H, W); normals (3, H, W).
        limit: The depth that gets the last color.
    """
    if kind.kind == "classes":
        return np.where((values < 0)[..., None], 0.0, _PALETTE[values % len(_PALETTE)])
    if kind.kind in ("binary", "share"):
        shades = np.where(np.isnan(values[0]), 0.0, 0.15 + 0.85 * np.nan_to_num(values[0]))
        return np.repeat(shades[..., None], 3, axis=2)
    if kind.kind in ("depth", "disparity"):
        colors = colormaps["viridis"](np.clip(values[0] / max(limit, 1e-9), 0, 1))[..., :3]
        return np.where((values[0] == 0)[..., None], 0.0, colors)
    length = np.sqrt((values * values).sum(0, keepdims=True))
    unit = values / np.maximum(length, 1e-9)
    return np.moveaxis(np.where(length > 0, unit / 2 + 0.5, 0.0), 0, -1)


def decode(outputs: Mapping[str, Tensor], maps: Mapping[str, MapKind]) -> Prediction:
    """Labels, shares, depths (N, H, W), normals (N, H, W, 3), and their colors.

    A binary map is the probability of a yes. Each depth map has its own scale. ``outputs`` (N, C, H, W) are on the CPU.
    """
    return present({name: [predicted(maps[name], value) for value in values] for name, values in outputs.items()}, maps)


def present(found: Mapping[str, Sequence[np.ndarray]], maps: Mapping[str, MapKind]) -> Prediction:
    """What :func:`decode` returns, from predicted maps in the shapes of targets."""
    arrays: dict[str, np.ndarray] = {}
    pictures: dict[str, np.ndarray] = {}
    legends: dict[str, dict[str, Sequence[str | int]]] = {}
    for name, values in found.items():
        kind = maps[name]
        pictures[name] = np.stack([_bytes(kind, value) for value in values])
        array = np.stack(values)
        if kind.kind == "classes":
            classes = range(len(kind.classes))
            arrays[name] = array.astype(np.uint8 if len(kind.classes) <= 256 else np.uint16)
            codes = [to_hex(_PALETTE[label % len(_PALETTE)]) for label in classes]
            legends[name] = {"label": classes, "class": kind.classes, "colour": codes}
        else:
            arrays[name] = np.moveaxis(array, 1, -1) if kind.kind == "normals" else array[:, 0]
    return Prediction({}, arrays, pictures, legends)


def _bytes(kind: MapKind, values: np.ndarray) -> np.ndarray:
    """(H, W, 3) colors of a map as bytes."""
    limit = float(values.max())
    strips = [values[..., top : top + _ROWS, :] for top in range(0, values.shape[-2], _ROWS)]
    return np.concatenate([(255 * paint(kind, strip, limit)).round().astype(np.uint8) for strip in strips])
