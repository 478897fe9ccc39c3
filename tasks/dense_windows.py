"""Predictions of the whole of a picture by a model for one size.

    picture (h, w) -> windows of the model's shape, each at its size -> outputs -> back to their places -> maps (h, w)

A picture of another shape has windows along its longer side, an odd number that overlap: the one in the middle is what an
evaluation would see. Where they overlap, outputs are averaged, with the larger weight for the window whose middle is nearer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.map_kinds import MapKind
from tasks.resampling import kept_shape, planes, resize_sample
from tasks.task import TensorData


class Box(NamedTuple):
    """A window in pixels of the picture."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Windows(TensorData):
    """Windows of one picture as inputs.

    Args:
        shape: Height and width of the picture.
        boxes: Where the windows are.
    """

    shape: tuple[int, int] = field(default=(0, 0), kw_only=True)
    boxes: tuple[Box, ...] = field(default=(), kw_only=True)

    @property
    def center(self) -> int:
        """Number of the window in the middle."""
        return len(self.boxes) // 2

    def middle(self) -> TensorData:
        """That window alone, what an evaluation sees of the picture."""
        return TensorData(tuple(tensor[self.center : self.center + 1] for tensor in self.inputs), {})

    @property
    def scaled(self) -> bool:
        """Whether the maps of the picture are not simply the outputs."""
        return len(self.boxes) > 1 or tuple(self.inputs[0].shape[-2:]) != self.shape


def windows_of(image: np.ndarray, size: tuple[int, int], crop: bool) -> Windows:
    """Windows of an image (H, W, 3); without ``crop``, all of it in one, distorted."""
    shape = image.shape[0], image.shape[1]
    boxes = _boxes(shape, size) if crop else (Box(0, 0, *shape),)
    parts = []
    for top, left, height, width in boxes:
        part = np.ascontiguousarray(image[top : top + height, left : left + width])
        parts.append(torch.from_numpy(planes(resize_sample({"image": part}, *size)["image"])))
    return Windows((torch.stack(parts),), {}, shape=shape, boxes=boxes)


def _boxes(shape: tuple[int, int], size: tuple[int, int]) -> tuple[Box, ...]:
    kept = kept_shape(shape, size)
    spare = shape[0] - kept[0], shape[1] - kept[1]
    along = 0 if spare[0] > 0 else 1
    pairs = -(-spare[along] // (2 * kept[along]))  # of windows before and after the middle
    middle = spare[along] // 2
    before = [round(middle * i / pairs) for i in range(pairs)]
    after = [middle + round((spare[along] - middle) * (i + 1) / pairs) for i in range(pairs)]
    starts = [*before, middle, *after]
    return tuple(Box(start if along == 0 else 0, start if along == 1 else 0, *kept) for start in starts)


def on_picture(kind: MapKind, outputs: Tensor, windows: Windows) -> np.ndarray:
    """Outputs (N, C, H, W) for the windows as the map of the picture, in the shape of a target.

    One channel after the other, as those of many classes would need much memory.
    """
    channels = _channels(outputs.detach().float().cpu().numpy(), windows)
    if kind.kind == "classes":
        best = next(channels)
        labels = np.zeros(windows.shape, np.int16)
        for label, values in enumerate(channels, start=1):
            larger = values > best
            labels[larger] = label
            np.maximum(best, values, out=best)
        return labels
    found = np.stack(list(channels))
    if kind.kind in ("binary", "share"):
        return torch.from_numpy(found).sigmoid().numpy()
    if kind.kind == "normals":
        found /= np.maximum(np.sqrt(np.einsum("chw,chw->hw", found, found)), 1e-9)
    return found


def _channels(outputs: np.ndarray, windows: Windows) -> Iterator[np.ndarray]:
    """(h, w) values of the picture, of each channel."""
    import cv2

    slopes = [_slope(box, windows) for box in windows.boxes]
    total = np.zeros(windows.shape, np.float32)
    for box, slope in zip(windows.boxes, slopes, strict=True):
        total[_place(box)] += slope
    for channel in range(outputs.shape[1]):
        sums = np.zeros(windows.shape, np.float32)
        for output, box, slope in zip(outputs, windows.boxes, slopes, strict=True):
            values = np.ascontiguousarray(output[channel])
            smaller = box.height < values.shape[0] and box.width < values.shape[1]
            way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            sums[_place(box)] += slope * cv2.resize(values, (box.width, box.height), interpolation=way)
        yield sums / total


def _place(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


def _slope(box: Box, windows: Windows) -> np.ndarray:
    """(h, 1) or (1, w) weights, largest in the middle of a window; 1 for a window alone."""
    if len(windows.boxes) == 1:
        return np.ones((1, 1), np.float32)
    along = 0 if box.width == windows.shape[1] else 1
    length = box[2 + along]
    places = np.arange(length, dtype=np.float32) + 0.5
    weights = np.minimum(places, length - places)
    return weights[:, None] if along == 0 else weights[None]
