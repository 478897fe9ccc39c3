"""Preferences from the balancer to the model in train.py, and from the command line in evaluate.py and predict.py."""

import json
import shutil

import pytest
import torch

import mozoo
import train
from mozoo import tools
from scripts import evaluate, predict
from tests.tiny_runs import SHORT, stop_after, table

MODEL = ("model=conditioned", "model.hidden=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("data"))


@pytest.fixture
def configure(data, tmp_path):
    return lambda name, *overrides: mozoo.compose([*SHORT, *MODEL, *data, *overrides, f"run_dir={tmp_path / name}"])


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)  # takes longer than the rest


@pytest.fixture(scope="module")
def moved(data, tmp_path_factory):
    """A run whose modulation has moved."""
    folder = tmp_path_factory.mktemp("moved") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "write_report", lambda *arguments: None)
        overrides = ("optimizer.lr=0.05", "scheduler=constant", "trainer.max_steps=12", f"run_dir={folder}")
        train.run(mozoo.compose([*SHORT, *MODEL, *data, *overrides]))
    return folder


def weights(folder):
    return torch.load(folder / "last.pt", weights_only=True)["model"]


def told(capsys, script, *words):
    with pytest.raises(SystemExit) as ended:
        script.main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "balancer", [("balancer=preference_sampling",), ("balancer=cosmos", "balancer.alpha=1", "balancer.penalty=0")]
)
def test_the_model_reads_what_weighs_the_losses(configure, monkeypatch, balancer):
    job = train.build(configure("run", *balancer, "trainer.grad_accum_steps=4"))
    forward, seen = job.model.trunk.forward, []

    def noted(x, preference):
        seen.append(preference.clone())
        return forward(x, preference)

    monkeypatch.setattr(job.model.trunk, "forward", noted)
    for batch in list(tools.epoch_batches(job, 0))[:3]:
        seen.clear()
        (report,) = train.train_step(job, batch)
        assert len(seen) == 4  # micro-batches
        assert all(torch.equal(each, seen[0]) for each in seen)
        assert seen[0][0] != 0.5
        torch.testing.assert_close(seen[0], report.weights.to(seen[0]))


def test_resume_is_bit_equal(configure, tmp_path, monkeypatch):
    train.run(configure("whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train.run(configure("parts"))
    assert json.loads((tmp_path / "parts/summary.json").read_text())["steps"] == 4
    train.run(configure("unused", f"resume={tmp_path / 'parts'}"))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("balancer", ["sum", "cosmos", "pcgrad", "moml"])
def test_a_balancer_that_draws_none_is_refused(configure, tmp_path, balancer):
    with pytest.raises(mozoo.ConfigError, match=f"balancer {balancer} draws none.*use balancer=preference_sampling"):
        train.run(configure("run", f"balancer={balancer}"))
    assert not (tmp_path / "run").exists()


def test_a_draw_may_come_before_another_method(configure):
    job = train.build(configure("run", "balancer=pcgrad", "balancer.before=preference_sampling"))
    train.train_step(job, next(iter(tools.epoch_batches(job, 0))))
    torch.testing.assert_close(job.model.preference, job.phases[0].balancer.loss_balancer.ray)


def test_an_evaluation_asks_for_equal_preferences_unless_told_otherwise(moved, tmp_path, capsys):
    run = shutil.copytree(moved, tmp_path / "run")
    results = []
    for words, file in (
        ((), "evaluation-test.json"),
        (("preference={cut: 3, price: 3}",), "evaluation-test-cut3_price3.json"),
        (("preference={cut: 50}",), "evaluation-test-cut50.json"),
    ):
        evaluate.main([f"run={run}", *words])
        results.append(json.loads((run / file).read_text()))
    assert "preference {cut: 50}" in capsys.readouterr().out
    assert results[2]["preference"] == {"cut": 50.0}
    equal, named, other = (each["metrics"] for each in results)
    assert equal == named == json.loads((run / "summary.json").read_text())["metrics"]
    assert other["test/cut/loss"] != equal["test/cut/loss"]


def test_predictions_follow_the_preference(moved, data, tmp_path):
    stones = next(word for word in data if word.startswith("task.csv=")).removeprefix("task.csv=")
    texts = []
    for number, words in enumerate(((), ("preference={price: 1}",), ("preference={price: 50}",))):
        predict.main([f"run={moved}", f"input={stones}", f"output={tmp_path / str(number)}", *words])
        texts.append((tmp_path / str(number) / "predictions.csv").read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("preference", "problem"),
    [
        (
            "{cat: 1}",
            "error: preference: conditioned: the preference names 'cat', but the objectives are cut, price\n",
        ),
        ("{cut: -1}", "must be finite and at least 0"),
        ("3", "preference must be a number for each objective, such as {cut: 3, price: 1}, got 3"),
        ("{cut: much}", "such as {cut: 3, price: 1}, got {cut: much}"),
        ("{cut", "such as {cut: 3, price: 1}, got {cut"),
    ],
)
def test_a_preference_that_cannot_be_read_is_one_message(moved, capsys, preference, problem):
    assert problem in told(capsys, predict, f"run={moved}", "input=unread.csv", f"preference={preference}")
    assert problem in told(capsys, evaluate, f"run={moved}", f"preference={preference}")
    assert not (moved / "predictions").exists()


def test_other_models_read_no_preference(data, tmp_path, capsys):
    train.run(mozoo.compose([*SHORT, *data, f"run_dir={tmp_path / 'run'}"]))
    for script, words in ((predict, ["input=unread.csv"]), (evaluate, [])):
        problem = told(capsys, script, f"run={tmp_path / 'run'}", *words, "preference={cut: 3}")
        assert problem == "error: preference is for a model that reads one, such as conditioned; leave it out\n"
