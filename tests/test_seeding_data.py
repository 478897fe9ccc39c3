"""Order of the samples, batches, and losses over a whole split."""

import math
import multiprocessing
import os

import pytest
import torch
import torch.nn.functional as F
from torchmetrics import R2Score
from torchmetrics.classification import MulticlassAccuracy

import tasks
from mozoo import tools
from mozoo.data import batches_per_epoch, evaluation_batches, micro_batches, training_batches
from mozoo.seeding import epoch_order
from tasks import Batch, CrossEntropy, MetricSpec, Objective, SquaredError, TensorData
from zoo import create_model

CPU = torch.device("cpu")


def table(size=50):
    """Numbered samples, some of whose labels are missing."""
    draw = torch.Generator().manual_seed(0)
    kinds, sizes = torch.randint(3, (size,), generator=draw), torch.randn(size, 1, generator=draw)
    kinds[::3], sizes[::4] = -1, math.nan
    number = torch.arange(size, dtype=torch.float32)[:, None]
    return TensorData((number, torch.randn(size, 4, generator=draw)), {"kind": kinds, "size": sizes})


def samples(data):
    """The same data as a Dataset, which goes through a DataLoader."""
    return [
        Batch(tuple(x[i] for x in data.inputs), {name: y[i] for name, y in data.targets.items()})
        for i in range(len(data))
    ]


def assert_same(batches, others):
    batches, others = list(batches), list(others)
    assert len(batches) == len(others)
    for a, b in zip(batches, others, strict=True):
        torch.testing.assert_close((a.inputs, a.targets), (b.inputs, b.targets), rtol=0, atol=0, equal_nan=True)


def numbers(batches):
    return [int(number) for batch in batches for number in batch.inputs[0]]


# ---- order -----------------------------------------------------------------------------------------------------------


def test_epoch_order_is_a_permutation():
    assert sorted(epoch_order(1000, 0, 0).tolist()) == list(range(1000))


def test_epoch_order_is_decided_by_seed_and_epoch_alone():
    first = epoch_order(1000, 5, 2)
    torch.rand(3)
    assert torch.equal(epoch_order(1000, 5, 2), first)


def test_epoch_order_differs_by_epoch_and_seed():
    orders = {tuple(epoch_order(1000, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batches"), [(48, 6), (50, 6), (55, 6), (56, 7), (5, 1)])
def test_batches_per_epoch_drops_the_tail(size, batches):
    split = table(size)
    assert batches_per_epoch(split, 8) == batches
    assert len(list(training_batches(split, 8, 0, 0, 0, CPU, 0))) == batches


def test_training_batches_take_the_samples_in_epoch_order():
    found = numbers(training_batches(table(), 8, seed=3, epoch=1, start=0, device=CPU, workers=0))
    assert found == epoch_order(50, 3, 1)[:48].tolist()


@pytest.mark.parametrize("make", [table, lambda: samples(table())], ids=["tensors", "loader"])
@pytest.mark.parametrize("start", [0, 4, 6])
def test_training_batches_from_an_offset_are_the_tail_of_the_epoch(make, start):
    whole = list(training_batches(make(), 8, 0, 1, 0, CPU, 0))
    assert_same(training_batches(make(), 8, 0, 1, start, CPU, 0), whole[start:])


class Augmented(torch.utils.data.Dataset):
    """A sample holds its index, and what the mozoo said about the epoch."""

    def set_epoch(self, seed, epoch):
        self.said = (seed, epoch)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return Batch((torch.tensor([float(index), *self.said]),), {"none": torch.zeros(1)})


@pytest.mark.parametrize("workers", [0, 2])
def test_data_set_knows_seed_and_epoch_in_every_worker(workers):
    data = Augmented()
    for epoch in (0, 3):
        (batch,) = training_batches(data, 6, 5, epoch, 0, CPU, workers)
        assert batch.inputs[0][:, 1:].tolist() == [[5, epoch]] * 6


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_batches_of_tensors(workers):
    data = table()
    assert_same(
        training_batches(samples(data), 8, 0, 1, 0, CPU, workers),
        training_batches(data, 8, 0, 1, 0, CPU, 0),
    )
    assert_same(evaluation_batches(samples(data), 8, CPU, workers), evaluation_batches(data, 8, CPU, 0))


@pytest.mark.parametrize("make", [table, lambda: samples(table())], ids=["tensors", "loader"])
def test_batches_leave_the_global_generator_alone(make):
    before = torch.get_rng_state()
    list(training_batches(make(), 8, 0, 0, 0, CPU, 0))
    list(evaluation_batches(make(), 8, CPU, 0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [1, 7, 8, 50, 64])
def test_evaluation_covers_every_sample_once_in_order(size):
    assert numbers(evaluation_batches(table(50), size, CPU, 0)) == list(range(50))


@pytest.mark.parametrize(("size", "count"), [(48, 1), (48, 4), (70, 4), (70, 64)])
def test_micro_batches_hold_the_batch(size, count):
    batch = table(size).batch(torch.arange(size))
    assert numbers(micro_batches(batch, count)) == list(range(size))


# ---- evaluation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def task():
    found = tasks.Task()
    accuracy = MetricSpec(lambda: MulticlassAccuracy(3, average="micro"))
    found.objectives = (
        Objective("kind", CrossEntropy(("a", "b", "c")), {"accuracy": accuracy}),
        Objective("size", SquaredError(), {"r2": MetricSpec(R2Score)}),
    )
    return found


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("shared_trunk", in_features=4, classifiers={"kind": 3}, regressors={"size": 1}, width=8)


def evaluate(model, task, data, batch_size=50):
    features_only = TensorData(data.inputs[1:], data.targets)
    return tools.evaluate(model, task, tasks.Splits(*[features_only] * 3), batch_size, tools.Precision("fp32", CPU))


def test_evaluation_leaves_out_missing_labels(model, task):
    data = table()
    found = evaluate(model, task, data).values
    with torch.no_grad():
        outputs = model.eval()(data.inputs[1])
    kinds, sizes = data.targets["kind"] >= 0, ~data.targets["size"].isnan()
    known = outputs["kind"][kinds], data.targets["kind"][kinds]
    error = outputs["size"][sizes] - data.targets["size"][sizes]
    assert found["kind/loss"] == pytest.approx(float(F.cross_entropy(*known)), rel=1e-5)
    assert found["size/loss"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert found["kind/accuracy"] == pytest.approx(float((known[0].argmax(1) == known[1]).float().mean()))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_evaluation_does_not_depend_on_the_batch_size(model, task, batch_size):
    whole, parts = evaluate(model, task, table()), evaluate(model, task, table(), batch_size)
    assert parts.values == pytest.approx(whole.values, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(parts.predictions, whole.predictions, rtol=1e-5, atol=1e-6)


def test_evaluation_without_any_label_is_not_a_number(model, task):
    data = table()
    data.targets["kind"].fill_(-1)
    found = evaluate(model, task, data).values
    assert math.isnan(found["kind/loss"])
    assert math.isfinite(found["size/loss"])


def test_evaluation_gives_the_model_back_as_it_was(model, task):
    state = {name: tensor.clone() for name, tensor in model.train().state_dict().items()}
    evaluate(model, task, table())
    assert model.training
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_evaluation_that_is_asked_to_stop_gives_nothing(model, task):
    stop = tools.StopRequest()
    stop.asked = True
    precision = tools.Precision("fp32", CPU)
    data = TensorData(table().inputs[1:], table().targets)
    assert tools.evaluate(model, task, tasks.Splits(data, data, data), 8, precision, stop=stop) is None


def test_missing_labels_have_no_gradient(model, task):
    data = table()
    data.targets["size"].fill_(math.nan)
    losses, _ = task.losses(model, Batch(data.inputs[1:], data.targets), "train")
    losses["size"].backward()
    assert losses["size"] == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


class Parents(torch.utils.data.Dataset):
    """Samples that tell the parent of the process that loads them."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Batch((torch.tensor([os.getppid()]),), {"kind": torch.tensor(0)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork starts workers anew")
def test_workers_are_children_of_this_process_whatever_the_default():
    """Python 3.14 takes them from a server by default, which no signal of ours would reach."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        assert numbers(evaluation_batches(Parents(), 2, CPU, 1)) == [os.getpid()] * 4
    finally:
        multiprocessing.set_start_method(before, force=True)
