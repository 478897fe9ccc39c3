"""The ring of eight Gaussians: a discriminator of packed samples notices missing modes.

    vanilla   D(x) -> real or generated?
    packed    D(x, x') -> both real, or both generated?

PacGAN reports 6.3 modes of 8 for the GAN and 7.9 for packs of two, VEEGAN 1.0 for another GAN: networks and learning rates
decide, and 400,000 updates of PacGAN's take hours. So only the order is checked, after 3,000 updates of the small networks of
``gan_points`` (2 layers of 128 units, noise of size 2, batches of 128 points, so 64 packs, non-saturating loss, no penalty).

In a trial with equal learning rates the vanilla GAN reached all eight, too. As in the notebook of
Unrolled GAN, where the factor is 10, the generator learns faster here, 1e-3 against 2e-4, which makes the vanilla GAN collapse.
A mode counts if one of 2,500 samples is within three deviations of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tasks import TensorData
from tasks.gan_losses import discriminator_loss, generator_loss
from tasks.gan_metrics import mode_coverage
from tasks.gaussians import RingOfGaussians
from zoo.gan import PointGAN

SIZES = {"classes": 0, "width": 128, "depth": 2}
LATENT, BATCH, STEPS = 2, 128, 3000
RATES = {"generator": 1e-3, "discriminator": 2e-4}


def modes(task: RingOfGaussians, pack: int, seed: int, steps: int) -> float:
    """Modes that a generator covers against a discriminator of ``pack`` samples at once."""
    torch.manual_seed(seed)
    generator = PointGAN(in_features=2, latent=LATENT, **SIZES).generator
    discriminator = PointGAN(in_features=2 * pack, **SIZES).discriminators[0]
    making = torch.optim.Adam(generator.parameters(), RATES["generator"], betas=(0.5, 0.999))
    judging = torch.optim.Adam(discriminator.parameters(), RATES["discriminator"], betas=(0.5, 0.999))
    data = task.splits().train
    assert isinstance(data, TensorData)
    (points,) = data.inputs

    def generate(count: int) -> Tensor:
        return generator(torch.randn(count, LATENT))

    for _ in range(steps):
        real = points[torch.randint(len(points), (BATCH,))].view(-1, 2 * pack)
        with torch.no_grad():
            fake = generate(BATCH).view(-1, 2 * pack)
        judging.zero_grad()
        discriminator_loss("bce", *discriminator(torch.cat([real, fake])).chunk(2)).backward()
        judging.step()
        making.zero_grad()
        generator_loss("bce", discriminator(generate(BATCH).view(-1, 2 * pack))).backward()
        making.step()
    with torch.no_grad():
        return mode_coverage(generate(2500), task.centers, 3 * task.std)["modes"]


def run(seed: int, folder: Path, steps: int = STEPS) -> dict[str, float]:
    """Both discriminators on the same points."""
    task = RingOfGaussians()
    return order(modes(task, 1, seed, steps), modes(task, 2, seed, steps))


def order(vanilla: float, packed: float) -> dict[str, float]:
    """Both numbers of modes, and 1 if packing finds more."""
    return {"packing finds more modes": float(packed > vanilla), "modes, vanilla": vanilla, "modes, packed": packed}


RUNS = {"ring_ordering": run}
