"""Metrics of generated samples: Frechet distance in learned features, modes covered.

Published Frechet distances use an Inception network whose weights have to be downloaded. Here a small classifier of the real
images takes its place; it is trained from a seed on first use (about a minute on two cores) and kept in the data folder under
the checksum of its weights. Its results for the real images are cached beside it. Distances of different classifiers cannot be
compared, so each comes with two that calibrate it: that of a Gaussian with the mean and covariance of the real pixels, and
that of other real images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from tasks.room_renderer import replacing
from tasks.task import DataError


class ImageClassifier(nn.Module):
    """Two convolutions and a hidden layer, whose 128 outputs are the features.

    ``image_size`` is the side of an image in pixels, at least 4.
    """

    def __init__(self, in_channels: int, image_size: int, classes: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

        numbers = 64 * (image_size // 4) ** 2
        hidden = [nn.Flatten(), nn.Linear(numbers, 128), nn.ReLU()]
        self.body = nn.Sequential(*block(in_channels, 32), *block(32, 64), *hidden)
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [-1, 1] -> (B, 128) features and (B, classes) logits, in float32."""
        with torch.autocast(images.device.type, enabled=False):
            features = self.body(images.float())
            return features, self.head(features)


def trained_classifier(
    folder: Path, name: str, images: Tensor, labels: Tensor, classes: int, epochs: int = 3
) -> ImageClassifier:
    """The classifier ``name`` in ``folder``; trained first if it is not there.

    It is trained on (N, C, H, W) images and (N,) labels, on the CPU; torch's global generator stays as it was.
    Raises DataError for a damaged file.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = ImageClassifier(images.shape[1], images.shape[-1], classes)

        def weights() -> dict[str, Tensor]:
            _train(model, images.cpu(), labels.cpu(), epochs)
            return model.state_dict()

        model.load_state_dict(cached_tensors(folder, name, weights))
    # a third less time on a CPU
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def cached_tensors(folder: Path, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of the file ``name`` in ``folder``; made first if it is not there.

    The file's name ends with the checksum of its content. Raises DataError for a damaged file.
    """
    for file in folder.glob(f"{name}-{'?' * 12}.safetensors"):
        content = file.read_bytes()
        if not file.stem.endswith(_digest([content])):
            raise DataError(f"{file} is damaged (its checksum differs); delete it, and it will be made again")
        return load(content)
    content = save(make())
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}-{_digest([content])}.safetensors") as out:
        out.write(content)
    return load(content)


def checksum(tensors: Iterable[Tensor]) -> str:
    """12 hexadecimal digits that change with any number in them."""
    return _digest(tensor.cpu().contiguous().numpy() for tensor in tensors)


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]


def _train(model: ImageClassifier, images: Tensor, labels: Tensor, epochs: int, batch_size: int = 256) -> None:
    """AdamW with one cycle of the learning rate."""
    with torch.enable_grad():
        steps = epochs * -(-len(images) // batch_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(model(images[rows])[1], labels[rows]).backward()
                optimizer.step()
                schedule.step()


class Moments:
    """Mean and covariance of (N, D) features that arrive in batches, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def update(self, features: Tensor) -> None:
        """Count a batch (B, D)."""
        features = features.double()
        self._count += len(features)
        self._sum = self._sum + features.sum(0)
        self._products = self._products + features.T @ features

    def compute(self) -> tuple[Tensor, Tensor]:
        """(D,) mean and (D, D) unbiased covariance. Raises ValueError for fewer than two samples."""
        if self._count < 2:
            raise ValueError("a covariance needs at least two samples")
        mean = torch.as_tensor(self._sum) / self._count
        centerd = torch.as_tensor(self._products) - self._count * torch.outer(mean, mean)
        return mean, centerd / (self._count - 1)


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Frechet distance of two Gaussians, each given by its mean and covariance.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``

    The trace of the root is that of ``(C1^(1/2) C2 C1^(1/2))^(1/2)``, which is symmetric, so real eigenvalues are all it takes.
    """
    (mean1, cov1), (mean2, cov2) = ((m.double().cpu(), c.double().cpu()) for m, c in (first, second))
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


def pixel_gaussian(images: Tensor, count: int) -> Tensor:
    """(count, C, H, W) samples of a Gaussian with the mean and covariance of ``images``.

    Images and samples are in [-1, 1]; samples are clamped to it.
    """
    moments = Moments()
    for part in images.flatten(1).split(10_000):
        moments.update(part.cpu())
    mean, covariance = moments.compute()
    values, vectors = torch.linalg.eigh(covariance)
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = mean + (noise * values.clamp(min=0).sqrt()) @ vectors.T
    return drawn.clamp(-1, 1).float().view(count, *images.shape[1:])


def mode_coverage(points: Tensor, centers: Tensor, radius: float) -> dict[str, float]:
    """What (N, 2) points say about the modes at ``centers`` (M, 2).

    Returns:
        ``modes``: how many have at least one point within ``radius``; ``high_quality``: the share of points within ``radius``
        of a mode; ``reverse_kl``: the divergence in nats of the shares of the modes in these points from equal shares,
        infinite if there is none.
    """
    distances, nearest = torch.cdist(points.double(), centers.to(points).double()).min(1)
    good = nearest[distances <= radius]
    shares = torch.bincount(good, minlength=len(centers)).double() / max(len(good), 1)
    present = shares[shares > 0]
    divergence = float((present * (present * len(centers)).log()).sum()) if len(good) else float("inf")
    return {"modes": float(len(present)), "high_quality": len(good) / len(points), "reverse_kl": divergence}
