"""Numbers that are not finite, running means of the weights, and checkpoints within an epoch."""

import csv
import json
import math

import pytest
import torch

import balancing
import mozoo
import tasks
import train
from balancing import BalanceReport
from mozoo import tools


@pytest.fixture
def train_in(stones, monkeypatch, tmp_path):
    """Train in a folder of ``tmp_path`` and return that folder."""
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)

    def start(name, *overrides):
        short = ("trainer.device=cpu", "trainer.batch_size=64", "trainer.max_steps=20", "logger.tensorboard=false")
        train.run(mozoo.compose([f"task.csv={stones}", f"run_dir={tmp_path / name}", *short, *overrides]))
        return tmp_path / name

    return start


def saved(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def spoil(monkeypatch, *, steps, change):
    """Apply ``change`` to the price's loss whenever a step is taken whose number, from 1, is in ``steps``."""
    losses, step, now = tasks.Task.losses, train.train_step, []

    def counted(run, batch):
        now[:] = [run.state.step + 1]
        return step(run, batch)

    def spoiled(self, model, batch, phase):
        found, features = losses(self, model, batch, phase)
        if now[0] in steps and model.training:
            found["price"] = change(found["price"])
        return found, features

    monkeypatch.setattr(train, "train_step", counted)
    monkeypatch.setattr(tasks.Task, "losses", spoiled)


def infinite_gradient(loss):
    """The same value, with a slope that is not finite."""
    return loss + torch.sqrt(loss - loss.detach())


def test_training_may_skip_a_loss_that_is_not_a_number(train_in, monkeypatch):
    spoil(monkeypatch, steps=(5, 6), change=lambda loss: loss * math.nan)
    folder = train_in("run", "trainer.on_nonfinite=skip")
    assert saved(folder)["state"]["step"] == 20
    assert all(tensor.isfinite().all() for tensor in saved(folder)["model"].values())


@pytest.mark.parametrize("balancer", ["sum", "pcgrad"])
def test_training_may_skip_a_gradient_that_is_not_finite(train_in, monkeypatch, balancer):
    spoil(monkeypatch, steps=(5,), change=infinite_gradient)
    folder = train_in("run", "trainer.on_nonfinite=skip", f"balancer={balancer}")
    assert all(tensor.isfinite().all() for tensor in saved(folder)["model"].values())


def test_skipping_for_ever_is_an_error(train_in, monkeypatch):
    spoil(monkeypatch, steps=range(3, 1000), change=lambda loss: loss * math.nan)
    with pytest.raises(balancing.BalancingError, match="50 steps in a row were skipped"):
        train_in("run", "trainer.on_nonfinite=skip", "trainer.max_steps=80")


@pytest.mark.parametrize("overrides", [("trainer.on_nonfinite=skip",), ("trainer.precision=fp16",)])
def test_updates_that_never_happen_are_an_error(train_in, monkeypatch, overrides):
    spoil(monkeypatch, steps=range(3, 1000), change=infinite_gradient)
    with pytest.raises(balancing.BalancingError, match="50 steps in a row were skipped"):
        train_in("run", "balancer=sum", "trainer.max_steps=80", *overrides)


def test_steps_that_a_phase_skips_count_for_it_alone():
    state, names = tools.State(), ("a",)
    for _ in range(49):
        state.add("one", BalanceReport(names, torch.zeros(1), skipped=True))
        state.add("two", BalanceReport(names, torch.zeros(1)))
    with pytest.raises(balancing.BalancingError, match="50 steps in a row"):
        state.add("one", BalanceReport(names, torch.zeros(1), skipped=True))


def test_loss_that_is_found_late_is_one_of_the_step_before(stones):
    job = train.build(mozoo.compose([f"task.csv={stones}", "trainer.device=cpu", "trainer.batch_size=64"]))
    error = balancing.NonFiniteError("the loss is not finite")
    for step in (7, job.steps_per_epoch):  # the second looks back into an epoch that has ended
        job.state.step, job.state.epoch = step, step // job.steps_per_epoch
        error.late = False
        here = str(tools.locate(job, error))
        error.late = True
        before = str(tools.locate(job, error))
        job.state.step, job.state.epoch, error.late = step - 1, (step - 1) // job.steps_per_epoch, False
        assert (before, f"step {step}, ") == (str(tools.locate(job, error)), before[: len(f"step {step}, ")])
        assert here.startswith(f"step {step + 1}, ")


def test_rollback_returns_to_the_last_checkpoint_with_half_the_rate(train_in, monkeypatch, capsys):
    spent = []
    spoil(
        monkeypatch,
        steps=(13,),
        change=lambda loss: loss * math.nan if not spent.append(0) and len(spent) == 1 else loss,
    )
    constant = ("scheduler=constant", "optimizer.lr=0.004", "trainer.log_every=1")
    folder = train_in("run", "trainer.on_nonfinite=rollback", "trainer.save_every=5", *constant)
    state = saved(folder)["state"]
    assert (state["step"], state["rollbacks"]) == (20, 1)
    assert "back to step 10, with half the learning rate" in capsys.readouterr().out
    with (folder / "balance.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 21))
    with (folder / "metrics.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["lr"]) == pytest.approx(0.002)


def test_rollback_gives_up_when_it_does_not_help(train_in, monkeypatch):
    spoil(monkeypatch, steps=range(3, 1000), change=infinite_gradient)
    with pytest.raises(tools.Diverged, match=r"^step 3, training samples .*the norm of the gradients is not finite"):
        train_in("run", "trainer.on_nonfinite=rollback")


def test_running_mean_is_what_is_evaluated_and_kept(train_in, stones):
    folder = train_in("run", "trainer.ema=0.9")
    state = saved(folder)
    assert any(not torch.equal(state["ema"][name], state["model"][name]) for name in state["ema"])
    config = mozoo.compose([f"task.csv={stones}", "trainer.device=cpu", "trainer.ema=0.9"])
    job = train.build(config)
    tools.load_weights(folder / "best", job.model)
    torch.testing.assert_close(dict(job.model.state_dict()), state["ema"], rtol=0, atol=0)
    found = tools.evaluate(job.model, job.task, job.splits, 1024, job.precision, name="test")
    summary = json.loads((folder / "summary.json").read_text())
    assert {f"test/{name}": value for name, value in found.values.items()} == pytest.approx(summary["metrics"])


def test_running_mean_follows_its_definition(train_in, monkeypatch):
    """m <- d m + (1 - d) w after every step, with the decay d = min(0.9, 1 - s^(-2/3)) of its warm-up at step s."""
    weights, step = [], train.train_step

    def recorded(run, batch):
        reports = step(run, batch)
        weights.append({name: p.detach().clone() for name, p in run.model.named_parameters()})
        return reports

    monkeypatch.setattr(train, "train_step", recorded)
    mean = saved(train_in("run", "trainer.ema=0.9", "trainer.max_steps=8"))["ema"]
    for name in weights[0]:
        expected = weights[0][name]
        for number, values in enumerate(weights[1:], start=2):
            decay = min(0.9, 1 - number ** (-2 / 3))
            expected = decay * expected + (1 - decay) * values[name]
        torch.testing.assert_close(mean[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("extra", [("balancer=pcgrad",), ("balancer=sum", "trainer.ema=0.99")])
def test_run_that_is_cut_off_within_an_epoch_ends_like_an_uninterrupted_one(train_in, monkeypatch, extra):
    overrides = ("trainer.save_every=4", "model.norm=batch", "model.dropout=0.2", "trainer.log_every=1", *extra)
    whole, step = train_in("whole", *overrides), train.train_step

    def cut_off(run, batch):
        if run.state.step == 10:
            raise OSError("the plug was pulled")
        return step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", cut_off)
        with pytest.raises(OSError, match="the plug"):
            train_in("cut", *overrides)
    cut = whole.parent / "cut"
    assert saved(cut)["state"]["step"] == 8
    train_in("unused", *overrides, f"resume={cut}")
    for part in ("model", "ema", "turns", "rng"):
        torch.testing.assert_close(saved(cut)[part], saved(whole)[part], rtol=0, atol=0)
    assert (cut / "balance.csv").read_bytes() == (whole / "balance.csv").read_bytes()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("trainer.ema=1.5", "trainer.ema must be below 1"),
        ("trainer.on_nonfinite=ignore", "must be one of stop, skip, rollback"),
        ("trainer.batchnorm=mean", "must be one of local, averaged, synchronized"),
        ("trainer.save_every=0", "trainer.save_every must be at least 1"),
        ("trainer.grad_checkpointing=true", "needs a timm trunk"),
    ],
)
def test_options_out_of_range_say_what_is_possible(train_in, tmp_path, override, problem):
    with pytest.raises(mozoo.ConfigError, match=problem):
        train_in("run", override)
    assert not (tmp_path / "run").exists()
