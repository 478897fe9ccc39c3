"""balancer=rotograd in train.py: what it trains, and where it is refused."""

import pytest

import mozoo
import train
from mozoo.rotations import check_rotations
from tasks.office import Office
from tests.tiny_runs import SHORT, table

TURNED = ("balancer=rotograd", "balancer.at=features", "model.rotate=6")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("data"))


def build(data, *overrides):
    return train.build(mozoo.compose([*SHORT, *data, *overrides]))


def test_steps_turn_the_features(data):
    job = build(data, *TURNED)
    batch = next(iter(mozoo.tools.epoch_batches(job, 0, 0)))
    before = [angles.clone() for angles in job.model.rotations.parameters()]
    (report,) = train.train_step(job, batch)
    assert not report.skipped
    assert all((a != b).any() for a, b in zip(job.model.rotations.parameters(), before, strict=True))


def test_optimizers_do_not_decay_angles(data):
    job = build(
        data,
        *TURNED,
        "optimizer.weight_decay=0.1",
        "optimizer.per_network=true",
        "optimizer.network_lr={rotations: 1e-3}",
    )
    groups = job.phases[0].optimizers["rotations"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.0]
    assert job.phases[0].rates["rotations"] == 1e-3


@pytest.mark.parametrize(
    "overrides",
    [
        ("balancer=rotograd",),
        ("balancer=rotograd", "balancer.at=features"),
        ("balancer=rotograd", "model.rotate=4"),
        ("balancer=rotograd", "balancer.at=features", "balancer.before=uncertainty"),
    ],
)
def test_other_models_and_places_are_refused(data, overrides):
    with pytest.raises(
        mozoo.ConfigError, match=r"rotograd .* needs balancer.at=features, and model.rotate=.* molecules, .*timm"
    ):
        build(data, *overrides)


def test_samples_of_one_objective_each_are_refused(data):
    job = build(data, *TURNED)
    with pytest.raises(mozoo.ConfigError, match="in task office no two objectives have a sample in common"):
        check_rotations(job.model, job.phases[0].balancer, Office())
