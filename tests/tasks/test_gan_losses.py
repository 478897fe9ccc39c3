"""Losses of GANs in closed form, and penalties on discriminators whose slope is known."""

import math

import pytest
import torch

from tasks.gan_losses import discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from tasks.gan_task import Adversarial

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        (
            "bce",
            -(math.log(sigmoid(2)) + math.log(sigmoid(-1)) + math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(-3)))
            / 2,
            -(math.log(sigmoid(0.5)) + math.log(sigmoid(-3))) / 2,
        ),
        ("hinge", (0 + 2) / 2 + (1.5 + 0) / 2, 1.25),
        ("wgan", -1.25 - 0.5, 1.25),
    ],
)
def test_losses_have_their_closed_forms(loss, discriminator, generator):
    assert discriminator_loss(loss, REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-5)
    assert generator_loss(loss, FAKE).item() == pytest.approx(generator, rel=1e-5)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([1e4, -1e4], requires_grad=True)
    (discriminator_loss("bce", logits, logits) + generator_loss("bce", logits)).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", ["bce", "hinge", "wgan"])
def test_losses_of_half_precision_logits_are_float32(loss):
    assert discriminator_loss(loss, REAL.bfloat16(), FAKE.bfloat16()).dtype == torch.float32
    assert generator_loss(loss, FAKE.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    "function", [lambda name: discriminator_loss(name, REAL, FAKE), lambda name: generator_loss(name, FAKE)]
)
def test_an_unknown_loss_is_refused(function):
    with pytest.raises(ValueError, match="loss must be bce, hinge or wgan"):
        function("lsgan")


@pytest.mark.parametrize("shape", [(5, 2), (5, 1, 4, 4)])
def test_penalties_of_a_linear_discriminator_are_functions_of_its_slope(shape):
    weight = torch.randn(math.prod(shape[1:]), requires_grad=True)
    slope = weight.detach().norm()
    real, fake = torch.randn(shape), torch.randn(shape)

    def critic(x):
        return x.flatten(1) @ weight

    torch.testing.assert_close(r1_penalty(critic, real), slope.square() / 2)
    torch.testing.assert_close(gradient_penalty(critic, real, fake), (slope - 1).square())
    (gradient,) = torch.autograd.grad(r1_penalty(critic, real), weight)
    torch.testing.assert_close(gradient, weight.detach())
    (gradient,) = torch.autograd.grad(gradient_penalty(critic, real, fake), weight)
    torch.testing.assert_close(gradient, 2 * (slope - 1) * weight.detach() / slope)


def test_the_gradient_penalty_looks_between_real_and_generated_samples():
    seen = []
    gradient_penalty(lambda x: seen.append(x.detach()) or x.sum(1), torch.zeros(100, 3), torch.ones(100, 3))
    assert (seen[0] == seen[0][:, :1]).all()  # one share for a whole sample
    assert 0 <= seen[0].min() < 0.2
    assert 0.8 < seen[0].max() <= 1


def test_a_flat_discriminator_has_finite_gradients():
    weight = torch.zeros(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        gradient_penalty(lambda x: x @ weight, torch.randn(4, 2), torch.randn(4, 2)), weight
    )
    assert gradient.isfinite().all()


def test_a_penalty_can_be_looked_at_without_recording_gradients():
    weight = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        value = r1_penalty(lambda x: x @ weight, torch.randn(4, 2))
    assert value.item() == pytest.approx(1.0)
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("loss", "player", "initial"),
    [
        ("bce", "discriminator", 2 * math.log(2)),
        ("bce", "generator", math.log(2)),
        ("hinge", "discriminator", 2.0),
        ("hinge", "generator", 0.0),
        ("wgan", "discriminator", 0.0),
    ],
)
def test_criterion_knows_the_loss_of_an_untrained_player(loss, player, initial):
    criterion = Adversarial(loss, player)
    assert criterion.untrained_loss(torch.empty(0)) == pytest.approx(initial)
    assert criterion.constant_loss(torch.empty(0)) == pytest.approx(initial)


def test_criterion_tells_the_players_apart():
    output, target = torch.cat([REAL, FAKE]), torch.tensor([1, 1, 0, 0])
    assert Adversarial("hinge", "discriminator")(output, target) == discriminator_loss("hinge", REAL, FAKE)
    assert Adversarial("hinge", "generator")(output, target) == generator_loss("hinge", FAKE)
    taken_for, actual = Adversarial("bce", "discriminator").labelled_pairs(output, target)
    assert (taken_for.tolist(), actual.tolist()) == ([1, 0, 1, 0], [1, 1, 0, 0])
