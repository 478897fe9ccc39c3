"""A stranger's journey: photos of two sizes with masks and heights, from raw files to predictions."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import mozoo
import train
from mozoo.inference import predict
from mozoo.run_evaluation import evaluate_run
from tasks import DataError
from tests.tasks.maps_of_photos import arrays, write_photos

MAPS = "{ground: {kind: classes, classes: [sky, grass, disk]}, height: {kind: depth, scale: 0.001}, border: {kind: binary}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("journey")


@pytest.fixture(scope="module")
def run(place):
    write_photos(place / "photos", 16)
    overrides = [
        *("model=dense", "model.encoder=test_resnet", "model.width=8", "task=maps", f"task.root={place / 'photos'}"),
        *(f"task.maps={MAPS}", "task.height=32", "task.width=48", "task.criteria={ground: dice_cross_entropy}"),
        *("trainer.device=cpu", "trainer.epochs=30", "trainer.batch_size=4", "trainer.num_threads=1"),
        *("trainer.precision=fp32", "logger.tensorboard=false", f"data_dir={place}", f"run_dir={place / 'run'}"),
    ]
    train.run(mozoo.compose(overrides))
    return place / "run"


def test_training_ends_better_than_a_constant(run):
    summary = json.loads((run / "summary.json").read_text())
    metrics = summary["metrics"]
    assert set(summary["higher_is_better"]) == set(metrics)
    assert metrics["test/ground/miou"] > 0.4
    assert metrics["test/height/abs_err"] < 8  # metres; the mean depth everywhere has 7.4
    report = (run / "report.html").read_text()
    assert "Image, then prediction and truth of each map." in report
    card = (run / "best/README.md").read_text()
    assert "| `ground` | logits of 3 classes: sky, grass, disk |" in card
    assert "| `border` | logit, greater than 0 for yes |" in card


def test_an_evaluation_repeats_the_test(run):
    evaluate_run(train.build, str(run))
    tested = json.loads((run / "summary.json").read_text())["metrics"]
    found = json.loads((run / "evaluation-test.json").read_text())["metrics"]
    assert found == pytest.approx(tested, rel=1e-5)


def test_predictions_have_the_sizes_of_the_photos(run, place):
    (place / "new").mkdir()
    for i in (20, 21):
        Image.fromarray(arrays(i)["images"]).save(place / f"new/q{i}.png")
    predict(str(run), str(place / "new"), str(place / "out"), device="cpu")
    predict(str(run), str(place / "new"), str(place / "small"), device="cpu", size="model")
    for i, shape in ((20, (40, 56)), (21, (48, 48))):
        ground, height, border = (np.load(place / f"out/q{i}-{name}.npy") for name in ("ground", "height", "border"))
        assert (ground.shape, ground.dtype) == (shape, np.uint8)
        assert (ground == arrays(i)["ground"])[:-3].mean() > 0.7  # in the margins too, which training cut off
        assert 0.1 < height.mean() < 40
        assert 0 <= border.min() <= border.max() <= 1
        assert Image.open(place / f"out/q{i}-height.png").size == shape[::-1]
        assert np.load(place / f"small/q{i}-ground.npy").shape == (32, 48)
    with (place / "out/ground.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["sky", "grass", "disk"]


def test_resume_and_evaluation_refuse_other_photos(run, place):
    Image.fromarray(arrays(30)["images"]).save(place / "photos/images/p30.png")
    try:
        with pytest.raises(DataError, match="has changed since training"):
            evaluate_run(train.build, str(run))
    finally:
        (place / "photos/images/p30.png").unlink()
