"""Criteria and metrics of maps, against loops over pixels written from their definitions."""

import math

import numpy as np
import pytest
import torch

from tasks.criteria import CrossEntropy
from tasks.dense_criteria import DepthError, NormalCosine, Segmentation, rarity_weights
from tasks.dense_metrics import MeanIoU, angles, depth_metrics, normal_metrics, segmentation_metrics

CLASSES = tuple("abcd")


def maps(seed=0, batch=5, size=(6, 7)):
    """Outputs and targets of three maps, with holes."""
    random = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=random)

    labels = torch.randint(-1, 4, (batch, *size), generator=random)
    depth = 0.5 + 4 * torch.rand(batch, 1, *size, generator=random)
    normals = torch.nn.functional.normalize(noise(batch, 3, *size), dim=1)
    hole = torch.rand(batch, *size, generator=random) < torch.linspace(0.1, 0.8, batch)[:, None, None]
    outputs = {
        "segmentation": noise(batch, 4, *size),
        "depth": depth * (0.5 * noise(batch, 1, *size)).exp(),
        "normals": torch.nn.functional.normalize(normals + 0.5 * noise(batch, 3, *size), dim=1),
    }
    depth, normals = depth.masked_fill(hole[:, None], 0), normals.masked_fill(hole[:, None], 0)
    return outputs, {"segmentation": labels, "depth": depth, "normals": normals}


CRITERIA = {"segmentation": Segmentation(CLASSES), "depth": DepthError(), "normals": NormalCosine()}
MEASURES = {
    "segmentation": lambda protocol: segmentation_metrics(4, protocol),
    "depth": depth_metrics,
    "normals": normal_metrics,
}


def results(name, outputs, targets, protocol="pooled", size=2):
    """All metrics of a map, in batches of ``size``."""
    found = {}
    for key, measure in MEASURES[name](protocol).items():
        metric = measure.make()
        for output, target in zip(outputs[name].split(size), targets[name].split(size), strict=True):
            metric.update(*CRITERIA[name].labelled_pairs(output, target))
        found[key] = float(metric.compute())
    return found


# ---- criteria --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "name"),
    [
        *((Segmentation(CLASSES, weights), "segmentation") for weights in (None, (1.0, 2.0, 3.0, 0.5))),
        *((DepthError(error), "depth") for error in ("l1", "l2", "log_l1")),
        (NormalCosine(), "normals"),
    ],
)
class TestEveryCriterion:
    def test_loss_times_count_adds_up_over_batches(self, criterion, name):
        outputs, targets = maps()
        output, target = outputs[name], targets[name]
        parts = [
            (criterion(o, t), criterion.num_labels(t)) for o, t in zip(output.split(2), target.split(2), strict=True)
        ]
        pooled = sum(loss * count for loss, count in parts) / sum(count for _, count in parts)
        torch.testing.assert_close(pooled, criterion(output, target))

    def test_unknown_pixels_get_no_gradient(self, criterion, name):
        outputs, targets = maps()
        output = outputs[name].requires_grad_()
        criterion(output, targets[name]).backward()
        known = targets[name] != -1 if name == "segmentation" else (targets[name] != 0).any(1)
        touched = (output.grad != 0).any(1)
        assert output.grad.isfinite().all()
        assert torch.equal(touched, known)

    def test_without_truth_the_loss_is_zero_and_still_connected(self, criterion, name):
        outputs, targets = maps()
        output = outputs[name].requires_grad_()
        loss = criterion(output, torch.full_like(targets[name], -1 if name == "segmentation" else 0))
        loss.backward()
        assert loss.item() == 0
        assert output.grad.abs().max() == 0
        predicted, actual = criterion.labelled_pairs(
            output, torch.full_like(targets[name], -1 if name == "segmentation" else 0)
        )
        assert len(predicted) == len(actual) == 0

    def test_16_bits_do_not_overflow(self, criterion, name):
        outputs, targets = maps(size=(200, 300))
        loss = criterion(outputs[name].half(), targets[name])
        torch.testing.assert_close(loss, criterion(outputs[name], targets[name]), rtol=1e-2, atol=1e-2)


def test_no_constant_beats_the_prior():
    _, targets = maps()
    depth, normals = targets["depth"], targets["normals"]
    for error, grid in (("l1", 200), ("l2", 200), ("log_l1", 200)):
        criterion = DepthError(error)
        scores = [float(criterion(torch.full_like(depth, c), depth)) for c in np.linspace(0.5, 4.5, grid)]
        assert criterion.constant_loss(depth) == pytest.approx(min(scores), rel=1e-2)
        assert criterion.constant_loss(depth) <= min(scores) + 1e-6
    directions = torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    scores = [float(NormalCosine()(d.view(1, 3, 1, 1).expand_as(normals), normals)) for d in directions]
    assert NormalCosine().constant_loss(normals) == pytest.approx(min(scores), abs=1e-2)
    assert NormalCosine().constant_loss(normals) <= min(scores)


def test_losses_before_training():
    depth = torch.tensor([2.0, 4.0, 0.0]).view(1, 1, 1, 3)
    assert DepthError("l1").untrained_loss(depth) == pytest.approx(3)
    assert DepthError("l2").untrained_loss(depth) == pytest.approx(10)
    assert DepthError("log_l1").untrained_loss(depth) == pytest.approx(math.log(8) / 2)
    assert NormalCosine().untrained_loss(torch.zeros(1, 3, 2, 2)) == 1
    assert Segmentation(CLASSES, (1.0, 2.0, 3.0, 4.0)).untrained_loss(torch.tensor([0, 1])) == pytest.approx(
        math.log(4)
    )


def test_equal_weights_change_nothing():
    outputs, targets = maps()
    plain = CrossEntropy(CLASSES)
    for criterion in (Segmentation(CLASSES), Segmentation(CLASSES, (2.0,) * 4)):
        loss = criterion(outputs["segmentation"], targets["segmentation"])
        torch.testing.assert_close(loss, plain(outputs["segmentation"], targets["segmentation"]))
        assert criterion.constant_loss(targets["segmentation"]) == pytest.approx(
            plain.constant_loss(targets["segmentation"])
        )


def test_class_weights_are_those_of_torch():
    outputs, targets = maps()
    weights = (1.0, 2.0, 3.0, 0.5)
    expected = torch.nn.functional.cross_entropy(
        outputs["segmentation"], targets["segmentation"], torch.tensor(weights), ignore_index=-1
    )
    torch.testing.assert_close(
        Segmentation(CLASSES, weights)(outputs["segmentation"], targets["segmentation"]), expected
    )


def test_rare_classes_weigh_more():
    labels = torch.tensor([0] * 64 + [1] * 16 + [2] * 4 + [-1] * 9)
    weights = rarity_weights(labels, 4)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert weights[2] / weights[0] == pytest.approx(4)
    assert weights[3] == weights[2]  # never seen
    assert (64 * weights[0] + 16 * weights[1] + 4 * weights[2]) / 84 == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DepthError("l3"), "l1, l2, log_l1 or huber"),
        (lambda: Segmentation(CLASSES, (1.0,)), "each of 4 classes"),
        (lambda: Segmentation(CLASSES, (1.0, 0.0, 1.0, 1.0)), "positive"),
        (lambda: rarity_weights(torch.tensor([-1]), 3), "unknown"),
        (lambda: DepthError()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2)), "same shape"),
        (lambda: NormalCosine()(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 1)), "same shape"),
        (lambda: depth_metrics("mean"), "pooled or mtan"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEASURES)
def test_the_size_of_batches_does_not_matter(name):
    outputs, targets = maps()
    whole = results(name, outputs, targets, size=5)
    for size in (1, 2):
        assert results(name, outputs, targets, size=size) == pytest.approx(whole, rel=1e-5)


def test_segmentation_by_hand():
    outputs, targets = maps()
    predicted, actual = outputs["segmentation"].argmax(1).numpy(), targets["segmentation"].numpy()
    known = actual >= 0
    ious = [
        ((predicted == c) & (actual == c) & known).sum() / (((predicted == c) | (actual == c)) & known).sum()
        for c in range(4)
    ]
    found = results("segmentation", outputs, targets)
    assert found == pytest.approx({"miou": np.mean(ious), "pixel_accuracy": (predicted == actual)[known].mean()})
    assert results("segmentation", outputs, targets, "mtan") == found


def test_classes_that_never_occur_are_left_out():
    predicted, actual = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    pooled, mtan = MeanIoU(4), MeanIoU(4, "mtan")
    for metric in (pooled, mtan):
        metric.update(predicted, actual)
        assert metric.absent == [2, 3]
    assert float(pooled.compute()) == pytest.approx(0.5)
    assert math.isnan(mtan.compute())


def depth_by_hand(outputs, targets):
    p, g = (tensor.numpy().astype(np.float64) for tensor in (outputs, targets))
    p, g = p[g > 0], g[g > 0]
    ratio = np.maximum(p / g, g / p)
    return {
        "abs_err": np.abs(p - g).mean(),
        "rel_err": (np.abs(p - g) / g).mean(),
        "rmse": np.sqrt(((p - g) ** 2).mean()),
        **{f"delta{k}": (ratio < 1.25**k).mean() for k in (1, 2, 3)},
    }


def normals_by_hand(outputs, targets):
    p, g = (tensor.numpy().astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 3) for tensor in (outputs, targets))
    degrees = np.degrees(np.arccos(np.clip((p * g).sum(1), -1, 1)))[(g != 0).any(1)]
    return {
        "mean": degrees.mean(),
        "median": np.median(degrees),
        "within_11_25": (degrees < 11.25).mean(),
        "within_22_5": (degrees < 22.5).mean(),
        "within_30": (degrees < 30).mean(),
    }


BY_HAND = {"depth": depth_by_hand, "normals": normals_by_hand}


@pytest.mark.parametrize("name", BY_HAND)
def test_pooled_metrics_by_hand(name):
    outputs, targets = maps()
    assert results(name, outputs, targets) == pytest.approx(
        BY_HAND[name](outputs[name], targets[name]), rel=1e-4, abs=1e-3
    )


@pytest.mark.parametrize("name", BY_HAND)
def test_mtan_averages_what_it_finds_in_each_batch(name):
    outputs, targets = maps()
    pairs = zip(outputs[name].split(2), targets[name].split(2), strict=True)
    batches = [BY_HAND[name](output, target) for output, target in pairs]
    expected = {key: np.mean([batch[key] for batch in batches]) for key in batches[0]}
    found = results(name, outputs, targets, "mtan")
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert found != pytest.approx(results(name, outputs, targets), rel=1e-3)


def test_mtan_takes_normals_that_add_up_to_zero_for_unknown():
    normal = torch.tensor([[0.5**0.5, -(0.5**0.5), 0.0], [0.0, 0.0, 1.0]])
    wrong = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    found = {}
    for protocol in ("pooled", "mtan"):
        metric = normal_metrics(protocol)["mean"].make()
        metric.update(wrong, normal)
        found[protocol] = float(metric.compute())
    assert found == pytest.approx({"pooled": 45.0, "mtan": 0.0}, abs=1e-3)


def test_angles_are_exact_at_both_ends_and_need_no_length():
    normal = torch.tensor([[0.0, 0.6, 0.8]]).expand(4, 3)
    other = torch.stack([3 * normal[0], -normal[0], torch.zeros(3), torch.tensor([1.0, 0.0, 0.0])])
    torch.testing.assert_close(angles(other, normal), torch.tensor([0.0, 180.0, 90.0, 90.0]), rtol=0, atol=1e-5)
    tiny = torch.tensor([[1e-4, 0.0, 1.0]])
    torch.testing.assert_close(angles(tiny, torch.tensor([[0.0, 0.0, 1.0]])), torch.tensor([math.degrees(1e-4)]))


def test_depths_that_are_not_positive_are_never_close():
    metric = depth_metrics()["delta3"].make()
    metric.update(torch.tensor([0.0, -2.0, 2.0, math.nan]), torch.full((4,), 2.0))
    assert float(metric.compute()) == 0.25


def test_directions_that_are_not_numbers_do_not_hide():
    bad = torch.full((2, 3), math.nan)
    measures = normal_metrics()
    found = {}
    for name in ("mean", "median", "within_30"):
        metric = measures[name].make()
        metric.update(bad, torch.tensor([[0.0, 0.0, 1.0]] * 2))
        found[name] = float(metric.compute())
    assert math.isnan(found["mean"])
    assert found["median"] == 180
    assert found["within_30"] == 0


@pytest.mark.parametrize("protocol", ["pooled", "mtan"])
def test_directions_of_improvement(protocol):
    better = {
        **{key: measure.make().higher_is_better for key, measure in depth_metrics(protocol).items()},
        **{key: measure.make().higher_is_better for key, measure in normal_metrics(protocol).items()},
        **{key: measure.make().higher_is_better for key, measure in segmentation_metrics(4, protocol).items()},
    }
    lower = {"abs_err", "rel_err", "rmse", "mean", "median"}
    assert better == {key: key not in lower for key in better}
