"""Rings and grids of Gaussians: where the modes are, and how samples are judged."""

import math

import pytest
import torch

from tasks import create_task
from tasks.gan_metrics import mode_coverage
from tasks.gaussians import GridOfGaussians, RingOfGaussians
from zoo import create_model


class Replay:
    """A generator that answers with given points."""

    latent, classes = 2, 0

    def __init__(self, points):
        self.points = points

    def generate(self, noise, labels=None):
        return self.points[: len(noise)]


@pytest.fixture(params=["ring_of_gaussians", "grid_of_gaussians"])
def task(request):
    return create_task(request.param, samples=2_000)


def test_the_centers_are_where_they_should_be():
    ring = RingOfGaussians(modes=8, radius=2.0).centers
    torch.testing.assert_close(ring.norm(dim=1), torch.full((8,), 2.0, dtype=torch.float64))
    assert torch.pdist(ring).min().item() == pytest.approx(4 * math.sin(math.pi / 8))
    grid = GridOfGaussians(side=5, spacing=0.5).centers
    assert grid.shape == (25, 2)
    assert grid.mean(0).abs().max() < 1e-12
    assert torch.pdist(grid).min().item() == pytest.approx(0.5)


def test_real_points_find_every_mode_and_almost_all_are_good(task):
    splits = task.splits()
    assert [len(part) for part in splits] == [2_000, 2_500, 2_500]
    found = mode_coverage(splits.test.inputs[0], task.centers, 3 * task.std)
    assert found["modes"] == len(task.centers)
    assert found["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)  # a Rayleigh variable below 3
    assert found["reverse_kl"] < 0.02


def test_the_points_never_change():
    points = RingOfGaussians(samples=3).splits().train.inputs[0]
    expected = torch.tensor([[-0.998815, 0.00114], [0.710809, -0.696701], [-0.722277, -0.71577]])
    torch.testing.assert_close(points, expected, rtol=0, atol=2e-6)


def test_labels_say_which_mode_a_point_comes_from():
    task = RingOfGaussians(labels=True, samples=50)
    assert task.info["classes"] == 8
    part = task.splits().train
    nearest = torch.cdist(part.inputs[0].double(), task.centers).argmin(1)
    assert torch.equal(nearest, part.targets["real_class"])
    assert torch.equal(nearest, part.targets["fake_class"])
    assert task.prior_losses(task.splits())["fake_class"] == pytest.approx(math.log(8), rel=0.1)
    assert task.initial_losses(task.splits())["real_fake"] == pytest.approx(2 * math.log(2))


def test_modes_are_counted():
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    points = torch.tensor([[0.0, 0.05], [0.05, 0.0], [1.0, 0.0], [0.5, 0.5]])
    found = mode_coverage(points, centers, 0.1)
    assert found["modes"] == 2
    assert found["high_quality"] == 0.75
    assert found["reverse_kl"] == pytest.approx(2 / 3 * math.log(2) + 1 / 3 * math.log(1))
    nothing = mode_coverage(points + 10, centers, 0.1)
    assert nothing == {"modes": 0.0, "high_quality": 0.0, "reverse_kl": math.inf}


def test_an_evaluation_says_how_many_modes_a_generator_finds(task):
    val = task.splits().val
    batches = [val.batch(rows) for rows in torch.arange(len(val)).split(1_000)]
    state = torch.get_rng_state()
    whole = task.evaluate(Replay(val.inputs[0]), task.splits(), "val", batches)
    assert set(whole) == set(task.sample_results)
    assert whole["samples/modes"] == len(task.centers)
    collapsed = task.evaluate(Replay(task.centers[:1].float().expand(2_500, 2)), task.splits(), "val", batches)
    assert collapsed["samples/modes"] == 1
    assert collapsed["samples/high_quality"] == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_results_name_training_losses_and_what_an_evaluation_finds(task):
    assert task.results() == {
        "real_fake/loss": False,
        "adversarial/loss": False,
        "samples/modes": True,
        "samples/high_quality": True,
        "samples/reverse_kl": False,
    }


def test_a_task_takes_over_the_adversaries_of_its_model():
    task = RingOfGaussians()
    task = task.restrict(("real_fake", "adversarial_1", "adversarial_2"))
    assert [objective.name for objective in task.objectives] == ["real_fake", "adversarial_1", "adversarial_2"]


def test_the_picture_shows_the_points(task):
    val = task.splits().val
    (figure,) = task.pictures(Replay(val.inputs[0]), val).values()
    assert [len(cloud.get_offsets()) for cloud in figure.axes[0].collections] == [2_500, 2_500]


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (RingOfGaussians, {"modes": 1}),
        (RingOfGaussians, {"radius": 0.0}),
        (RingOfGaussians, {"std": -1.0}),
        (RingOfGaussians, {"samples": 0}),
        (RingOfGaussians, {"loss": "lsgan"}),
        (GridOfGaussians, {"side": 1}),
        (GridOfGaussians, {"spacing": 0.0}),
        (GridOfGaussians, {"penalty": "r2"}),
        (GridOfGaussians, {"penalty_weight": -1.0}),
    ],
)
def test_impossible_options_are_refused(make, wrong):
    with pytest.raises(ValueError, match=f"of_gaussians: .*{next(iter(wrong))}"):
        make(**wrong)


@pytest.mark.parametrize(("loss", "penalty"), [("bce", "r1"), ("hinge", "none"), ("wgan", "gradient")])
def test_losses_of_both_turns_are_finite(loss, penalty):
    task, model = (
        RingOfGaussians(loss=loss, penalty=penalty, samples=16),
        create_model("gan_points", in_features=2, classes=0, width=8),
    )
    batch = task.splits().train.batch(torch.arange(16))
    for phase in model.phases:
        losses, _ = task.losses(model, batch, phase.name)
        assert tuple(losses) == phase.objectives
        assert all(loss.isfinite() and loss.requires_grad for loss in losses.values())
