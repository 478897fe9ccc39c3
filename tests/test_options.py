"""Options of the trainer: memory format, activation checkpoints, debug=overfit, debug=profile, launchers, and their page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import mozoo
import train
from mozoo import tools

ROOT = Path(__file__).resolve().parent.parent
DENSE = (
    *("model=dense", "model.encoder=test_resnet", "model.width=4", "task.height=24", "task.width=32"),
    *("task.train=4", "task.val=1", "task.test=1", "trainer.batch_size=4", "trainer.device=cpu", "optimizer=sgd"),
)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Overrides for a tiny dense model; the rooms are rendered once."""
    return [*DENSE, f"data_dir={tmp_path_factory.mktemp('rooms')}"]


def first_step(overrides):
    """The run after one step, and the report of that step."""
    run = train.build(mozoo.compose(overrides))
    run.model.train()
    batch = next(mozoo.data.training_batches(run.splits.train, 4, 0, 0, 0, run.device, 0))
    (report,) = train.train_step(run, batch)
    return run, report


def gradients(run):
    return {name: parameter.grad for name, parameter in run.model.named_parameters()}


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_sgd_trains_parameters_that_get_their_first_gradients_at_different_steps(stones, tmp_path):
    """torch's fused kernel cannot, with momentum; see ``mozoo.optimization``."""
    overrides = ("balancer=alternating", "optimizer=sgd", "trainer.max_steps=4", "trainer.batch_size=32")
    config = mozoo.compose([f"task.csv={stones}", f"run_dir={tmp_path / 'run'}", "trainer.device=cpu", *overrides])
    assert train.run(config)["steps"] == 4
    (phase,) = train.build(config).phases
    assert [each.defaults["fused"] for each in phase.optimizers.values()] == [None]


@pytest.mark.parametrize("balancer", ["sum", "mgda"])
def test_channels_last_changes_the_layout_and_not_the_numbers(rooms, balancer):
    usual, plain = first_step([*rooms, f"balancer={balancer}"])
    run, report = first_step([*rooms, f"balancer={balancer}", "trainer.channels_last=true"])
    weights = [
        parameter for parameter in run.model.parameters() if parameter.dim() == 4 and min(parameter.shape[1:]) > 1
    ]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not any(weight.is_contiguous() for weight in weights)
    torch.testing.assert_close(report.losses, plain.losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(report.weights, plain.weights, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(gradients(run), gradients(usual), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("balancer", ["sum", "pcgrad", "mgda"])
def test_checkpointed_activations_give_the_same_gradients_and_statistics(rooms, balancer):
    usual, plain = first_step([*rooms, f"balancer={balancer}"])
    run, report = first_step([*rooms, f"balancer={balancer}", "trainer.grad_checkpointing=true"])
    assert any(getattr(module, "grad_checkpointing", False) for module in run.model.modules())
    torch.testing.assert_close(report.losses, plain.losses)
    torch.testing.assert_close(gradients(run), gradients(usual))
    buffers = dict(run.model.named_buffers())
    assert any(key.endswith("running_mean") for key in buffers)
    torch.testing.assert_close(buffers, dict(usual.model.named_buffers()))


def test_activations_of_a_model_without_timm_trunk_cannot_be_checkpointed(stones):
    config = mozoo.compose([f"task.csv={stones}", "trainer.device=cpu", "trainer.grad_checkpointing=true"])
    with pytest.raises(mozoo.ConfigError, match="needs a timm trunk"):
        train.build(config)


# ---- debug -----------------------------------------------------------------------------------------------------------


def test_overfit_learns_its_samples_by_heart(stones, tmp_path, monkeypatch):
    for name in ("write_report", "save_checkpoint"):  # they take longer than the rest
        monkeypatch.setattr(tools, name, lambda *arguments: None)
    short = ("trainer.device=cpu", "trainer.epochs=100", "trainer.monitor=last", "logger.tensorboard=false")
    config = mozoo.compose(["debug=overfit", f"task.csv={stones}", f"run_dir={tmp_path / 'run'}", *short])
    runs = []
    build = train.build
    monkeypatch.setattr(train, "build", lambda *arguments: runs.append(build(*arguments)) or runs[-1])
    summary = train.run(config)
    splits = runs[0].splits
    assert len(splits.train) == 32
    for split in (splits.val, splits.test):
        torch.testing.assert_close((split.inputs, split.targets), (splits.train.inputs, splits.train.targets))
    priors = runs[0].task.prior_losses(splits)
    assert summary["metrics"]["test/cut/loss"] < 0.1 * priors["cut"]
    assert summary["metrics"]["test/price/loss"] < 0.1 * priors["price"]
    assert summary["metrics"]["test/cut/accuracy"] == 1.0


@pytest.mark.parametrize("count", [2, 5])
def test_overfitting_a_handful_runs_through(stones, tmp_path, monkeypatch, count):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    short = ("trainer.device=cpu", "trainer.epochs=2", "logger.tensorboard=false", f"run_dir={tmp_path / 'run'}")
    summary = train.run(mozoo.compose(["debug=overfit", f"task.csv={stones}", f"trainer.overfit={count}", *short]))
    assert summary["status"] == "finished"
    assert 2 * count / summary["samples_per_second"] == pytest.approx(summary["seconds"], abs=6e-4)  # it is rounded


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ("trainer.batch_size=4", "trainer.grad_accum_steps=4", "model.norm=batch"),
            "BatchNorm has no statistics of one",
        ),
        (("optimizer.betas=[0.9]",), "optimizer.betas: adamw has two"),
        (("balancer=moml", "trainer.batch_size=1"), "takes virtual steps on half of each batch"),
    ],
)
def test_what_cannot_be_trained_is_one_message(stones, overrides, problem):
    with pytest.raises(mozoo.ConfigError, match=problem):
        train.build(mozoo.compose([f"task.csv={stones}", "trainer.device=cpu", *overrides]))


def test_threads_of_a_run_do_not_outlast_it():
    before = torch.get_num_threads()
    with tools.own_threads():
        torch.set_num_threads(before + 1)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def profiled(stones, folder, capsys, balancer):
    short = ("trainer.profile=3", "trainer.device=cpu", "trainer.batch_size=64")
    config = mozoo.compose(["debug=profile", f"task.csv={stones}", f"run_dir={folder}", f"balancer={balancer}", *short])
    assert train.run(config) == {"status": "profile"}
    shown = capsys.readouterr().out
    return {match[1].strip(): float(match[2]) for match in re.finditer(r"│ (.+?)│ +([\d.-]+) │", shown)}


def test_profile_tells_where_the_time_of_a_step_goes(stones, tmp_path, capsys):
    parts = profiled(stones, tmp_path / "run", capsys, "mgda")
    told = ("data", "forward", "backward of cut", "backward of price", "Gramian", "weights", "combination", "optimizer")
    assert {*told, "the rest"} == set(parts)
    assert all(parts[name] > 0 for name in told)
    trace = json.loads((tmp_path / "run" / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {f"span: {name}" for name in told} <= names
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["trace.json"]


def test_profile_of_a_loss_method_has_one_backward(stones, tmp_path, capsys):
    parts = profiled(stones, tmp_path / "run", capsys, "sum")
    assert "backward of the weighted sum" in parts
    assert not {"Gramian", "backward of cut"} & set(parts)


def test_profile_writes_no_lines_of_the_profiler_itself(stones, tmp_path):
    """In a process of its own, as torch reads the variable once."""
    words = ["debug=profile", f"task.csv={stones}", f"run_dir={tmp_path}", "trainer.profile=2", "trainer.device=cpu"]
    shown = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "2 steps, " in shown.stdout
    assert shown.stderr == ""


# ---- sweeps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "package", "expected"),
    [
        ("parallel", "hydra_plugins.hydra_joblib_launcher", {"n_jobs": 2}),
        ("slurm", "hydra_plugins.hydra_submitit_launcher", {"gpus_per_node": 1, "array_parallelism": 16}),
    ],
)
def test_launcher_composes(launcher, package, expected):
    pytest.importorskip(package)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        found = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True).hydra.launcher
    assert package in found._target_
    assert {key: found[key] for key in expected} == expected


# ---- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", yaml.safe_load((ROOT / "configs/trainer/default.yaml").read_text()))
def test_page_tells_every_option_of_the_trainer(key):
    assert f"`trainer.{key}`" in (ROOT / "docs/trainer.md").read_text()


@pytest.mark.parametrize(
    "launcher", sorted((ROOT / "configs/hydra/launcher").glob("*.yaml")), ids=lambda path: path.stem
)
def test_page_tells_every_launcher(launcher):
    assert f"hydra/launcher={launcher.stem}" in (ROOT / "docs/sweeps.md").read_text()


@pytest.mark.parametrize("supported", [True, False])
def test_precision_auto_is_bf16_where_the_hardware_multiplies_it(monkeypatch, supported):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    precision = tools.Precision("auto", torch.device("cpu"))
    assert (precision.name, precision.dtype) == (("bf16", torch.bfloat16) if supported else ("fp32", None))
