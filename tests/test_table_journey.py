"""A stranger's table: from a raw file with missing cells to predictions for rows without labels, by the real commands."""

import csv
import json
import subprocess
import sys

from lab.check_docs import write_customers
from scripts import evaluate, predict
from tasks import create_task
from tests.tasks.test_table import customers, write
from tests.tiny_runs import ROOT


def test_from_a_raw_file_to_predictions(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = customers(240)
    write(tmp_path / "customers.csv", columns)
    new = {
        name: cells[:7] for name, cells in columns.items() if name not in ("churn", "spend", "tags", "visits", "size")
    }
    new["city"][0] = "Paris"
    write(tmp_path / "new.csv", new)
    words = (
        "task=table",
        "task.csv=customers.csv",
        "task.objectives={churn: classes, spend: number, tags: tags}",
        "task.criteria={spend: {name: huber, delta: 0.5}}",
        "task.ignore=[visits,size]",
        "balancer=pcgrad",
        "model.width=32",
        "trainer.epochs=12",
        "trainer.batch_size=16",
        "trainer.device=cpu",
        "logger.tensorboard=false",
        "run_dir=run",
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    for said in ("age number", "left out: id", "objective churn: classes: no, yes", "objective tags: tags: mail, vip"):
        assert said in done.stdout
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["metrics"]["test/churn/accuracy"] > 0.8
    assert summary["metrics"]["test/spend/mae"] < 40  # of 54 to 260, in the unit of the column
    assert summary["metrics"]["test/tags/f1"] > 0.8

    evaluate.main([f"run={run}"])
    again = json.loads((run / "evaluation-test.json").read_text())["metrics"]
    assert again == summary["metrics"]

    write(tmp_path / "later.csv", {name: cells[:60] for name, cells in columns.items()})
    capsys.readouterr()
    evaluate.main([f"run={run}", "task.csv=later.csv"])
    assert "of 60 rows have the inputs and labels of a training row" in capsys.readouterr().out
    assert json.loads((run / "evaluation-later.json").read_text())["metrics"]["test/churn/accuracy"] > 0.8

    capsys.readouterr()
    predict.main([f"run={run}", f"input={tmp_path / 'new.csv'}", f"output={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert f"predictions in {tmp_path / 'out'}" in said
    assert "city 1 (Paris)" in said
    with (tmp_path / "out/predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == new["id"]
    assert list(rows[0])[: len(new)] == list(new)
    assert {row["predicted_churn"] for row in rows} <= {"no", "yes"}
    assert all(20 < float(row["predicted_spend"]) < 300 for row in rows)
    assert all(0 <= float(row["predicted_tags_vip"]) <= 1 for row in rows)


def test_the_page_shows_what_a_run_says(tmp_path, monkeypatch):
    write_customers(tmp_path)
    monkeypatch.chdir(tmp_path)
    task = create_task("table", csv="customers.csv", objectives={"churn": "classes", "spend": "number", "tags": "tags"})
    said = "".join(f"  {note}\n" for note in task.splits().notes)
    assert f"```text\n{said}```" in (ROOT / "docs/your_own_table.md").read_text(encoding="utf-8")
