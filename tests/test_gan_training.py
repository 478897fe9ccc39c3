"""GANs through train.run: turns, results about samples as a whole, and exact resume."""

import csv
import json

import pytest
import torch

import mozoo
import tasks
import train
from mozoo import tools
from tasks import fashion_gan
from tests.tiny_runs import stop_after
from zoo.gan import GAN

SMALL = (
    *("model=gan_points", "model.width=8", "model.depth=1", "task.samples=96", "trainer.batch_size=32"),
    *("trainer.epochs=3", "trainer.device=cpu", "logger.tensorboard=false", "trainer.log_every=1"),
)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("task.labels=true", "balancer=pcgrad", "model.discriminator_steps=2"),
        ("task.labels=true", "balancer=mgda", "model.discriminators=2"),
        ("task.labels=true", "balancer=uncertainty", "task.loss=hinge", "task.penalty=none"),
        ("task=grid_of_gaussians", "task.loss=wgan", "task.penalty=gradient"),
    ],
)
def test_a_gan_trains_through_the_same_loop(tmp_path, overrides):
    folder = tmp_path / "run"
    task = () if "task=grid_of_gaussians" in overrides else ("task=ring_of_gaussians",)
    summary = train.run(mozoo.compose([*SMALL, *task, *overrides, f"run_dir={folder}"]))
    assert summary["status"] == "finished"
    assert set(summary["metrics"]) == {f"test/samples/{name}" for name in ("modes", "high_quality", "reverse_kl")}
    training, validation, *_ = rows(folder / "metrics.csv")
    assert float(training["real_fake/loss"])
    assert training["samples/modes"] == ""
    assert float(validation["samples/modes"]) >= 0
    assert validation["real_fake/loss"] == ""
    assert [row["phase"] for row in rows(folder / "balance.csv")] == ["discriminator", "generator"] * 9
    assert "Generated points over real ones." in (folder / "report.html").read_text()


def test_the_best_epoch_can_be_chosen_by_a_result_about_samples(tmp_path):
    config = mozoo.compose([*SMALL, "trainer.monitor=val/samples/modes"])
    task = tasks.create_task(**config.task)
    selector = tools.Selector(config.trainer.monitor, task, task.splits())
    assert selector.score({"samples/modes": 7.0}, 1) < selector.score({"samples/modes": 6.0}, 1)
    selector = tools.Selector("val/samples/reverse_kl", task, task.splits())
    assert selector.score({"samples/reverse_kl": 0.1}, 1) < selector.score({"samples/reverse_kl": 0.2}, 1)
    with pytest.raises(mozoo.ConfigError, match="did you mean val/samples/modes"):
        tools.Selector("val/samples/mode", task, task.splits())
    for losses in ("loss", "val/real_fake/loss"):
        with pytest.raises(mozoo.ConfigError, match="ring_of_gaussians has no rule"):
            tools.Selector(losses, task, task.splits())


def test_resume_is_bit_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    overrides = (*SMALL, "task.labels=true", "balancer=pcgrad", "scheduler=constant")
    train.run(mozoo.compose([*overrides, f"run_dir={tmp_path / 'whole'}"]))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train.run(mozoo.compose([*overrides, f"run_dir={tmp_path / 'stopped'}"]))
    train.run(mozoo.compose([*overrides, f"resume={tmp_path / 'stopped'}"]))
    once, twice = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "stopped"))
    for part in ("model", "turns", "rng"):
        torch.testing.assert_close(twice[part], once[part], rtol=0, atol=0)
    assert (tmp_path / "whole/balance.csv").read_bytes() == (tmp_path / "stopped/balance.csv").read_bytes()
    results = [json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("whole", "stopped")]
    assert results[0] == results[1]


def test_the_running_mean_of_the_generator_is_what_is_judged_and_kept(tmp_path, monkeypatch):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (80, 28, 28), generator=random, dtype=torch.uint8)
    part = images, torch.arange(80, dtype=torch.uint8) % 10
    monkeypatch.setattr(fashion_gan, "fashion_splits", lambda folder, download: (part, part, part))
    folder = tmp_path / "run"
    small = ("model=gan", "model.width=4", "trainer.batch_size=16", "trainer.epochs=2", "trainer.ema=0.9")
    paths = (f"data_dir={tmp_path}", f"run_dir={folder}")
    config = mozoo.compose([*small, *paths, "trainer.device=cpu", "trainer.monitor=last", "logger.tensorboard=false"])
    summary = train.run(config)
    saved, kept = torch.load(folder / "last.pt", weights_only=True), GAN.from_pretrained(folder / "best").eval()
    torch.testing.assert_close(dict(kept.state_dict()), saved["ema"], rtol=0, atol=0)
    assert not torch.equal(kept.generator.body[0].weight, saved["model"]["generator.body.0.weight"])
    task = tasks.create_task(**config.task)
    test = task.splits(tmp_path).test
    with torch.no_grad():
        found = task.evaluate(kept, task.splits(tmp_path), "test", [test.batch(torch.arange(80))])
    assert {f"test/{name}": value for name, value in found.items()} == pytest.approx(summary["metrics"], rel=1e-3)


def test_an_evaluation_that_is_stopped_has_no_values():
    config = mozoo.compose([*SMALL])
    run = train.build(config)
    stop = tools.StopRequest()
    stop.asked = True
    assert train.evaluate(run, "val", stop) is None


def test_betas_reach_the_optimizer_and_one_without_them_says_so():
    turn = train.build(mozoo.compose([*SMALL])).phases[0]
    assert next(iter(turn.optimizers.values())).param_groups[0]["betas"] == (0.5, 0.999)
    with pytest.raises(mozoo.ConfigError, match=r"optimizer\.betas"):
        train.build(mozoo.compose([*SMALL, "optimizer.name=sgd"]))


def test_names_of_another_turn_may_stand_in_the_options_of_a_balancer():
    config = mozoo.compose([*SMALL, "task.labels=true", "balancer=mgda", "balancer.preference={fake_class: 2.0}"])
    first, second = train.build(config).phases
    assert first.balancer.preference.tolist() == [1, 1]
    assert second.balancer.preference[1] == 2 * second.balancer.preference[0]
    with pytest.raises(mozoo.ConfigError, match="fake_clas"):
        train.build(mozoo.compose([*SMALL, "balancer=mgda", "balancer.preference={fake_clas: 2.0}"]))
