"""Several data sets with objectives of their own, as one task: labels, batches, training, evaluation, prediction."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import mozoo
import train
from mozoo import tools
from mozoo.data import batches_per_epoch, sparse_objectives, training_batches
from mozoo.inference import predict
from tasks import DataError, TensorData, create_task
from tasks.batch_order import BatchOrder
from tasks.union import UnionData, _joined
from tests.forks import run
from tests.tasks.maps_of_photos import write_photos
from tests.tiny_runs import stop_after

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
MODEL = ("model=shared_trunk_lenet", "model.channels=[2,3]", "model.kernels=[3,3]", "model.width=4")
SHORT = ("trainer.batch_size=4", "trainer.epochs=2", "trainer.log_every=1", "trainer.device=cpu")


def write_source(folder, column, count, label):
    """Pictures in ``folder`` and a table with one label column; a third of them each validate and test."""
    folder.mkdir()
    lines = [f"path,split,{column}"]
    for i in range(count):
        Image.new("RGB", (12, 12), (20 * (i % 9), 9 * (i % 7), 80)).save(folder / f"{i}.png")
        split = "train" if i < count - 12 else "val" if i < count - 6 else "test"
        lines.append(f"{i}.png,{split},{label(i)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """28 photos with a species, and 20 faces with an age."""
    folder = tmp_path_factory.mktemp("sources")
    write_source(folder / "photos", "species", 28, lambda i: "ab"[i % 2])
    write_source(folder / "faces", "age", 20, lambda i: 20 + i % 5)
    return folder


def sources(folder, size=12):
    images = {"name": "image_table", "image_size": size}
    return {
        "photos": {**images, "csv": str(folder / "photos/labels.csv"), "classification": ["species"]},
        "faces": {**images, "csv": str(folder / "faces/labels.csv"), "regression": ["age"]},
    }


def trained(folder, target, *more):
    given = re.sub(r'"(\w+)":', r"\1:", json.dumps(sources(folder)))
    words = ["task=union", f"task.sources={given}", *MODEL, *SHORT, f"run_dir={target}", *more]
    return train.run(mozoo.compose(words))


def test_sample_has_the_labels_of_its_source_alone(folder):
    task = create_task("union", sources=sources(folder))
    splits = task.splits()
    assert [len(part) for part in splits] == [24, 12, 12]
    assert isinstance(splits.train, UnionData)
    for index in range(24):
        targets = splits.train[index].targets
        assert set(targets) == {"species", "age"}
        assert (targets["species"] == -1, bool(targets["age"].isnan())) == (
            (False, True) if index < 16 else (True, False)
        )
    with pytest.raises(IndexError):
        splits.train[24]


def test_facts_and_reference_losses_are_those_of_the_sources(folder):
    task = create_task("union", sources=sources(folder))
    splits = task.splits()
    alone = {name: create_task(**options) for name, options in sources(folder).items()}
    assert task.auto_value("classifiers", splits) == {"species": 2}
    assert task.auto_value("regressors", splits) == {"age": 1}
    priors = [alone[name].prior_losses(alone[name].splits()) for name in alone]
    assert task.prior_losses(splits) == pytest.approx(priors[0] | priors[1])
    assert task.results() == {key: up for one in alone.values() for key, up in one.results().items()}
    assert sparse_objectives(task, splits.train) == {"species", "age"}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_one_source_and_resume_where_they_stopped(folder, workers):
    train_split = create_task("union", sources=sources(folder), turns="round_robin").splits().train
    whole = list(training_batches(train_split, 4, 0, 1, 0, CPU, workers))
    present = [("photos" if (batch.targets["species"] >= 0).all() else "faces") for batch in whole]
    assert present == ["photos", "faces"] * 4
    rest = list(training_batches(train_split, 4, 0, 1, 3, CPU, workers))
    for one, other in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.inputs[0], other.inputs[0])


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("balancer=sum",), marks=pytest.mark.slow),
        pytest.param(("balancer=pcgrad", "task.per_step=all"), marks=pytest.mark.slow),
        pytest.param(("balancer=uncertainty", "task.turns=temperature"), marks=pytest.mark.slow),
        ("balancer=mgda", "trainer.grad_accum_steps=2", "task.turns=round_robin", "task.per_step=all"),
    ],
)
def test_stopped_run_resumes_bit_for_bit(folder, tmp_path, more, monkeypatch):
    trained(folder, tmp_path / "whole", *more)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert trained(folder, tmp_path / "stopped", *more)["status"] == "stopped"
    config = tools.validate(tools.saved_config(tools.load_checkpoint(tmp_path / "stopped/last.pt")["config"]))
    config.resume = str(tmp_path / "stopped")
    assert train.run(config)["status"] == "finished"
    balance = [(tmp_path / name / "balance.csv").read_text() for name in ("whole", "stopped")]
    assert balance[0] == balance[1]


def test_absent_objective_rests_and_each_source_is_evaluated(folder, tmp_path):
    summary = trained(folder, tmp_path / "run", "task.turns=round_robin")
    assert {"test/species/accuracy", "test/age/mae"} <= set(summary["metrics"])
    with (tmp_path / "run/balance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    photos, faces = rows[0], rows[1]
    assert (photos["loss/age"], faces["loss/species"]) == ("", "")
    assert float(photos["loss/species"]) > 0
    assert float(faces["loss/age"]) > 0


def test_prediction_answers_for_every_objective_in_its_unit(folder, tmp_path):
    trained(folder, tmp_path / "run")
    predict(str(tmp_path / "run"), str(folder / "faces/0.png"), device="cpu")
    with (tmp_path / "run/predictions/0/predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["species"] in ("a", "b")
    assert 10 < float(row["age"]) < 35


def test_page_leads_from_two_folders_to_a_report(tmp_path):
    write_source(tmp_path / "animals", "species", 28, lambda i: "ab"[i % 2])
    write_source(tmp_path / "faces", "age", 20, lambda i: 20 + i % 5)
    (tmp_path / "settings/experiment").mkdir(parents=True)
    (settings,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/your_own_sources.md").read_text(), re.DOTALL)
    (tmp_path / "settings/experiment/sources.yaml").write_text(settings)
    (line,) = re.findall(r"```bash\npython (.*?)\n```", (ROOT / "docs/your_own_sources.md").read_text())
    words = [*line.split()[1:], "run_dir=run", "trainer.batch_size=8", "trainer.max_steps=2", "trainer.device=cpu"]
    done = run("train.py", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {"test/species/accuracy", "test/age/mae"} <= set(summary["metrics"])
    report = (tmp_path / "run/report.html").read_text()
    assert "animals: Images of the test split" in report
    assert "faces: Images of the test split" in report


def test_tables_become_one_table_that_keeps_its_order(monkeypatch):
    data = {
        "a": TensorData((torch.arange(6.0)[:, None],), {"x": torch.arange(6) % 2}),
        "b": TensorData((torch.arange(4.0)[:, None],), {"y": torch.ones(4, 1)}),
    }
    order = BatchOrder((6, 4), "round_robin", 2.0, "one")
    joined = _joined(data, {"x": torch.tensor(-1), "y": torch.tensor([math.nan])}, order)
    assert isinstance(joined, TensorData)
    assert joined.targets["x"].tolist() == [0, 1, 0, 1, 0, 1, -1, -1, -1, -1]
    assert joined.targets["y"].isnan().flatten().tolist() == [True] * 6 + [False] * 4
    batches = list(training_batches(joined.to("cpu"), 2, 0, 0, 0, CPU, 0))
    assert [bool((batch.targets["x"] >= 0).all()) for batch in batches] == [True, False] * 3
    assert batches_per_epoch(joined, 2) == 6
    assert joined.first(3).order is None


def test_inputs_of_different_shapes_are_one_message(folder):
    different = {**sources(folder), "table": {"name": "diamonds"}}
    with pytest.raises((ValueError, DataError), match="one model reads all sources"):
        create_task("union", sources=different).splits()


MISTAKES = [
    (lambda s: {"photos": s["photos"]}, "two sources or more"),
    (lambda s: {**s, "faces": {**s["faces"], "name": "image_tabel"}}, "did you mean image_table"),
    (lambda s: {**s, "faces": {**s["faces"], "flipp": 1}}, "no option 'flipp'"),
    (lambda s: {**s, "faces": {**s["faces"], "fit": "cut"}}, "fit must be"),
    (lambda s: {**s, "faces": "image_table"}, "must be a mapping with the name of a task"),
    (lambda s: {**s, "faces": {**s["faces"], "regression": ["species"]}}, "both have an objective 'species'"),
    (lambda s: {**s, "faces": {**s["faces"], "image_size": 16}}, "image_size is 16 in 'faces' and 12 before"),
    (lambda s: {**s, "gan": {"name": "fashion_gan"}}, "has steps of its own"),
    (lambda s: {**s, "sales": {"name": "table", "csv": "sales.csv"}}, "put the rows of all tables into one"),
    (
        lambda s: {**s, "faces": {**s["faces"], "criteria": {"age": "hubre"}}},
        "source 'faces': task.criteria.age: unknown",
    ),
]


@pytest.mark.parametrize(("change", "told"), MISTAKES, ids=[told for _, told in MISTAKES])
def test_sources_that_do_not_fit_are_one_message(folder, change, told):
    with pytest.raises(ValueError, match=told):
        create_task("union", sources=change(sources(folder)))


def test_maps_of_two_sources_are_those_of_one_model(tmp_path):
    photos = write_photos(tmp_path)
    whole = {"name": "maps", "root": str(photos), "height": 16, "width": 16}
    task = create_task(
        "union",
        sources={
            "labels": {**whole, "maps": {"segmentation": {"kind": "classes", "classes": 3, "folder": "ground"}}},
            "heights": {**whole, "maps": {"height": {"kind": "depth"}}},
        },
    )
    splits = task.splits()
    assert task.auto_value("image_size", splits) == (16, 16)
    assert task.auto_value("maps", splits) == {
        "segmentation": {"kind": "classes", "classes": 3},
        "height": {"kind": "depth"},
    }
    assert task.auto_value("segmentation_classes", splits) is None
    with pytest.raises(KeyError):
        task.auto_value("in_features", splits)
