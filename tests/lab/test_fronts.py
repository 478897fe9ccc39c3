"""lab/fronts.py: what it trains costs the same, and its table and figure follow from the runs."""

import json
from dataclasses import replace

import numpy as np
import pytest

import mozoo
from lab import fronts, results
from tests.lab.test_tables import workplace  # noqa: F401  a fixture
from tests.tiny_runs import table


def option(job, name):
    return next(word.partition("=")[2] for word in job.training.overrides if word.startswith(f"{name}="))


@pytest.mark.parametrize("name", fronts.FRONTS)
def test_the_one_network_trains_as_long_as_the_sweep(name):
    for (setting, _), jobs in fronts.jobs(name).items():
        epochs = sum(int(option(job, "trainer.epochs")) for job in jobs)
        parts = len(fronts.SHARES) if setting != fronts.SHORT else 1
        assert epochs == parts * fronts.FRONTS[name].epochs
        shares = {fronts.SWEEP: [(s,) for s in fronts.SHARES], fronts.EQUAL: [(0.5,)]}
        assert [job.shares for job in jobs] == shares.get(setting, [fronts.ASKED])
        mozoo.compose(jobs[0].training.overrides)  # options that exist


@pytest.mark.usefixtures("workplace")
def test_a_study_is_trained_tested_and_collected(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    small = [word for word in table(tmp_path / "data") if "batch_size" not in word]
    study = replace(fronts.FRONTS["diamonds"], common=["task=diamonds", *small], epochs=1)
    monkeypatch.setattr(fronts, "FRONTS", {"diamonds": study})
    monkeypatch.setattr(fronts, "SHARES", (0.2, 0.8))
    monkeypatch.setattr(fronts, "ASKED", (0.2, 0.5, 0.8))
    monkeypatch.setattr(fronts, "SEEDS", (0,))
    for jobs in fronts.jobs("diamonds").values():
        for job in jobs:
            assert not job.finished
            job.run()
            assert job.finished
            if not job.training.folder.name.startswith("one"):
                tested = json.loads((job.training.folder / "summary.json").read_text())["metrics"]
                assert job.points() == [[job.shares[0], tested["test/cut/loss"], tested["test/price/loss"]]]
    fronts.collect("diamonds")
    points = fronts.Points("diamonds")
    assert {setting: len(points.mean(setting)) for setting in points.values} == {
        fronts.SWEEP: 2,
        fronts.EQUAL: 1,
        fronts.LONG: 3,
        fronts.SHORT: 3,
    }
    assert len(np.unique(points.mean(fronts.LONG), axis=0)) == 3  # each preference has losses of its own
    assert fronts.markdown("diamonds").count("\n") == 6
    fronts.FIGURES["front_diamonds.svg"](results.RESULTS / "front_diamonds.svg")
    assert "sweep" in (results.RESULTS / "front_diamonds.svg").read_text()
