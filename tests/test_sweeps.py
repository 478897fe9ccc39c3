"""docs/sweeps.md: its search runs, and goes on where it was stopped."""

import re
from pathlib import Path

import pytest

import mozoo

optuna = pytest.importorskip("optuna")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "sweeps.md"


def test_the_search_of_the_page_finds_the_best_trial_and_goes_on(tmp_path, stones, monkeypatch):
    (code,) = re.findall(r"<!-- search: run by \S+ -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert "n_trials=20" in code
    compose = mozoo.compose
    small = (
        "trainer.epochs=1",
        f"task.csv={stones}",
        "model.width=4",
        "trainer.device=cpu",
        "logger.tensorboard=false",
    )
    monkeypatch.setattr(mozoo, "compose", lambda words: compose([*words, *small]))
    monkeypatch.setattr("mozoo.tools.write_report", lambda *arguments: None)
    monkeypatch.chdir(tmp_path)
    for added, total in ((2, 2), (1, 3)):
        names = {}
        exec(compile(code.replace("n_trials=20", f"n_trials={added}"), str(PAGE), "exec"), names)
        trials = names["study"].trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * total
    assert {path.name for path in Path("outputs/search").iterdir()} == {"000", "001", "002"}
    assert names["study"].best_value == min(trial.value for trial in trials)
    assert all(0.05 <= trial.params["share"] <= 0.95 and 1e-3 <= trial.params["lr"] <= 3e-2 for trial in trials)
