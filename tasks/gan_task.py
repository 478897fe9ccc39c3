"""Base of GAN tasks: losses of both players, and results computed from samples."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.criteria import CrossEntropy, Kind
from tasks.gan_losses import Loss, discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from tasks.results import ResultKey
from tasks.task import Batch, DataError, Objective, Splits, Task, TensorData

Penalty = Literal["none", "r1", "gradient"]


@dataclass(frozen=True)
class Adversarial:
    """Criterion of one player: logits (B,) and targets (B,), 1 for real, 0 for generated."""

    loss: Loss
    player: Literal["discriminator", "generator"]
    kind: ClassVar[Kind] = "classification"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of the player; that of the generator depends on generated samples only."""
        fake = output[target == 0]
        if self.player == "generator":
            return generator_loss(self.loss, fake)
        return discriminator_loss(self.loss, output[target == 1], fake)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of samples."""
        return torch.tensor(target.numel(), device=target.device)

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of logits of 0: 2 log 2 and log 2 for ``bce``, 2 and 0 for ``hinge``."""
        return float(self(torch.zeros(2), torch.tensor([0, 1])))

    def constant_loss(self, target: Tensor) -> float:
        """The same: the best constant logit is 0."""
        return self.untrained_loss(target)

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) predicted and true kind of each sample: 1 real, 0 generated."""
        return (output > 0).long(), target.long()


class GanTask(Task):
    """Losses of the phases ``discriminator`` and ``generator``.

    A subclass loads real samples, scaled like generated ones, as the only input, and their labels, if it has ``classes``, as
    targets ``real_class`` and ``fake_class``. Samples are generated for the labels of the real ones in the batch, so that
    classes are as frequent as in the data.

    Args:
        loss: ``bce`` (non-saturating), ``hinge`` or ``wgan``; see :mod:`tasks.gan_losses`.
        penalty: On the slope of the discriminators: ``none``, ``r1`` or ``gradient`` (that of WGAN-GP).
        penalty_weight: Factor of the penalty, at least 0.
        classes: Names of the classes; empty for samples without labels.

    Raises:
        ValueError: A negative weight.
    """

    def __init__(self, loss: Loss, penalty: Penalty, penalty_weight: float, classes: Collection[str]) -> None:
        if not penalty_weight >= 0:
            raise ValueError(f"{self.name}: penalty_weight must be at least 0, got {penalty_weight}")
        self.loss, self.penalty, self.penalty_weight = loss, penalty, penalty_weight
        self.class_loss = CrossEntropy(tuple(classes))
        self.objectives = (
            Objective("real_fake", Adversarial(loss, "discriminator"), {}),
            *((Objective("real_class", self.class_loss, {}),) if classes else ()),
            Objective("adversarial", Adversarial(loss, "generator"), {}),
            *((Objective("fake_class", self.class_loss, {}),) if classes else ()),
        )

    def restrict(self, names: Collection[str]) -> Self:
        """As for other tasks; one adversarial objective becomes one per discriminator."""
        several = sorted((name for name in names if re.fullmatch(r"adversarial_\d+", name)), key=lambda n: int(n[12:]))
        task = copy.copy(self)
        task.objectives = tuple(
            replace(objective, name=name)
            for objective in self.objectives
            for name in (several if several and objective.name == "adversarial" else [objective.name])
        )
        return Task.restrict(task, names)

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """Losses of one player, without gradients for the networks of the other."""
        labels = batch.targets.get("real_class") if model.classes else None
        if phase == "discriminator":
            return self._discriminator(model, batch.inputs[0], labels)
        fake = model.generate(_noise(model, len(batch.inputs[0])), labels)
        outputs = model.heads(model.features(fake))
        losses = {name: generator_loss(self.loss, outputs[name]) for name in model.adversarial}
        if labels is not None:
            losses["fake_class"] = self.class_loss(outputs["fake_class"], labels)
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
            losses["real_class"] = self.class_loss(outputs["real_class"][: len(real)], labels)
        return losses, features

    def preprocess(self, path: Path) -> TensorData:
        """Raises DataError, as samples are generated."""
        raise DataError(f"task {self.name} generates samples and cannot read {path}; leave the input out")

    @torch.no_grad()
    def sample(self, model: Any, count: int, seed: int = 0) -> tuple[Tensor, list[str]]:
        """``count`` samples that follow from ``seed``, and the class of each, if there are any."""
        device = next(model.parameters()).device
        noise = fixed_noise(count, model.latent, device, torch.Generator().manual_seed(seed))
        if not model.classes:
            return model.generate(noise).float().cpu(), []
        labels = torch.arange(count, device=device) % model.classes
        names = [self.class_loss.classes[label] for label in labels.tolist()]
        return model.generate(noise, labels).float().cpu(), names

    def train_labels(self, splits: Splits) -> Mapping[str, Tensor]:
        """Classes of the real samples; the losses of the players depend on no label."""
        return {**{o.name: torch.empty(0) for o in self.objectives}, **splits.train_labels()}

    def results(self) -> dict[str, bool]:
        """Training losses and keys of :meth:`evaluate` -> whether higher is better."""
        return {ResultKey(objective.name, "loss").name: False for objective in self.objectives} | self.sample_results

    #: Keys of :meth:`evaluate` -> whether higher is better.
    sample_results: ClassVar[dict[str, bool]] = {}


def _noise(model: Any, count: int) -> Tensor:
    """Noise for this process's part of a batch.

    All processes draw that of the whole batch, from equal generators.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return model.noise(count)
    return model.noise(count * dist.get_world_size()).chunk(dist.get_world_size())[dist.get_rank()]


def fixed_noise(count: int, latent: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """(count, latent) standard normal numbers, by default from a new generator of seed 0.

    Torch's global generator, which training draws from, stays as it is.
    """
    return torch.randn(count, latent, generator=generator or torch.Generator().manual_seed(0)).to(device)
