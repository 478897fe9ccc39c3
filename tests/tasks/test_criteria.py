"""Criteria: values, masks, and the losses they expect."""

import math

import pytest
import torch

from tasks import Batch, CrossEntropy, SquaredError, create_task, list_tasks, register_task
from tasks.task import Task, TensorData

CLASSES = ("x", "y", "z")


def test_cross_entropy_is_the_mean_over_present_labels():
    logits, labels = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 1, -1, 2, -1, 1])
    loss = CrossEntropy(CLASSES)(logits, labels)
    known = labels >= 0
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[known], labels[known]))
    assert CrossEntropy(CLASSES).num_labels(labels) == 4


def test_squared_error_is_the_mean_over_present_values():
    output = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
    target = torch.tensor([[2.0], [math.nan], [2.0]])
    loss = SquaredError()(output, target)
    assert loss.item() == 5.0
    loss.backward()
    assert output.grad.flatten().tolist() == [-1.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ("criterion", "output", "target"),
    [
        (CrossEntropy(CLASSES), torch.randn(4, 3), torch.full((4,), -1)),
        (SquaredError(), torch.randn(4, 1), torch.full((4, 1), math.nan)),
    ],
)
def test_without_labels_the_loss_is_zero_and_still_connected(criterion, output, target):
    output.requires_grad_()
    loss = criterion(output, target)
    loss.backward()
    assert loss.item() == 0
    assert output.grad.abs().max() == 0


@pytest.mark.parametrize("size", [1, 7, 256])
@pytest.mark.parametrize(
    ("masked", "complete"),
    [
        (CrossEntropy(CLASSES), CrossEntropy(CLASSES, complete=True)),
        (SquaredError(), SquaredError(complete=True)),
    ],
)
def test_complete_labels_give_the_same_loss_and_gradient_bit_for_bit(masked, complete, size):
    torch.manual_seed(size)
    classifies = masked.kind == "classification"
    output = torch.randn(size, 3 if classifies else 1)
    target = torch.randint(3, (size,)) if classifies else torch.randn(size, 1)
    found = []
    for criterion in (masked, complete):
        leaf = output.clone().requires_grad_()
        loss = criterion(leaf, target)
        loss.backward()
        found.append((loss, leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_label_that_is_missing_where_all_were_promised_is_not_hidden():
    with pytest.raises(IndexError):
        CrossEntropy(CLASSES, complete=True)(torch.zeros(2, 3), torch.tensor([0, -1]))
    assert SquaredError(complete=True)(torch.zeros(2, 1), torch.tensor([[0.0], [math.nan]])).isnan()


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        SquaredError()(torch.zeros(4, 1), torch.zeros(4))


def test_initial_and_prior_losses_have_their_closed_forms():
    labels = torch.tensor([0, 0, 1, 1, -1])
    assert CrossEntropy(CLASSES).untrained_loss(labels) == pytest.approx(math.log(3))
    assert CrossEntropy(CLASSES).constant_loss(labels) == pytest.approx(math.log(2))
    values = torch.tensor([1.0, 3.0, math.nan])
    assert SquaredError().untrained_loss(values) == pytest.approx(5.0)
    assert SquaredError().constant_loss(values) == pytest.approx(1.0)


def test_prior_is_what_the_best_constant_scores():
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    constant = torch.bincount(labels).double().log().expand(6, 3)
    assert CrossEntropy(CLASSES).constant_loss(labels) == pytest.approx(CrossEntropy(CLASSES)(constant, labels).item())
    values = torch.randn(50, 1)
    mean = values.mean().expand(50, 1)
    assert SquaredError().constant_loss(values) == pytest.approx(SquaredError()(mean, values).item(), rel=1e-5)


def test_maps_are_masked_pixel_by_pixel():
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(-1, 3, (2, 4, 4))
    predicted, actual = CrossEntropy(CLASSES).labelled_pairs(logits, labels)
    assert torch.equal(predicted, logits.argmax(1)[labels != -1])
    assert torch.equal(actual, labels[labels != -1])


def test_tensor_data_is_batched_by_index():
    data = TensorData((torch.arange(10.0)[:, None],), {"y": torch.arange(10)})
    batch = data.batch(torch.tensor([3, 1]))
    assert isinstance(batch, Batch)
    assert batch.inputs[0].flatten().tolist() == [3, 1]
    assert batch.targets["y"].tolist() == [3, 1]
    assert len(data) == 10


def test_registry_suggests_and_refuses_duplicates():
    assert "diamonds" in list_tasks()
    with pytest.raises(ValueError, match="did you mean diamonds"):
        create_task("diamond")
    with pytest.raises(ValueError, match="already registered"):
        register_task("diamonds")(type("Other", (Task,), {}))
