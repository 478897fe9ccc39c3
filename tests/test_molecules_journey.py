"""A run on molecules: trained, evaluated, and predictions for an .xyz file."""

import csv
import json

import pytest

import mozoo
import train
from mozoo import tools
from mozoo.inference import predict
from mozoo.run_evaluation import evaluate_run
from tasks.molecule_files import PROPERTIES
from tests.tasks.test_qm9 import METHANE, build_package


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("molecules")
    build_package(place / "qm9")
    return place


@pytest.fixture(scope="module")
def run(place):
    overrides = [
        *("model=molecules", "model.width=8", "model.channels=4", "model.bumps=4", "model.depth=1"),
        *("task.train=10", "task.val=4", "task.test=6", "trainer.batch_size=5", "trainer.epochs=2"),
        *("trainer.device=cpu", "logger.tensorboard=false", f"data_dir={place}", f"run_dir={place / 'run'}"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "write_report", lambda *arguments: None)  # takes longer than the rest
        train.run(mozoo.compose(overrides))
    return place / "run"


def test_an_evaluation_repeats_the_test(run):
    evaluate_run(train.build, str(run))
    tested = json.loads((run / "summary.json").read_text())["metrics"]
    assert {f"test/{name}/mae" for name in PROPERTIES} <= set(tested)
    assert json.loads((run / "evaluation-test.json").read_text())["metrics"] == pytest.approx(tested, rel=1e-5)


def test_predictions_do_not_need_the_data_and_are_in_units(run, place):
    cells = METHANE.split()
    atoms = "\n".join(" ".join(cells[k : k + 4]) for k in range(0, len(cells), 4))
    (place / "new.xyz").write_text(f"5\nmethane\n{atoms}\n1\na single atom\nF 0 0 0\n")
    predict(str(run), str(place / "new.xyz"), str(place / "out"), device="cpu")
    with (place / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == ["row", *PROPERTIES]
    assert 13 < float(rows[0]["alpha"]) < 14  # in the data they are between 13.21 and 13.31
