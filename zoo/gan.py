"""Generative adversarial networks, with one or several discriminators and a classifier.

Two players, two phases. The discriminators learn to tell real samples from generated ones, and the first of them also learns
the classes of the real ones. The generator learns to pass as real with each discriminator, and to make samples of the given
class. Its losses conflict in the same weights, and a balancer acts there; with several discriminators they are many.

    noise (B, latent), labels (B,) -> generator -> x (B, channels, size, size) in [-1, 1], or points (B, in_features)
    x -> body of discriminator k -> features k (B, F) |-> Linear -> real or generated? (B,)   each discriminator
                                                      |-> Linear -> logits (B, classes)       the first, if there are classes

Phase ``discriminator``: ``real_fake`` (all discriminators; they share nothing) and ``real_class``. Phase ``generator``:
``adversarial``, or ``adversarial_1`` ... with several discriminators, and ``fake_class``. The model applied to samples gives
the discriminators' logits under the name of every loss that reads them.
Shared parameters: the generator; the body of the first discriminator. Features for ``at="features"``: the outputs of the
bodies in the first phase, the generated samples in the second.
Origin: Goodfellow et al., NeurIPS 2014; the image networks: Radford et al. (DCGAN), ICLR 2016; the classifier: Odena et al.
(AC-GAN), ICML 2017; spectral normalization: Miyato et al., ICLR 2018; several discriminators: Durugkar et al. (GMAN), ICLR
2017, and as a multi-objective problem Albuquerque et al., ICML 2019. Differs from AC-GAN: the classifier learns from real
samples only.

    model = create_model("gan", in_channels=1, image_size=28, classes=10)
    images = model.generate(model.noise(64), labels)                 # (64, 1, 28, 28)
    logits = model(images)                                           # {"real_fake": (64, 1), "fake_class": (64, 10), ...}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalized

from balancing.protocol import Phase
from zoo.base import BaseModel
from zoo.checks import check_at_least
from zoo.registry import ModelInfo, register_model

Wrap = Callable[[nn.Module], nn.Module]


class _Generator(nn.Module):
    """Noise, and the label as an indicator, to samples."""

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.body, self.classes = body, classes

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.classes:
            if labels is None:
                raise ValueError(f"a generator of {self.classes} classes needs a label for every sample")
            noise = torch.cat([noise, F.one_hot(labels, self.classes).to(noise)], 1)
        return self.body(noise)


class _Discriminator(nn.Module):
    """A body, a linear layer for real or generated and, with ``classes``, one for the class."""

    def __init__(self, body: nn.Module, width: int, classes: int, wrap: Wrap) -> None:
        super().__init__()
        self.body = body
        self.real = wrap(nn.Linear(width, 1))
        self.label: nn.Module = nn.Linear(width, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B,) logits of being real; ``at="features"`` takes body and head apart."""
        return self.real(self.body(x)).squeeze(1)


class _AdversarialModel(BaseModel):
    """What both kinds of GAN have in common; see the top of this file, and :class:`GAN`."""

    def __init__(
        self,
        generator: _Generator,
        discriminators: Sequence[_Discriminator],
        latent: int,
        classes: int,
        discriminator_steps: int,
    ) -> None:
        super().__init__()
        self.generator, self.discriminators = generator, nn.ModuleList(discriminators)
        self.latent, self.classes, self.discriminator_steps = latent, classes, discriminator_steps
        count = len(discriminators)
        self.adversarial = tuple(f"adversarial_{k + 1}" for k in range(count)) if count > 1 else ("adversarial",)
        self.objectives = tuple(name for phase in self.phases for name in phase.objectives)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The discriminators' phase, then the generator's."""
        real, fake = (("real_class",), ("fake_class",)) if self.classes else ((), ())
        return (
            Phase("discriminator", ("real_fake", *real), ("discriminator",), self.discriminator_steps),
            Phase("generator", (*self.adversarial, *fake), ("generator",)),
        )

    @property
    def _players(self) -> list[_Discriminator]:
        return cast(list[_Discriminator], list(self.discriminators))

    def noise(self, count: int) -> Tensor:
        """(count, latent) standard normal numbers of the global generator, on the model's device."""
        return torch.randn(count, self.latent, device=next(self.parameters()).device)

    def generate(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Noise (B, latent) and labels (B,) -> samples. Raises ValueError if labels are missing."""
        return self.generator(noise, labels)

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Samples -> (B, F) of each discriminator."""
        return tuple(discriminator.body(x) for discriminator in self._players)

    def heads(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """(B, F) of each discriminator -> its logits, by objective.

        ``real_fake`` has a column for each discriminator.
        """
        logits = torch.cat([d.real(f) for d, f in zip(self._players, features, strict=True)], 1)
        outputs = {"real_fake": logits, **dict(zip(self.adversarial, logits.unbind(1), strict=True))}
        if self.classes:
            outputs["real_class"] = outputs["fake_class"] = self._players[0].label(features[0])
        return {name: outputs[name] for name in self.objectives}

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that several objectives of one phase reach."""
        bodies = list(self._players[0].body.parameters()) if self.classes else []
        return bodies + (list(self.generator.parameters()) if len(self.phases[1].objectives) > 1 else [])

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that ``name`` alone reaches, among those that its phase updates."""
        shared = set(self.shared_parameters())
        label = list(self._players[0].label.parameters())
        if name in self.phases[1].objectives:
            reached = list(self.generator.parameters())
        elif name == "real_class":
            reached = label
        else:
            reached = [p for p in self.discriminators.parameters() if all(p is not other for other in label)]
        return [parameter for parameter in reached if parameter not in shared]

    def networks(self) -> dict[str, nn.Module]:
        """The two players, for an optimizer each."""
        return {"discriminator": self.discriminators, "generator": self.generator}


def _sizes(image_size: int) -> list[int]:
    """Sides from the image down to fewer than 8 pixels, halved and rounded down: 28, 14, 7."""
    sizes = [image_size]
    while sizes[-1] >= 8:
        sizes.append(sizes[-1] // 2)
    return sizes


def _check_classes(model: str, classes: int) -> None:
    if classes < 0 or classes == 1:
        raise ValueError(f"{model}: classes must be 0, or 2 or more, got {classes}")


@register_model(
    "gan",
    ModelInfo(
        summary="DCGAN with an auxiliary classifier and one or several discriminators, for images of any size",
        inputs="x (B, in_channels, image_size, image_size) in [-1, 1]",
        objectives="real_fake, real_class | adversarial (one per discriminator), fake_class",
        default_task="fashion_gan",
        origin="Radford et al., ICLR 2016; Odena et al., ICML 2017; Albuquerque et al., ICML 2019",
    ),
)
class GAN(_AdversarialModel):
    """DCGAN for square images.

    Args:
        in_channels: Channels of an image.
        image_size: Side of an image in pixels, at least 8.
        classes: Number of classes; 0 for a GAN without classifier.
        latent: Size of the noise.
        width: Channels at half the image's size; they double each time the image is halved.
        discriminators: How many play against the generator; they differ in their first weights.
        discriminator_steps: Updates of the discriminators for one of the generator.
        spectral_norm: Divide the weights of each layer of a discriminator by their largest singular value. Leave it out with a
            gradient penalty. Discriminators have no BatchNorm, as real and generated samples would mix in it.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        classes: int,
        latent: int = 64,
        width: int = 32,
        discriminators: int = 1,
        discriminator_steps: int = 1,
        spectral_norm: bool = True,
    ) -> None:
        check_at_least("gan", 1, in_channels=in_channels, latent=latent, width=width)
        check_at_least("gan", 1, discriminators=discriminators, discriminator_steps=discriminator_steps)
        check_at_least("gan", 8, image_size=image_size)
        _check_classes("gan", classes)
        sizes = _sizes(image_size)
        channels = [in_channels] + [width * 2**stage for stage in range(len(sizes) - 1)]
        numbers = channels[-1] * sizes[-1] ** 2
        wrap: Wrap = normalized if spectral_norm else lambda module: module

        up: list[nn.Module] = [
            nn.Linear(latent + classes, numbers, bias=False),
            nn.BatchNorm1d(numbers),
            nn.ReLU(),
            nn.Unflatten(1, (channels[-1], sizes[-1], sizes[-1])),
        ]
        for stage in range(len(sizes) - 1, 0, -1):
            last = stage == 1
            odd = sizes[stage - 1] % 2
            up.append(nn.ConvTranspose2d(channels[stage], channels[stage - 1], 4, 2, 1, odd, bias=last))
            up += [nn.Tanh()] if last else [nn.BatchNorm2d(channels[stage - 1]), nn.ReLU()]

        def discriminator(classes: int) -> _Discriminator:
            down: list[nn.Module] = []
            for a, b in pairwise(channels):
                down += [wrap(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
            return _Discriminator(nn.Sequential(*down, nn.Flatten()), numbers, classes, wrap)

        players = [discriminator(classes if k == 0 else 0) for k in range(discriminators)]
        super().__init__(_Generator(nn.Sequential(*up), classes), players, latent, classes, discriminator_steps)


@register_model(
    "gan_points",
    ModelInfo(
        summary="GAN of two MLPs, for points in the plane",
        inputs="x (B, in_features)",
        objectives="real_fake | adversarial (one per discriminator), and with classes real_class | fake_class",
        default_task="ring_of_gaussians",
        origin="Goodfellow et al., NeurIPS 2014; Metz et al., ICLR 2017",
    ),
)
class PointGAN(_AdversarialModel):
    """MLPs against each other, for points in the plane or vectors of any length.

    Args:
        in_features: Numbers in a sample.
        classes: Number of classes; 0 for a GAN without classifier.
        latent: Size of the noise.
        width: Units of every hidden layer.
        depth: Hidden layers of each network, at least 1.
        discriminators: How many play against the generator; they differ in their first weights.
        discriminator_steps: Updates of the discriminators for one of the generator.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        latent: int = 16,
        width: int = 128,
        depth: int = 3,
        discriminators: int = 1,
        discriminator_steps: int = 1,
    ) -> None:
        check_at_least("gan_points", 1, in_features=in_features, latent=latent, width=width, depth=depth)
        check_at_least("gan_points", 1, discriminators=discriminators, discriminator_steps=discriminator_steps)
        _check_classes("gan_points", classes)

        def layers(inputs: int) -> list[nn.Module]:
            widths = [inputs] + [width] * depth
            return [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]

        generator = nn.Sequential(*layers(latent + classes), nn.Linear(width, in_features))
        players = [
            _Discriminator(nn.Sequential(*layers(in_features)), width, classes if k == 0 else 0, lambda module: module)
            for k in range(discriminators)
        ]
        super().__init__(_Generator(generator, classes), players, latent, classes, discriminator_steps)
