"""A sweep: values are checked before the first run, and one that fails does not end the others."""

import json

import pytest

import mozoo
from mozoo.sweeping import check_command
from tests import forks

SHORT = ("trainer.device=cpu", "trainer.max_steps=2", "logger.tensorboard=false", "optimizer=sgd", "scheduler=constant")


def test_a_sweep_goes_on_after_a_run_that_diverges(stones, tmp_path):
    small = (f"task.csv={stones}", "model.width=8", "model.depth=1")
    done = forks.run("train.py", "-m", *SHORT, *small, "optimizer.lr=1e30,0.01", cwd=tmp_path)
    first, last = done.stderr.strip().splitlines()
    assert done.returncode == 1, done.stderr
    assert first.startswith("error: step 2, training samples")
    assert last == "error: 1 of 2 runs failed: optimizer.lr=1e+30"
    (summary,) = tmp_path.glob("outputs/*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "seed=1,a"], "seed: Value 'a'"),
        (["-m", "seed=1,2", "balancer=sum,nosuch"], "nosuch"),
        (["--multirun", "optimizer.lr=1e-3,-1"], "optimizer.lr must be positive"),
        (["-m", "model.depth=2,x"], "model.depth must be an integer"),
    ],
)
def test_wrong_values_are_found_before_the_first_run(words, message):
    with pytest.raises(Exception, match=message):
        check_command(words)


def test_right_values_and_other_sweepers_pass():
    check_command(["-m", "seed=range(3)", "balancer=sum,pcgrad", "model.norm=layer"])
    check_command(["-m", "seed=interval(0,3)"])
    check_command(["seed=1"])


@pytest.mark.parametrize("word", ["~trainer.epochs", "~trainer", "~seed"])
def test_no_key_of_a_run_is_deleted(word):
    with pytest.raises(mozoo.ConfigError, match=f"{word} deletes {word[1:]}, which a run needs"):
        check_command([word])
    check_command(["~model.labels"])


def test_a_key_has_one_value():
    with pytest.raises(mozoo.ConfigError, match="seed is given twice, as seed=1 and as seed=2; keep one"):
        check_command(["seed=1", "balancer=sum", "seed=2"])
