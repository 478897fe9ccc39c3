"""Losses of the two players of a GAN, and penalties on the slope of a discriminator.

Logits are large for samples taken to be real. With s the sigmoid:

    loss    discriminator                                generator
    bce     -log s(D(real)) - log(1 - s(D(fake)))        -log s(D(fake))     Goodfellow et al., NeurIPS 2014 (non-saturating)
    hinge   max(0, 1 - D(real)) + max(0, 1 + D(fake))    -D(fake)            Lim and Ye, 2017; Miyato et al., ICLR 2018
    wgan    D(fake) - D(real)                            -D(fake)            Arjovsky et al., ICML 2017

    penalty   added to the discriminator's loss
    r1        weight / 2 E |grad D(real)|^2              Mescheder et al., ICML 2018; with any loss
    gradient  weight E (|grad D(between)| - 1)^2         Gulrajani et al. (WGAN-GP), NeurIPS 2017; what wgan needs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from balancing.choices import check_choices

Loss = Literal["bce", "hinge", "wgan"]
Critic = Callable[[Tensor], Tensor]


@check_choices()
def discriminator_loss(loss: Loss, real: Tensor, fake: Tensor) -> Tensor:
    """Mean loss of the logits of real and of generated samples, each of any shape."""
    real, fake = real.float(), fake.float()  # a mean in half precision has three digits
    if loss == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()


@check_choices()
def generator_loss(loss: Loss, fake: Tensor) -> Tensor:
    """Mean loss of the logits of generated samples, of any shape."""
    fake = fake.float()
    return F.softplus(-fake).mean() if loss == "bce" else -fake.mean()


def r1_penalty(discriminator: Critic, real: Tensor) -> Tensor:
    """Half the mean squared slope of the (B,) logits at real samples (B, ...)."""
    return _squared_slopes(discriminator, real).mean() / 2


def gradient_penalty(discriminator: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Mean squared difference to 1 of the slope of the (B,) logits.

    It is taken at random points between real and generated samples (B, ...).
    """
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    slopes = (_squared_slopes(discriminator, real.lerp(fake, share)) + 1e-12).sqrt()  # a root has no derivative at 0
    return (slopes - 1).square().mean()


def _squared_slopes(discriminator: Critic, points: Tensor) -> Tensor:
    """(B,) squared gradient lengths at ``points``, with a graph only if gradients are enabled."""
    recording = torch.is_grad_enabled()
    # second derivatives lose too much in half precision
    with torch.enable_grad(), torch.autocast(points.device.type, enabled=False):
        points = points.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(points).sum(), points, create_graph=recording)
        return gradient.flatten(1).square().sum(1)
