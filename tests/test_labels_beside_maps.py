"""A stranger's journey: photos with maps, and labels of the whole photo, from a table of paths to predictions."""

import csv
import json
import math

import pytest
from PIL import Image

import mozoo
import train
from mozoo.inference import predict
from mozoo.run_evaluation import evaluate_run
from tasks import DataError
from tests.tasks.maps_of_photos import arrays, write_table

MAPS = "{ground: {kind: classes, classes: [sky, grass, disk]}, height: {kind: depth, scale: 0.001}}"
LABELS = "{sky: classes, radius: number, seen: {kind: tags, separator: '|'}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


def configure(place, *more):
    overrides = [
        *("model=dense", "model.encoder=test_resnet", "model.width=8", "task=maps"),
        *(f"task.csv={place / 'photos/paths.csv'}", f"task.maps={MAPS}", f"task.labels={LABELS}"),
        *("task.height=32", "task.width=48", "task.criteria={sky: focal, radius: huber}"),
        *("trainer.device=cpu", "trainer.epochs=2", "trainer.batch_size=4", "trainer.num_threads=1"),
        *("trainer.precision=fp32", "logger.tensorboard=false", f"data_dir={place}", f"run_dir={place / 'run'}"),
    ]
    return mozoo.compose([*overrides, *more])


@pytest.fixture(scope="module")
def run(place):
    write_table(place / "photos", 14)
    train.run(configure(place))
    return place / "run"


def test_labels_are_objectives_of_the_run(run):
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    for name in ("ground/miou", "height/abs_err", "sky/accuracy", "radius/mae", "seen/loss"):
        assert math.isfinite(metrics[f"test/{name}"]), name
    report = (run / "report.html").read_text()
    assert "Each row: where the samples of one true class went" in report
    assert "How many samples have each tag" in report
    card = (run / "best/README.md").read_text()
    assert "| `sky` | logits of 2 classes: little, much |" in card
    evaluate_run(train.build, str(run))
    found = json.loads((run / "evaluation-test.json").read_text())["metrics"]
    assert found == pytest.approx(metrics, rel=1e-5)


def test_predictions_of_photos_are_lines_of_a_table_beside_their_maps(run, place):
    (place / "new").mkdir()
    for i in (20, 21):
        Image.fromarray(arrays(i)["images"]).save(place / f"new/q{i}.png")
    predict(str(run), str(place / "new"), str(place / "out"), device="cpu")
    with (place / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["q20.png", "q21.png"]
    for row in rows:
        assert row["sky"] in ("little", "much")
        assert -1 < float(row["radius"]) < 2
        assert set(row["seen"].split("|")) <= {"", "sky", "grass"}
    assert Image.open(place / "out/q20-ground.png").size == (56, 40)
    # training cut q21, of another shape: its labels are those of the middle, as in an evaluation
    predict(str(run), str(place / "new"), str(place / "small"), device="cpu", size="model")
    assert (place / "small/predictions.csv").read_text() == (place / "out/predictions.csv").read_text()


def test_another_table_is_tested_and_a_changed_one_refused(run, place):
    table = place / "photos/paths.csv"
    text = table.read_text()
    (place / "photos/few.csv").write_text("\n".join(text.splitlines()[:5]))
    evaluate_run(train.build, str(run), task_csv=str(place / "photos/few.csv"))
    assert "test/radius/mae" in json.loads((run / "evaluation-few.json").read_text())["metrics"]
    table.write_text(text.replace("little", "much", 1))
    try:
        with pytest.raises(DataError, match=r"has changed since training .*in 'sky' is in line 2"):
            evaluate_run(train.build, str(run))
    finally:
        table.write_text(text)


def test_a_model_without_heads_for_labels_is_refused_before_training(run, place):
    with pytest.raises(DataError, match=r"no heads for labels of the whole picture, and task\.labels names sky"):
        train.run(configure(place, "~model.labels", f"run_dir={place / 'other'}"))
    assert not (place / "other").exists()
