"""The studies compare like with like, and their page says what the runs gave."""

import csv
import math

import numpy as np
import pytest

import mozoo
from lab import benchmark_methods, jobs, method_tables, results
from lab.benchmark_methods import repeats, write_runs
from lab.studies import METHODS, STUDIES, Study, Trial, directions, sweep, trials
from mozoo.comparison.estimates import Estimate
from tasks import create_task
from tasks.results import ResultKey

TINY = Study(
    "2 steps instead of 30 epochs",
    ("trainer.max_steps=2", "trainer.num_threads=1"),
    ("cut", "price"),
    {"cut accuracy": ("test/cut/accuracy", 4), "price error, USD": ("test/price/mae_usd", 1)},
    seeds=(0, 1),
)


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_is_a_valid_configuration(name):
    chosen = [job for job in trials(name) if job.rate == STUDIES[name].rates[1]]
    assert {job.label for job in chosen} >= set(METHODS)
    for job in chosen[:: len(chosen) // 4]:
        config = mozoo.compose(job.training.overrides)
        assert config.optimizer.lr == job.rate
    points = [job for job in chosen if job.label.startswith("fixed")]
    assert len(points) >= (9 if len(STUDIES[name].objectives) == 2 else 12)
    assert len({job.training.folder for job in trials(name)}) == len(trials(name))


@pytest.mark.parametrize("name", STUDIES)
def test_directions_are_those_of_the_task(name):
    study = STUDIES[name]
    known = create_task(**mozoo.compose(list(study.common)).task).results()
    keys = {heading: ResultKey.parse(key).name for heading, (key, _) in study.metrics.items()}
    assert directions(name) == {heading: known[key] for heading, key in keys.items()}


@pytest.mark.parametrize("count", [2, 3])
def test_sweep_has_weights_of_mean_one(count):
    points = np.array(sweep(count))
    assert (points > 0).all()
    np.testing.assert_allclose(points.mean(1), 1, atol=2e-3)
    assert len(np.unique(points, axis=0)) == len(points)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A study of four settings, in folders of its own."""
    monkeypatch.setitem(STUDIES, "tiny", TINY)
    monkeypatch.setattr(results, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


def write(tiny, values, cost=(), rates=()):
    """CSV files of the study, as the command writes them: setting -> (score, accuracies, errors) of two seeds."""
    rows = []
    for label in TINY.settings():
        score, accuracies, errors = values.get(label, (1.0, (0.5, 0.52), (1000.0, 1010.0)))
        for seed, (accuracy, error) in enumerate(zip(accuracies, errors, strict=True)):
            row = {
                "setting": label,
                "lr": dict(rates).get(label, "0.016"),
                "seed": seed,
                "chosen": 1,
                "val delta-m": score,
            }
            rows.append({**row, "cut accuracy": accuracy, "price error, USD": error})
    results.write_rows(tiny / "methods_tiny.csv", rows)
    costs = [{"setting": name, "time": dict(cost).get(name, 1), "memory": 1} for name in METHODS]
    results.write_rows(tiny / "methods_tiny_cost.csv", costs)
    return method_tables.Results("tiny")


def test_validation_chooses_the_point_of_the_sweep(tiny):
    found = write(tiny, {"fixed 0.6 1.4": (0.1, (0.1, 0.1), (9.0, 9.0)), "fixed 1 1": (0.2, (0.9, 0.9), (1.0, 1.0))})
    assert found.tuned == "fixed 0.6 1.4"
    assert "(fixed 0.6 1.4)" in method_tables.verdict(found)
    at_the_end = write(tiny, {"fixed 1.8 0.2": (0.1, (0.1, 0.1), (9.0, 9.0))})
    assert "(fixed 1.8 0.2, the last at that end: a wider sweep may do better)" in method_tables.verdict(at_the_end)


def test_better_means_that_intervals_do_not_meet(tiny):
    values = {
        "only cut": (1.0, (0.5, 0.5), (math.nan, math.nan)),
        "only price": (1.0, (math.nan, math.nan), (1000.0, 1000.0)),
        "fixed 1 1": (0.1, (0.60, 0.601), (1000.0, 1001.0)),
        "mgda": (1.0, (0.80, 0.801), (1000.0, 1001.0)),  # better
        "pcgrad": (1.0, (0.30, 0.301), (1000.0, 1001.0)),  # worse
        "cagrad": (1.0, (0.50, 0.90), (1000.0, 1001.0)),  # better on average, but who knows
        "dwa": (1.0, (math.nan, math.nan), (math.nan, math.nan)),  # diverged
    }
    found = write(tiny, values, cost=[("mgda", 2.5)])
    assert found.delta("mgda").mean == pytest.approx(-30.0, abs=0.2)  # 60 % better in one of two results
    said = method_tables.verdict(found)
    better, same, worse = said.split("better ")[1].split(";")[0], said.split("intervals ")[1].split(";")[0], said[-80:]
    assert better == "`mgda`"
    assert "`cagrad`" in same
    assert "`pcgrad`" in worse
    assert "`dwa`" in worse.split("worse")[1]
    ranks = found.ranks(["mgda", "pcgrad", "cagrad", "fixed 1 1"])
    assert ranks == {"mgda": 1.0, "pcgrad": 2.0, "cagrad": 1.0, "fixed 1 1": 1.5}
    table = method_tables.table(found)
    assert "| `mgda` | 0.016 | 0.8005 ±" in table
    assert "| 2.50 | 1.00 |" in table
    assert "diverged" in table


def test_figure_frames_the_many_and_names_the_far(tiny):
    places = {label: (1.0, (0.5 + i / 1000,) * 2, (1000.0 + i,) * 2) for i, label in enumerate(TINY.settings())}
    far = {"mgda": (1.0, (0.05, 0.05), (1000.0, 1000.0)), "dwa": (1.0, (math.nan,) * 2, (math.nan,) * 2)}
    costs = [(name, 1 + i / 10) for i, name in enumerate(METHODS)]
    write(tiny, places | far, cost=costs)
    pairs, cost = method_tables.draw_results("tiny").axes
    for panel, value in ((pairs, "0.05"), (cost, None)):
        low, high = panel.get_xlim()
        hollow = [line for line in panel.get_lines() if line.get_markerfacecolor() == "none"]
        assert len(hollow) == 1
        assert value is None or [text.get_text() for text in panel.texts] == [value]
        assert all(low <= line.get_xdata()[0] <= high for line in panel.get_lines() if line.get_marker() in ("o", "s"))
    assert pairs.get_xlim()[0] > 0.4
    named = {text.get_text().partition(" ")[2] for text in cost.texts}
    assert named >= {"sum", "pcgrad", "static weights, chosen"}
    assert "dwa" not in named, "it diverged"


@pytest.mark.parametrize(("shares", "scale"), [((0.9, 0.1), "linear"), ((1.0, 1e-6), "log"), ((1.2, -0.2), "linear")])
def test_figure_of_weights_shows_small_shares(tiny, shares, scale):
    folder = tiny / "mgda"
    folder.mkdir()
    rows = [{"step": step, "weight/cut": shares[0], "weight/price": shares[1]} for step in (10, 20)]
    results.write_rows(folder / "balance.csv", rows)
    panel, *rest = method_tables.draw_weights("tiny", {"mgda": folder}).axes
    assert panel.get_yscale() == scale
    assert [line.get_label() for line in panel.get_lines()] == ["cut", "price"]
    assert not any(other.axison for other in rest)


def test_a_rate_at_an_end_of_the_grid_is_reported(tiny):
    assert "Best at an end" not in method_tables.table(write(tiny, {}))
    table = method_tables.table(write(tiny, {}, rates=[("dwa", "0.064"), ("only cut", "0.004")]))
    assert "Best at an end of these rates, and maybe better beyond it: `dwa`, only cut.\n" in table


def test_intervals_that_touch_are_no_difference():
    one, other = Estimate(1.0, 0.5), Estimate(2.0, 0.5)
    assert not method_tables.beyond(other, one, higher=True)
    assert method_tables.beyond(Estimate(2.01, 0.5), one, higher=True)
    assert method_tables.beyond(one, Estimate(2.01, 0.5), higher=False)
    assert not method_tables.beyond(Estimate(math.nan, None), one, higher=True)


def test_runs_become_rows_and_a_rate_is_chosen(tiny, monkeypatch):
    settings = {"sum": ("balancer=sum",)}
    monkeypatch.setattr(Study, "settings", lambda self: settings)
    for job in trials("tiny"):
        job.run()
        assert job.finished
        folder = job.training.folder
        assert not list(folder.rglob("*.pt")) + list(folder.rglob("*.safetensors"))
    other = Study(TINY.size, ("trainer.max_steps=3",), TINY.objectives, TINY.metrics)
    with monkeypatch.context() as changed:
        changed.setitem(STUDIES, "tiny", other)
        assert not any(job.finished for job in trials("tiny"))  # runs of two steps
    rates = {job.rate: job.validation()["price error, USD"] for job in trials("tiny")}
    assert len(set(rates.values())) == 3
    accuracy = {job.rate: job.validation()["cut accuracy"] for job in trials("tiny")}
    reference = {"cut accuracy": 0.5, "price error, USD": 1000.0}
    monkeypatch.setattr(benchmark_methods, "baseline", lambda *_: reference)
    worth = {rate: rates[rate] / 1000.0 - accuracy[rate] / 0.5 for rate in rates}
    best = min(worth, key=worth.get)
    chosen = repeats("tiny")
    assert [(job.rate, job.seed) for job in chosen] == [(best, 0), (best, 1)]
    chosen[1].run()
    write_runs("tiny")
    with (tiny / "methods_tiny.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen"] for row in rows].count("1") == 2
    assert len(rows) == 4
    assert float(rows[0]["price error, USD"]) == pytest.approx(
        trials("tiny")[0].summary()["metrics"]["test/price/mae_usd"], rel=1e-5
    )
    assert rows[0]["command"].startswith("python train.py trainer.max_steps=2 ")


def test_a_run_that_diverges_is_a_result(tiny, monkeypatch):
    def explode(*_, **__):
        raise mozoo.Diverged("step 1: loss cut is not finite")

    monkeypatch.setattr(jobs, "train_quietly", explode)
    job = Trial("tiny", "sum", 4e-3, 0)
    job.run()
    assert job.finished
    assert job.score() == math.inf
    assert job.delta({"cut accuracy": 0.5, "price error, USD": 1000.0}) == math.inf
    assert "not finite" in job.diverged.read_text()
