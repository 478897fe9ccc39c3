"""What only a CUDA device can show."""

import json

import pytest
import torch

import mozoo
import train
from balancing import NonFiniteError, create_balancer

pytestmark = pytest.mark.gpu


def train_on(device, folder, stones, *overrides):
    short = ("trainer.batch_size=64", "trainer.max_steps=20", "logger.tensorboard=false", "trainer.tf32=false")
    train.run(
        mozoo.compose([f"task.csv={stones}", f"run_dir={folder}", *short, f"trainer.device={device}", *overrides])
    )
    return json.loads((folder / "summary.json").read_text())["metrics"]


@pytest.mark.parametrize("balancer", ["sum", "uncertainty", "pcgrad", "db_mtl", "moml"])
def test_training_agrees_with_that_on_the_cpu(tmp_path, stones, balancer):
    exact = (f"balancer={balancer}", "model.dropout=0", "optimizer=sgd", "optimizer.lr=0.01")
    found = [train_on(device, tmp_path / device, stones, *exact) for device in ("cpu", "cuda")]
    assert found[1] == pytest.approx(found[0], rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("balancer", ["sum", "pcgrad", "gradnorm"])
def test_low_precision_trains_close_to_full_precision(tmp_path, stones, balancer, precision):
    low, full = (
        train_on("cuda", tmp_path / name, stones, f"balancer={balancer}", f"trainer.precision={name}")
        for name in (precision, "fp32")
    )
    assert low["test/cut/loss"] == pytest.approx(full["test/cut/loss"], rel=0.05)


def test_memory_format_and_compilation_train_a_dense_model(tmp_path):
    small = ("task.height=32", "task.width=32", "task.train=8", "task.val=4", "task.test=4", "trainer.batch_size=4")
    config = mozoo.compose(
        [
            *("model=dense_resnet18", f"data_dir={tmp_path}", f"run_dir={tmp_path / 'run'}", *small),
            *("trainer.max_steps=4", "trainer.channels_last=true", "trainer.precision=bf16", "trainer.compile=true"),
        ]
    )
    assert train.run(config)["steps"] == 4


def test_dry_run_measures_memory_on_the_device(stones, capfd):
    words = [f"task.csv={stones}", "trainer.device=cuda", "trainer.dry_run=true", "trainer.batch_size=4096"]
    train.run(mozoo.compose(words))
    assert " MiB at most in a step of 4096 samples on cuda, as torch allocated it:" in capfd.readouterr().out


def test_loss_that_is_not_a_number_is_told_one_step_late_without_waiting():
    weight = torch.ones(3, device="cuda", requires_grad=True)
    balancer = create_balancer("sum", ("a", "b"))
    balancer.backward({"a": weight.sum() * torch.nan, "b": weight.sum()})
    with pytest.raises(NonFiniteError, match="'a'"):
        balancer.backward({"a": weight.sum(), "b": weight.sum()})


def test_step_of_a_loss_method_never_waits_for_the_device():
    weight = torch.ones(3, device="cuda", requires_grad=True)
    balancer = create_balancer("sum", ("a", "b"))
    balancer.backward({"a": weight.sum(), "b": weight.sum()})
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        balancer.backward({"a": weight.sum(), "b": weight.sum()})
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_report_that_left_the_device_says_the_same():
    weight = torch.ones(3, device="cuda", requires_grad=True)
    for name in ("sum", "uncertainty", "pcgrad"):
        balancer = create_balancer(name, ("a", "b"))
        report = balancer.backward({"a": weight.sum(), "b": weight.square().sum()})
        assert report.to_host().as_dict() == report.as_dict()
