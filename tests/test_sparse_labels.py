"""A column with few labels: batches without any leave its objective out, from end to end."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import mozoo
import train
from mozoo import tools
from tasks import CrossEntropy, Objective, SquaredError, Task, TensorData
from tasks.criteria import MultiLabel
from tests.tiny_runs import stop_after

SHORT = ["trainer.batch_size=4", "trainer.max_steps=12", "trainer.log_every=1", "trainer.device=cpu", "seed=1"]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """24 images to train on, of which two have a weight."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = ["path,split,species,weight"]
    for i in range(36):
        split = "train" if i < 24 else "val" if i < 30 else "test"
        weight = "" if split == "train" and i not in (3, 17) else 1 + i % 5
        Image.new("RGB", (12, 12), (20 * (i % 2), 9 * (i % 7), 80)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{split},{'ab'[i % 2]},{weight}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return [
        *("model=shared_trunk_lenet", "model.channels=[2,3]", "model.kernels=[3,3]", "model.width=4"),
        *("task=image_table", f"task.csv={folder / 'labels.csv'}", "task.image_size=12"),
        *("task.classification=[species]", "task.regression=[weight]", *SHORT),
    ]


def trained(overrides, folder: Path, *more):
    train.run(mozoo.compose([*overrides, f"run_dir={folder}", *more]))
    with (folder / "balance.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "more",
    [
        ("balancer=pcgrad",),
        ("balancer=uncertainty", "trainer.grad_accum_steps=2"),
        ("balancer=mgda", "trainer.grad_accum_steps=2"),
        ("balancer=famo",),
        ("balancer=moco",),
        ("balancer=moml",),
    ],
)
def test_batches_without_labels_leave_the_objective_out(overrides, tmp_path, more, monkeypatch):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    table = trained(overrides, tmp_path / "run", *more)
    labelled = [row["loss/weight"] != "" for row in table]
    assert len(table) == 12
    assert 1 <= sum(labelled) <= 4
    for row, known in zip(table, labelled, strict=True):
        assert (row["weight/weight"] != "") == (known and more[0] != "balancer=moco")  # which finds no weights
        assert row["loss/species"] != ""
    results = json.loads((tmp_path / "run/summary.json").read_text())["metrics"]
    assert all(torch.tensor(value).isfinite() for value in results.values())


def test_the_head_of_an_absent_objective_rests(overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    moved, step = [], train.train_step

    def watched(run, batch):
        before = [p.detach().clone() for p in run.model.objective_parameters("weight")]
        (report,) = step(run, batch)
        same = all(map(torch.equal, before, run.model.objective_parameters("weight")))
        moved.append((report.present[list(report.objectives).index("weight")], not same))
        return [report]

    monkeypatch.setattr(train, "train_step", watched)
    trained(overrides, tmp_path / "run", "balancer=pcgrad")
    assert all(present == changed for present, changed in moved)
    assert {present for present, _ in moved} == {True, False}


def test_resume_with_sparse_labels_is_exact(overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    more = ("balancer=gradnorm", "balancer.before=famo")
    whole = trained(overrides, tmp_path / "whole", *more)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        trained(overrides, tmp_path / "stopped", *more)
    train.run(mozoo.compose([*overrides, *more, f"resume={tmp_path / 'stopped'}"]))
    with (tmp_path / "stopped/balance.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == whole


def test_a_run_with_sparse_labels_has_a_report(overrides, tmp_path):
    trained(overrides, tmp_path / "run", "balancer=pcgrad")
    assert (tmp_path / "run/report.html").is_file()


@pytest.mark.parametrize("missing", [False, True])
def test_objectives_that_may_be_absent_are_found_whatever_their_criterion_counts(missing):
    class Labelled(Task):
        objectives = tuple(
            Objective(name, criterion, {})
            for name, criterion in {
                "weighted": CrossEntropy(("a", "b"), weights=(5.0, 3.0)),
                "light": CrossEntropy(("a", "b"), weights=(0.1, 0.2)),
                "tags": MultiLabel(("x", "y")),
                "number": SquaredError(),
            }.items()
        )

    targets = {"weighted": torch.tensor([0, 1, 1]), "tags": torch.ones(3, 2), "number": torch.ones(3, 1)}
    targets["light"] = targets["weighted"].clone()
    if missing:
        for name, values in targets.items():
            values[1] = -1 if name in ("weighted", "light") else torch.nan
    found = mozoo.data.sparse_objectives(Labelled(), TensorData((torch.zeros(3, 1),), targets))
    assert found == (set(targets) if missing else set())
