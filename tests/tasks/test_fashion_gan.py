"""The fashion GAN task on made-up images, and the metrics of samples where their values are known."""

import math

import pytest
import torch

from tasks import DataError, fashion_gan, gan_metrics
from tasks.fashion_gan import FashionGan
from tasks.gan_metrics import Moments, frechet_distance, pixel_gaussian, trained_classifier


def stripes(count, seed):
    """Images whose class is the place of a bright column, with noise."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.randint(0, 60, (count, 28, 28), generator=random, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 + 2 * label : 4 + 2 * label] += 150
    return images, labels.to(torch.uint8)


class Replay(torch.nn.Module):
    """A generator that answers with given images."""

    latent, classes = 2, 10

    def __init__(self, images):
        super().__init__()
        self.images = torch.nn.Parameter(images, requires_grad=False)
        self.at = 0

    def generate(self, noise, labels=None):
        self.at += len(noise)
        return self.images[self.at - len(noise) : self.at]


def splits(folder, download):
    return stripes(500, 0), stripes(100, 1), stripes(100, 2)


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_gan, "fashion_splits", splits)
    made = FashionGan()
    made.splits(tmp_path)
    return made


def batches(part):
    return [part.batch(rows) for rows in torch.arange(len(part)).split(40)]


def test_images_are_scaled_like_generated_ones(task):
    assert [len(part) for part in task.splits()] == [500, 100, 100]
    images = task.splits().train.inputs[0]
    assert images.shape == (500, 1, 28, 28)
    assert images.min() == -1
    assert 0 < images.max() <= 1


def test_larger_images_have_a_black_margin(task, tmp_path):
    wide = FashionGan(image_size=33).splits(tmp_path).test.inputs[0]
    assert wide.shape[-2:] == (33, 33)
    assert torch.equal(wide[..., 2:30, 2:30], task.splits().test.inputs[0])
    assert (wide[..., :2] == -1).all()
    assert (wide[..., 30:] == -1).all()


def test_real_images_are_judged_to_be_real_and_collapse_is_seen(task):
    test = task.splits().test
    state = torch.get_rng_state()
    real = task.evaluate(Replay(test.inputs[0]), task.splits(), "test", batches(test))
    assert torch.equal(torch.get_rng_state(), state)
    assert set(real) == set(task.sample_results)
    assert real["samples/frechet"] == pytest.approx(0, abs=1e-6)
    assert real["samples/class_accuracy"] > 0.6
    one_class = test.inputs[0][test.targets["real_class"] == 3][:1].expand(100, 1, 28, 28)
    collapsed = task.evaluate(Replay(one_class), task.splits(), "test", batches(test))
    assert collapsed["samples/frechet"] > 1
    assert collapsed["samples/smallest_class"] == 0
    assert collapsed["samples/largest_class"] == 1
    linear = task.evaluate(
        Replay(pixel_gaussian(task.splits().train.inputs[0], 100)), task.splits(), "test", batches(test)
    )
    assert linear["samples/frechet_share"] == pytest.approx(1)


def test_what_never_changes_is_measured_once_and_kept(task, tmp_path, monkeypatch):
    test = task.splits().test
    first = task.evaluate(Replay(test.inputs[0].flip(0)), task.splits(), "test", batches(test))
    again = FashionGan()
    again.splits(tmp_path)
    with monkeypatch.context() as without:
        without.setattr(fashion_gan, "pixel_gaussian", None)
        assert again.evaluate(Replay(test.inputs[0].flip(0)), again.splits(tmp_path), "test", batches(test)) == first
        short = FashionGan()
        part = short.splits(tmp_path).truncate(100)  # other images: not those that were kept
        with pytest.raises(TypeError):
            short.evaluate(Replay(test.inputs[0]), part, "test", batches(test))
    (kept,) = (tmp_path / "classifiers").glob("real-test-*")
    kept.write_bytes(kept.read_bytes()[:-1])
    damaged = FashionGan()
    damaged.splits(tmp_path)
    with pytest.raises(DataError, match=f"{kept.name} is damaged"):
        damaged.evaluate(Replay(test.inputs[0]), damaged.splits(tmp_path), "test", batches(test))


def test_the_classifier_that_is_kept_learns_from_the_whole_set(task, tmp_path):
    short = FashionGan()
    assert [len(part) for part in short.splits(tmp_path).truncate(20)] == [20] * 3
    judge, test = short._classifier(), task.splits().test
    assert torch.equal(task._classifier()(test.inputs[0])[0], judge(test.inputs[0])[0])
    assert (judge(test.inputs[0])[1].argmax(1) == test.targets["real_class"]).float().mean() > 0.8


def test_the_sheet_has_a_column_for_each_class(task):
    images = torch.linspace(-1, 1, 80)[:, None, None, None].expand(80, 1, 28, 28).contiguous()
    (figure,) = task.pictures(Replay(images), task.splits().test).values()
    (sheet,) = figure.axes[0].images
    shown = sheet.get_array()
    assert shown.shape == (8 * 28, 10 * 28)
    assert shown[0, 28] == pytest.approx(images[1, 0, 0, 0].item())  # the second image is right of the first
    assert shown[28, 0] == pytest.approx(images[10, 0, 0, 0].item())


def test_labels_can_be_left_out():
    task = FashionGan(labels=False)
    assert task.info["classes"] == 0
    assert [objective.name for objective in task.objectives] == ["real_fake", "adversarial"]


@pytest.mark.parametrize("wrong", [{"image_size": 27}, {"loss": "lsgan"}, {"penalty": "r2"}, {"penalty_weight": -1.0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"fashion_gan: .*{next(iter(wrong))}"):
        FashionGan(**wrong)


def test_frechet_distance_has_its_closed_form_for_gaussians_with_the_same_axes():
    basis, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    a, b = torch.rand(2, 6, dtype=torch.float64) + 0.1
    mean = torch.randn(2, 6, dtype=torch.float64)
    first, second = (mean[0], basis * a @ basis.T), (mean[1], basis * b @ basis.T)
    expected = (mean[0] - mean[1]).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1)

    theirs = FrechetInceptionDistance(Flat())
    first, second = torch.rand(50, 3, 2, 2), torch.rand(60, 3, 2, 2).square()
    theirs.update(first, real=True)
    theirs.update(second, real=False)
    moments = Moments(), Moments()
    for found, images in zip(moments, (first, second), strict=True):
        for part in images.flatten(1).split(17):
            found.update(part)
    assert frechet_distance(*(found.compute() for found in moments)) == pytest.approx(theirs.compute().item(), rel=1e-4)


def test_moments_do_not_depend_on_batches():
    values = torch.randn(40, 3)
    found = Moments()
    for part in values.split(7):
        found.update(part)
    mean, covariance = found.compute()
    torch.testing.assert_close(mean, values.double().mean(0))
    torch.testing.assert_close(covariance, values.double().T.cov())
    with pytest.raises(ValueError, match="two samples"):
        Moments().compute()


def test_the_classifier_is_trained_once_and_kept_under_its_checksum(tmp_path, monkeypatch):
    images, labels = stripes(200, 0)
    images = images[:, None].float() / 127.5 - 1
    state = torch.get_rng_state()
    first = trained_classifier(tmp_path, "x", images, labels.long(), 10, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(gan_metrics, "_train", None)
    second = trained_classifier(tmp_path, "x", images, labels.long(), 10)
    assert all(torch.equal(a, b) for a, b in zip(first(images), second(images), strict=True))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged"):
        trained_classifier(tmp_path, "x", images, labels.long(), 10)


def test_the_linear_gaussian_has_the_moments_of_the_images():
    images = (torch.randn(2_000, 4) @ torch.randn(4, 4) * 0.05).view(2_000, 1, 2, 2)
    drawn = pixel_gaussian(images, 20_000)
    assert drawn.shape == (20_000, 1, 2, 2)
    torch.testing.assert_close(drawn.flatten(1).T.cov(), images.flatten(1).T.cov(), rtol=0.1, atol=1e-3)
    assert math.isclose(pixel_gaussian(images * 1e3, 10).abs().max().item(), 1.0)
