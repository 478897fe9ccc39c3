"""The contract of a task: description, data and presentation do not depend on the order of calls."""

import dataclasses
import json

import pytest
import torch
from torch.utils.data import Subset

from tasks import DataError, MetricSpec, Objective, Splits, SquaredError, Task, TensorData, create_task


def test_a_task_reads_one_folder_and_refuses_another(tmp_path):
    task = create_task("ring_of_gaussians", samples=10)
    splits = task.splits(tmp_path)
    assert task.splits(tmp_path) is task.splits(str(tmp_path)) is task.splits() is splits
    with pytest.raises(DataError, match=f"has read its data from {tmp_path} and cannot read others from {tmp_path}/x"):
        task.splits(tmp_path / "x")
    assert task.restrict(["real_fake"]).splits(tmp_path) is splits


def test_splits_are_frozen_and_unpack():
    train, val, test = (TensorData((torch.arange(n)[:, None],), {"y": torch.arange(n)}) for n in (5, 3, 2))
    splits = Splits(train, val, test, state={"mean": 1.0})
    assert [*splits] == [train, val, test]
    with pytest.raises(dataclasses.FrozenInstanceError):
        splits.train = val
    few = splits.truncate(4)
    assert [len(part) for part in few] == [4, 4, 4]
    assert [len(part) for part in splits] == [5, 3, 2]
    assert few.to("meta").test.inputs[0].device.type == "meta"
    assert splits.to("meta").state == few.state == {"mean": 1.0}
    assert torch.equal(few.train_labels()["y"], torch.arange(4))
    samples = Splits([train.batch(torch.tensor(i)) for i in range(5)], [], []).truncate(2)
    assert isinstance(samples.train, Subset)
    assert samples.train_labels()["y"].flatten().tolist() == [0, 1]


@pytest.mark.parametrize("restrict_first", [True, False])
def test_state_and_restriction_come_in_any_order(restrict_first):
    state = json.loads(json.dumps({"mean": [0] * 6, "std": [1] * 6, "log_mean": 2.0, "log_std": 3.0}))
    task = create_task("diamonds")
    if restrict_first:
        task = task.restrict(["price"])
        task.load_state_dict(state)
    else:
        task.load_state_dict(state)
        task = task.restrict(["price"])
    assert [objective.name for objective in task.objectives] == ["price"]
    assert task.state_dict() == state
    dollars = task.decode({"price": torch.ones(1, 1)}).cells["price"]
    assert dollars == pytest.approx([torch.tensor(5.0).exp().item()])


def test_methods_of_a_restricted_task_see_its_own_state():
    """Also where the state is loaded after the restriction, as a prediction without the data does."""

    class Shifted(Task):
        name = "shifted"

        def __init__(self):
            metric = MetricSpec(lambda: None, self.shift, higher_is_better=True)
            self.objectives = tuple(
                Objective(name, SquaredError(name), {"error": metric}, self.shift) for name in ("a", "b")
            )

        def shift(self, values):
            return values + self.state_dict().get("mean", 0)

    task = Shifted()
    restricted = task.restrict(["b"])
    restricted.load_state_dict({"mean": 7})
    (objective,) = restricted.objectives
    assert (objective.inverse_transform(1), objective.metrics["error"].transform(1)) == (8, 8)
    assert [o.inverse_transform(1) for o in task.objectives] == [1, 1]
