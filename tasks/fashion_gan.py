"""Fashion-MNIST for a GAN: generate garments of given classes.

Gray images of 28 x 28 pixels in ten classes, as numbers in [-1, 1]: 55,000 to train on; 5,000 (validation) and 10,000 (test)
to compare with as many generated ones. A Frechet distance falls as the number of samples grows, so those of the two splits
cannot be compared. See :mod:`tasks.gan_metrics` for its features.

    samples/frechet         distance between features of generated and of real images; other real images have about 1
    samples/frechet_share   that as a share of the distance of a Gaussian with the real images' pixel mean and covariance
    samples/smallest_class  share of the class that the classifier sees least often in the samples; real images: 0.1
    samples/largest_class   share of the class that it sees most often
    samples/class_accuracy  share of the samples in which it sees the class that was asked for
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tasks.fashion import CLASSES, draw_sheet, fashion_splits, pad
from tasks.gan_losses import Loss
from tasks.gan_metrics import (
    ImageClassifier,
    Moments,
    cached_tensors,
    checksum,
    frechet_distance,
    pixel_gaussian,
    trained_classifier,
)
from tasks.gan_task import GanTask, Penalty, fixed_noise
from tasks.registry import register_task
from tasks.task import Batch, Splits, TensorData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FashionGan"]


@register_task("fashion_gan")
class FashionGan(GanTask):
    """Generate garments by class.

    Args:
        image_size: Side of the images: 28, or more with a black margin.
        labels: Whether the generator is asked for a class; without, there is no auxiliary classifier.
        download: Fetch the images if they are not on this machine.
        loss: ``bce`` (non-saturating), ``hinge`` or ``wgan``.
        penalty: On the slope of the discriminators: ``none``, ``r1`` or ``gradient`` (the one of WGAN-GP).
        penalty_weight: Factor of the penalty.

    Raises:
        ValueError: ``image_size`` below 28, or an unknown loss or penalty.
    """

    sample_results = {
        "samples/frechet": False,
        "samples/frechet_share": False,
        "samples/smallest_class": True,
        "samples/largest_class": False,
        "samples/class_accuracy": True,
    }

    def __init__(
        self,
        image_size: int = 28,
        labels: bool = True,
        download: bool = False,
        loss: Loss = "bce",
        penalty: Penalty = "none",
        penalty_weight: float = 1.0,
    ) -> None:
        if image_size < 28:
            raise ValueError(f"fashion_gan: image_size must be at least 28, got {image_size}")
        super().__init__(loss, penalty, penalty_weight, CLASSES if labels else ())
        self.image_size, self.download = image_size, download
        self.info = {"in_channels": 1, "image_size": image_size, "classes": len(CLASSES) if labels else 0}
        self._judge: ImageClassifier | None = None
        self._references: dict[str, tuple[Any, dict[str, Tensor]]] = {}  # with the split that each belongs to

    def load(self, data_dir: Path) -> Splits:
        """Read the images. Raises DataError if they are missing or damaged."""
        return Splits(*(self._part(*part) for part in fashion_splits(data_dir, self.download)))

    def _part(self, images: Tensor, labels: Tensor) -> TensorData:
        scaled = pad(images, self.image_size).div_(127.5).sub_(1)
        return TensorData((scaled,), {"real_class": labels.long(), "fake_class": labels.long()})

    @torch.no_grad()
    def evaluate(self, model: Any, splits: Splits, split_name: str, batches: Iterable[Batch]) -> dict[str, float]:
        """Compare the images of a split with as many generated ones of the same classes.

        They are always generated from the same noise.
        """
        judge, fakes = self._classifier(), Moments()
        predicted, wanted, generator = [], [], torch.Generator().manual_seed(0)
        for batch in batches:
            images, labels = batch.inputs[0], batch.targets["real_class"]
            judge.to(images.device)
            noise = fixed_noise(len(images), model.latent, images.device, generator)
            features, logits = judge(model.generate(noise, labels if model.classes else None))
            fakes.update(features)
            predicted.append(logits.argmax(1))
            wanted.append(labels)
        real, kinds = self._reference(judge, splits, split_name), torch.cat(predicted)
        distance = frechet_distance(fakes.compute(), (real["mean"], real["covariance"]))
        shares = torch.bincount(kinds, minlength=len(CLASSES)) / len(kinds)
        return {
            "samples/frechet": distance,
            "samples/frechet_share": distance / float(real["gaussian"]),
            "samples/smallest_class": float(shares.min()),
            "samples/largest_class": float(shares.max()),
            "samples/class_accuracy": float((kinds == torch.cat(wanted)).float().mean()),
        }

    def pictures(self, model: Any, split: TensorData | Dataset[Batch]) -> dict[str, Figure]:
        """Samples, a column for each class."""
        device, columns = next(model.parameters()).device, len(CLASSES)
        labels = torch.arange(columns, device=device).repeat(8)
        with torch.no_grad():
            images = model.generate(fixed_noise(len(labels), model.latent, device), labels if model.classes else None)
        names = CLASSES if model.classes else [""] * columns
        figure = draw_sheet(images.view(8, columns, *images.shape[-2:]), names, (7.5, 6.2), -1)
        return {"Generated images, each from its own noise.": figure}

    def _classifier(self) -> ImageClassifier:
        """The classifier of the whole training data, also for truncated splits."""
        if self._judge is None:
            folder, train = self._source()
            images, labels = train.inputs[0], train.targets["real_class"]
            self._judge = trained_classifier(folder, f"fashion-{self.image_size}", images, labels, len(CLASSES))
        return self._judge

    def _source(self) -> tuple[Path, TensorData]:
        """Folder of the classifier, and the whole training data."""
        assert self._loaded is not None, "evaluate needs the data of splits()"
        data_dir, splits = self._loaded
        assert isinstance(splits.train, TensorData)
        return data_dir / "classifiers", splits.train

    def _reference(self, judge: ImageClassifier, splits: Splits, split_name: str) -> dict[str, Tensor]:
        """``mean`` and ``covariance`` of real features, distance of the ``gaussian``; from a cache."""
        train, split = splits.train, getattr(splits, split_name)
        assert isinstance(train, TensorData)
        if split_name not in self._references or self._references[split_name][0] is not split:
            images = split.inputs[0]

            def measure() -> dict[str, Tensor]:
                real, drawn, noise = Moments(), Moments(), pixel_gaussian(train.inputs[0], len(images))
                for part, other in zip(images.split(1_000), noise.split(1_000), strict=True):
                    real.update(judge(part)[0])
                    drawn.update(judge(other.to(part))[0])
                mean, covariance = (each.cpu() for each in real.compute())
                distance = frechet_distance(drawn.compute(), (mean, covariance))
                return {"mean": mean, "covariance": covariance, "gaussian": torch.tensor(distance, dtype=torch.float64)}

            key = checksum([*judge.state_dict().values(), train.inputs[0], images])
            reference = cached_tensors(self._source()[0], f"real-{split_name}-{key}", measure)
            self._references[split_name] = split, reference
        return self._references[split_name][1]
