"""What all GAN tasks share: which losses belong to which turn, and results that are about samples, not about labels."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.criteria import CrossEntropy
from tasks.gan_losses import Loss, discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from tasks.task import Batch, DataError, Objective, Task, TensorData

__all__ = ["Adversarial", "GanTask", "Penalty", "fixed_noise"]

Penalty = Literal["none", "r1", "gradient"]


@dataclass(frozen=True)
class Adversarial:
    """Criterion of one player: logits (B,) with targets (B,), 1 for a real and 0 for a generated sample.

    Args:
        loss: See :mod:`tasks.gan_losses`.
        player: Whose loss it is.
    """

    loss: Loss
    player: Literal["discriminator", "generator"]
    kind: ClassVar[Literal["classification", "regression"]] = "classification"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of the player; the generator is concerned with generated samples only."""
        real, fake = output[target == 1], output[target == 0]
        return (
            generator_loss(self.loss, fake) if self.player == "generator" else discriminator_loss(self.loss, real, fake)
        )

    def count(self, target: Tensor) -> Tensor:
        """Number of samples."""
        return torch.tensor(target.numel(), device=target.device)

    def initial(self, target: Tensor) -> float:
        """Loss of logits that are all 0, whatever the samples: 2 log 2 and log 2 for ``bce``, 2 and 0 for ``hinge``."""
        return float(self(torch.zeros(2), torch.tensor([0, 1])))

    def prior(self, target: Tensor) -> float:
        """The same: a discriminator that looks at nothing can do no better."""
        return self.initial(target)

    def present(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What each sample is taken for, and what it is."""
        return (output > 0).long(), target.long()


class GanTask(Task):
    """Losses of the turns ``discriminator`` and ``generator``. A subclass loads real samples, scaled like generated ones, as
    the only input, and their labels, if it has ``classes``, as targets ``real_class`` and ``fake_class``.

    A generated sample is asked to be of the class that a real one of the batch has, so classes are as frequent as in the data.

    Args:
        loss: ``bce`` (non-saturating), ``hinge`` or ``wgan``; see :mod:`tasks.gan_losses`.
        penalty: On the slope of the discriminators: ``none``, ``r1`` or ``gradient`` (the one of WGAN-GP).
        penalty_weight: Factor of the penalty.
        classes: Names of the classes; empty for samples without labels.

    Raises:
        ValueError: An unknown loss or penalty, or a negative weight.
    """

    def __init__(self, loss: Loss, penalty: Penalty, penalty_weight: float, classes: Collection[str]) -> None:
        super().__init__()
        if loss not in ("bce", "hinge", "wgan"):
            raise ValueError(f"{self.name}: loss must be bce, hinge or wgan, got {loss!r}")
        if penalty not in ("none", "r1", "gradient") or not penalty_weight >= 0:
            raise ValueError(
                f"{self.name}: penalty must be none, r1 or gradient, and penalty_weight at least 0; "
                f"got {penalty!r} and {penalty_weight}"
            )
        self.loss, self.penalty, self.penalty_weight = loss, penalty, penalty_weight
        self.labelling = CrossEntropy(tuple(classes))
        self.objectives = (
            Objective("real_fake", Adversarial(loss, "discriminator"), {}),
            *((Objective("real_class", self.labelling, {}),) if classes else ()),
            Objective("adversarial", Adversarial(loss, "generator"), {}),
            *((Objective("fake_class", self.labelling, {}),) if classes else ()),
        )

    def keep(self, names: Collection[str]) -> None:
        """Leave out what the model does not have; one adversarial objective becomes as many as it has discriminators."""
        several = sorted((name for name in names if re.fullmatch(r"adversarial_\d+", name)), key=lambda n: int(n[12:]))
        kept: list[Objective] = []
        for objective in self.objectives:
            if objective.name == "adversarial" and several:
                kept += [Objective(name, objective.criterion, objective.measures) for name in several]
            else:
                kept.append(objective)
        self.objectives = tuple(kept)
        super().keep(names)

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """The losses of one player's turn; the other player's networks are not touched by them."""
        labels = batch.targets.get("real_class") if model.classes else None
        if phase == "discriminator":
            return self._discriminator(model, batch.inputs[0], labels)
        fake = model.generate(_noise(model, len(batch.inputs[0])), labels)
        outputs = model.heads(model.features(fake))
        losses = {name: generator_loss(self.loss, outputs[name]) for name in model.adversarial}
        if labels is not None:
            losses["fake_class"] = self.labelling(outputs["fake_class"], labels)
        return losses, fake

    def _discriminator(self, model: Any, real: Tensor, labels: Tensor | None) -> tuple[dict[str, Tensor], Any]:
        with torch.no_grad():
            fake = model.generate(_noise(model, len(real)), labels).to(real)
        features = model.features(torch.cat([real, fake]))
        outputs = model.heads(features)
        truth, forgery = outputs["real_fake"].chunk(2)
        # discriminators share nothing, so that the sum gives each the gradient of its own loss
        total = discriminator_loss(self.loss, truth, forgery) * truth.shape[1]
        if self.penalty == "r1":
            total = total + self.penalty_weight * sum(r1_penalty(d, real) for d in model.discriminators)
        elif self.penalty == "gradient":
            total = total + self.penalty_weight * sum(gradient_penalty(d, real, fake) for d in model.discriminators)
        losses = {"real_fake": total}
        if labels is not None:
            losses["real_class"] = self.labelling(outputs["real_class"][: len(real)], labels)
        return losses, features

    def read(self, path: Path) -> TensorData:
        """Nothing: samples are generated."""
        raise DataError(f"task {self.name} generates samples and cannot read {path}; leave the input out")

    @torch.no_grad()
    def sample(self, model: Any, count: int, seed: int = 0) -> tuple[Tensor, list[str]]:
        """``count`` samples, the same for the same ``seed``, and the class that each was asked to be of, if there are any."""
        device = next(model.parameters()).device
        noise = fixed_noise(count, model.latent, device, torch.Generator().manual_seed(seed))
        if not model.classes:
            return model.generate(noise).float().cpu(), []
        labels = torch.arange(count, device=device) % model.classes
        names = [self.labelling.classes[label] for label in labels.tolist()]
        return model.generate(noise, labels).float().cpu(), names

    def _train_labels(self, objective: str) -> Tensor:
        return super()._train_labels(objective) if objective.endswith("_class") else torch.empty(0)

    def results(self) -> dict[str, bool]:
        """Keys of the rows of ``metrics.csv`` -> whether higher is better: training losses, and what :meth:`evaluate` finds."""
        return {f"{objective.name}/loss": False for objective in self.objectives} | self.sample_results

    #: Keys of what :meth:`evaluate` finds -> whether higher is better.
    sample_results: ClassVar[dict[str, bool]] = {}


def _noise(model: Any, count: int) -> Tensor:
    """Noise for this process's part of a batch. All processes draw that of the whole batch, from equal generators."""
    if not (dist.is_available() and dist.is_initialized()):
        return model.noise(count)
    return model.noise(count * dist.get_world_size()).chunk(dist.get_world_size())[dist.get_rank()]


def fixed_noise(count: int, latent: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """(count, latent) standard normal numbers, always the same, from ``generator`` or else a new one of seed 0.

    Torch's global generator, which training draws from, stays as it is.
    """
    return torch.randn(count, latent, generator=generator or torch.Generator().manual_seed(0)).to(device)
