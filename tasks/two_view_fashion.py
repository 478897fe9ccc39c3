"""Two views of a garment: left half of the image as numbers, right half as an image.

    28 x 28 image -> left half, flattened (392)          the same label for all three objectives: fused, from both views;
                  -> right half, an image (1, 28, 14)    left and right, each from its own

A model may train on all of them or on some; one with a network per view alone is evaluated on ``fused``, too.
55,000 images are trained on, 5,000 validate, 10,000 test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.criteria import CrossEntropy
from tasks.fashion import CLASSES, DATA, PixelData, fashion_splits, read_garment
from tasks.metrics import accuracy
from tasks.registry import register_task
from tasks.task import Batch, Objective, Splits, Task, TensorData

_SIDE = 28


@register_task("two_view_fashion")
class TwoViewFashion(Task):
    """Classify a garment from its two halves, together and each by itself.

    Args:
        cut: Columns of the image that belong to the left half, 1 to 27.
        download: Fetch Fashion-MNIST (31 MB) if it is not found.
    """

    data_source = DATA

    def __init__(self, cut: int = 14, download: bool = False) -> None:
        if not 0 < cut < _SIDE:
            raise ValueError(f"two_view_fashion: cut must be between 1 and {_SIDE - 1}, got {cut}")
        self.cut, self.download = cut, download
        self.info = {"in_features": _SIDE * cut, "in_channels": 1, "classes": len(CLASSES)}
        metrics = {"accuracy": accuracy(len(CLASSES))}
        self.objectives = tuple(Objective(name, CrossEntropy(CLASSES), metrics) for name in ("fused", "left", "right"))

    def load(self, data_dir: Path) -> Splits:
        """Read and cut the images. Raises DataError if they are missing or damaged."""
        parts = fashion_splits(data_dir, self.download)
        return Splits(*(self._part(images, labels.long()) for images, labels in parts))

    def preprocess(self, path: Path) -> TensorData:
        """A garment."""
        return PixelData(self._views(read_garment(path)), {})

    def _part(self, images: Tensor, labels: Tensor) -> PixelData:
        return PixelData(self._views(images), {objective.name: labels for objective in self.objectives})

    def _views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        left, right = images[:, :, : self.cut], images[:, None, :, self.cut :]
        return left.flatten(1), right.contiguous()

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """Losses of the objectives that the model trains in this phase; it may be evaluated on more."""
        losses, features = super().losses(model, batch, phase)
        trained = next(turn.objectives for turn in model.phases if turn.name == phase)
        return {name: losses[name] for name in trained}, features
