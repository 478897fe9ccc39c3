"""MultiFashion: two garments on one canvas, partly on top of each other. Name both.

    +----------------+      36 x 36 pixels; one image at the top left, one at the bottom right, ``offset`` pixels further
    | top left  +----|----+ down and right. Where they overlap, the brighter pixel wins.
    |           |    |    |
    +-----------|----+    | offset=6 resize=28 is the smaller form of Sener & Koltun
                | bottom  |
                +---------+

Every image comes twice as top left and twice as bottom right: 120,000 samples from the training images, of which those from a
twelfth of the images (10,000) validate, and 20,000 from the test images. No image is in two parts.
Origin: S. Sabour et al., "Dynamic Routing Between Capsules", NeurIPS 2017; O. Sener and V. Koltun, "Multi-Task Learning as
Multi-Objective Optimization", NeurIPS 2018; with garments: X. Lin et al., "Pareto Multi-Task Learning", NeurIPS 2019.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.criteria import CrossEntropy
from tasks.fashion import CLASSES, DATA, PixelData, fashion_splits, read_garment
from tasks.metrics import accuracy
from tasks.registry import register_task
from tasks.task import Objective, Splits, Task, TensorData

_SIDE = 28


@register_task("multi_fashion")
class MultiFashion(Task):
    """Classify the garments at the top left and at the bottom right.

    Args:
        canvas: Side of the canvas in pixels.
        offset: How far the second image is below and to the right of the first.
        resize: Side of the samples, if not ``canvas``; the nearest pixel is taken.
        copies: How often each image appears at the top left, and at the bottom right.
        pairs_seed: Of the pairs.
        download: Fetch Fashion-MNIST (31 MB) if it is not found.

    Raises:
        ValueError: An image would leave the canvas, or a number is out of range.
    """

    data_source = DATA

    def __init__(
        self,
        canvas: int = 36,
        offset: int = 8,
        resize: int | None = None,
        copies: int = 2,
        pairs_seed: int = 0,
        download: bool = False,
    ) -> None:
        if not 0 <= offset <= canvas - _SIDE:
            raise ValueError(
                f"multi_fashion: offset must be between 0 and canvas - {_SIDE}, got offset {offset} and canvas {canvas}"
            )
        if min(copies, 1 if resize is None else resize) < 1:
            raise ValueError(f"multi_fashion: copies and resize must be at least 1, got {copies} and {resize}")
        self.canvas, self.offset, self.resize = canvas, offset, resize
        self.copies, self.pairs_seed, self.download = copies, pairs_seed, download
        names = ("top_left", "bottom_right")
        heads = {"classifiers": dict.fromkeys(names, len(CLASSES)), "regressors": {}}
        self.info = {"in_channels": 1, "image_size": resize or canvas, **heads}
        metrics = {"accuracy": accuracy(len(CLASSES))}
        self.objectives = tuple(Objective(name, CrossEntropy(CLASSES), metrics) for name in names)

    def load(self, data_dir: Path) -> Splits:
        """Read and pair the images. Raises DataError if they are missing or damaged."""
        random = torch.Generator().manual_seed(self.pairs_seed)
        parts = fashion_splits(data_dir, self.download)
        return Splits(*(self._part(images, labels.long(), random) for images, labels in parts))

    def preprocess(self, path: Path) -> TensorData:
        """A canvas with two garments."""
        return PixelData((self._resized(read_garment(path, self.canvas)[:, None]),), {})

    def _part(self, images: Tensor, labels: Tensor, random: torch.Generator) -> PixelData:
        first, second = (
            torch.cat([torch.randperm(len(images), generator=random) for _ in range(self.copies)]) for _ in range(2)
        )
        samples = self._resized(overlay(images[first], images[second], self.canvas, self.offset)[:, None])
        return PixelData((samples,), {"top_left": labels[first], "bottom_right": labels[second]})

    def _resized(self, samples: Tensor) -> Tensor:
        if self.resize is None:
            return samples
        return F.interpolate(samples, size=(self.resize, self.resize), mode="nearest")


def overlay(first: Tensor, second: Tensor, canvas: int, offset: int) -> Tensor:
    """(N, H, W) twice -> (N, canvas, canvas): the brighter pixel of both.

    ``second`` lies ``offset`` pixels further down and right.
    """
    height, width = first.shape[-2:]
    samples = first.new_zeros(len(first), canvas, canvas)
    samples[:, :height, :width] = first
    corner = samples[:, offset : offset + height, offset : offset + width]
    torch.maximum(corner, second, out=corner)
    return samples
