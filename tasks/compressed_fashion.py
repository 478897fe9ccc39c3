"""Compressed Fashion-MNIST: reconstruct and classify garments from random measurements.

Each of the m measurements is a random Gaussian combination of all pixels of the 32 x 32 image (28 x 28 with a black margin).
The matrix is drawn once from a seed. m = 64 measurements of 1,024 pixels leave most of the image open; what is known about
garments fills it in.

Inputs: m standardized measurements. Objectives: ``image``, its pixels in [0, 1]; ``class``, ten classes. 55,000 images are
trained on, 5,000 validate, 10,000 test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.criteria import CrossEntropy, SquaredError
from tasks.fashion import CLASSES, DATA, draw_sheet, fashion_splits, pad, read_garment
from tasks.marks import CROSS
from tasks.metrics import accuracy, metric
from tasks.registry import register_task
from tasks.task import Objective, Pictures, Prediction, Split, Splits, Task, TensorData


@register_task("compressed_fashion")
class CompressedFashion(Task):
    """Reconstruct and classify a garment from random measurements.

    Args:
        measurements: How many, at least 1.
        image_size: Side of the images: 28, or more with a black margin.
        matrix_seed: Of the measurements.
        download: Fetch Fashion-MNIST (31 MB) if it is not found.
    """

    data_source = DATA

    def __init__(
        self, measurements: int = 64, image_size: int = 32, matrix_seed: int = 0, download: bool = False
    ) -> None:
        if measurements < 1 or image_size < 28:
            raise ValueError(
                "compressed_fashion: measurements must be at least 1 and image_size at least 28, "
                f"got {measurements} and {image_size}"
            )
        self.measurements, self.image_size = measurements, image_size
        self.matrix_seed, self.download = matrix_seed, download
        heads = {"classes": len(CLASSES), "classifiers": {"class": len(CLASSES)}}
        self.info = {"in_features": measurements, "in_channels": 1, "image_size": image_size, **heads}
        psnr = metric("image.PeakSignalNoiseRatio", data_range=1.0)  # in dB, from the mean over all samples
        self.objectives = (
            Objective("image", SquaredError("grey value"), {"psnr": psnr}),
            Objective("class", CrossEntropy(CLASSES), {"accuracy": accuracy(len(CLASSES))}),
        )

    def load(self, data_dir: Path) -> Splits:
        """Read and measure the images. Raises DataError if they are missing or damaged."""
        loaded = fashion_splits(data_dir, self.download)
        parts = [(pad(images, self.image_size) / 255, labels) for images, labels in loaded]
        measured = [self._measure(images) for images, _ in parts]
        state = {"mean": measured[0].mean(0).tolist(), "std": measured[0].std(0).tolist()}
        return Splits(
            *(
                TensorData((_standardize(values, state),), {"image": images, "class": labels.long()})
                for values, (images, labels) in zip(measured, parts, strict=True)
            ),
            state=state,
        )

    def preprocess(self, path: Path) -> TensorData:
        """The measurements of a garment."""
        measured = self._measure(pad(read_garment(path), self.image_size) / 255)
        return TensorData((_standardize(measured, self.state_dict()),), {})

    def decode(self, outputs: Mapping[str, Tensor]) -> Prediction:
        """The class, and the image as a map of gray values."""
        cells = super().decode({"class": outputs["class"]}).cells
        images = outputs["image"][:, 0].clamp(0, 1)
        return Prediction(cells, {"image": images.numpy()}, {"image": (images * 255).round().byte().numpy()})

    def _measure(self, images: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(self.matrix_seed)
        return images.flatten(1) @ torch.randn(self.image_size**2, self.measurements, generator=random)

    def pictures(self, model: Any, split: Split) -> Pictures:
        """Images above their reconstructions."""
        assert isinstance(split, TensorData)
        batch = split.batch(torch.arange(min(12, len(split)), device=split.inputs[0].device))
        outputs = model(*batch.inputs)
        images = torch.stack([batch.targets["image"], outputs["image"].float()])[:, :, 0].clamp(0, 1)
        guesses, truth = outputs["class"].argmax(1).tolist(), batch.targets["class"].tolist()
        names = [
            ("" if guess == label else CROSS) + CLASSES[guess] for guess, label in zip(guesses, truth, strict=True)
        ]
        figure = draw_sheet(images, names, (9.0, 2.4), 0)
        figure.axes[0].set_yticks([0.5 * self.image_size, 1.5 * self.image_size], ["image", "reconstruction"])
        caption = f"Images, reconstructions from {self.measurements} measurements, and predicted classes; {CROSS}wrong."
        return {caption: figure}


def _standardize(measured: Tensor, state: Mapping[str, Any]) -> Tensor:
    return (measured - torch.tensor(state["mean"])) / torch.tensor(state["std"])
