"""Mixtures of narrow Gaussians in the plane, to test how many modes a generator covers.

A ring of 8 or a grid of 25 Gaussians of equal weight, narrow compared with the gaps between them (standard problems since
Metz et al., "Unrolled Generative Adversarial Networks", ICLR 2017, and Srivastava et al., "VEEGAN", NeurIPS 2017). A sample is
of high quality if it lies within three deviations of a mode, and a mode is covered if one such sample lies near it. Both
compare methods only for fixed networks and a fixed number of updates.

The points are drawn from seed 0. With ``labels`` the modes are classes, and the generator gets the class of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.gan_losses import Loss
from tasks.gan_metrics import mode_coverage
from tasks.gan_task import GanTask, Penalty, fixed_noise
from tasks.registry import register_task
from tasks.task import Batch, Pictures, Split, Splits, TensorData

_EVALUATED = 2_500  # samples, as is usual for these problems


class _Gaussians(GanTask):
    """Samples from Gaussians at ``centers`` (M, 2)."""

    data_source = "points that mozoo draws (MIT)"
    sample_results = {"samples/modes": True, "samples/high_quality": True, "samples/reverse_kl": False}

    def __init__(
        self, centers: Tensor, std: float, samples: int, labels: bool, loss: Loss, penalty: Penalty, weight: float
    ) -> None:
        if not std > 0 or samples < 1:
            raise ValueError(f"{self.name}: std must be positive and samples at least 1, got {std} and {samples}")
        super().__init__(loss, penalty, weight, [str(mode) for mode in range(len(centers))] if labels else [])
        self.centers, self.std, self.samples, self.labels = centers, std, samples, labels
        self.info = {"in_features": 2, "classes": len(centers) if labels else 0}

    def load(self, data_dir: Path) -> Splits:
        """Draw the points; no file is read."""
        random = np.random.RandomState(0)  # unlike Generator, it draws the same numbers in every NumPy version

        def draw(count: int) -> TensorData:
            modes = random.randint(len(self.centers), size=count)
            points = self.centers.numpy()[modes] + self.std * random.standard_normal((count, 2))
            labels = torch.from_numpy(modes)
            targets = {"real_class": labels, "fake_class": labels} if self.labels else {}
            return TensorData((torch.tensor(points, dtype=torch.float32),), targets)

        return Splits(draw(self.samples), draw(_EVALUATED), draw(_EVALUATED))

    def evaluate(self, model: Any, splits: Splits, split_name: str, batches: Iterable[Batch]) -> dict[str, float]:
        """Modes and share of good samples among as many generated points as there are real ones."""
        parts = list(batches)
        real = Batch(
            (torch.cat([part.inputs[0] for part in parts]),),
            {name: torch.cat([part.targets[name] for part in parts]) for name in parts[0].targets},
        )
        coverage = mode_coverage(self._generate(model, real), self.centers, 3 * self.std)
        return {f"samples/{name}": value for name, value in coverage.items()}

    def pictures(self, model: Any, split: Split) -> Pictures:
        """Generated points over real ones."""
        from matplotlib.figure import Figure

        assert isinstance(split, TensorData)
        real = split.batch(torch.arange(len(split), device=split.inputs[0].device))
        figure = Figure(figsize=(5.6, 5.6))
        axes = figure.add_subplot()
        clouds = (real.inputs[0], "#94a3b8", "real"), (self._generate(model, real), "#d97706", "generated")
        for points, color, name in clouds:
            x, y = points.float().cpu().T.numpy()
            axes.scatter(x, y, s=3, alpha=0.5, linewidths=0, color=color, label=name)
        axes.set_aspect("equal")
        axes.legend(frameon=False, markerscale=4)
        return {"Generated points over real ones.": figure}

    @torch.no_grad()
    def _generate(self, model: Any, real: Batch) -> Tensor:
        points = real.inputs[0]
        noise = fixed_noise(len(points), model.latent, points.device)
        return model.generate(noise, real.targets["real_class"] if model.classes else None)


@register_task("ring_of_gaussians")
class RingOfGaussians(_Gaussians):
    """Gaussians at equal distances on a circle.

    Args:
        modes: How many.
        radius: Of the circle.
        std: Deviation of each Gaussian in each direction.
        samples: Points to train on; 2,500 more are for validation and as many for the test.
        labels: Whether the mode of each point is known, as the class that the generator gets.
        loss: ``bce`` (non-saturating), ``hinge`` or ``wgan``.
        penalty: On the slope of the discriminators: ``none``, ``r1`` or ``gradient`` (the one of WGAN-GP).
        penalty_weight: Factor of the penalty.
    """

    def __init__(
        self,
        modes: int = 8,
        radius: float = 1.0,
        std: float = 0.01,
        samples: int = 100_000,
        labels: bool = False,
        loss: Loss = "bce",
        penalty: Penalty = "r1",
        penalty_weight: float = 0.1,
    ) -> None:
        if modes < 2 or not radius > 0:
            raise ValueError(f"{self.name}: modes must be at least 2 and radius positive, got {modes} and {radius}")
        angles = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
        centers = radius * torch.stack([angles.cos(), angles.sin()], 1)
        super().__init__(centers, std, samples, labels, loss, penalty, penalty_weight)


@register_task("grid_of_gaussians")
class GridOfGaussians(_Gaussians):
    """Gaussians at the points of a square grid around the origin.

    Arguments that are not named here are those of :class:`RingOfGaussians`.

    Args:
        side: Number of modes in each row and column.
        spacing: Distance between neighbors.
    """

    def __init__(
        self,
        side: int = 5,
        spacing: float = 0.5,
        std: float = 0.0125,
        samples: int = 100_000,
        labels: bool = False,
        loss: Loss = "bce",
        penalty: Penalty = "r1",
        penalty_weight: float = 0.1,
    ) -> None:
        if side < 2 or not spacing > 0:
            raise ValueError(f"{self.name}: side must be at least 2 and spacing positive, got {side} and {spacing}")
        line = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
        super().__init__(torch.cartesian_prod(line, line), std, samples, labels, loss, penalty, penalty_weight)
