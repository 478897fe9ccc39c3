"""Weights of the zoo by their names on the command lines: train, predict, evaluate."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

import mozoo
import train
from mozoo.fine_tuning import initialize
from mozoo.prediction import load_predictor
from scripts import evaluate, predict
from zoo import create_model, pretrained

NAME = "shared_trunk.diamonds"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory without runs."""
    monkeypatch.chdir(tmp_path)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_prediction_is_in_words_and_dollars(stones, tmp_path, capsys):
    for _ in range(2):  # the folder that it writes has not the name of the weights
        predict.main([f"run={NAME}", f"input={stones}"])
    found, truth = rows(tmp_path / f"outputs/{NAME}/predictions/stones/predictions.csv"), rows(stones)
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert sum(mine["cut"] == true["cut"] for mine, true in zip(found, truth, strict=True)) > 0.78 * len(truth)
    errors = [abs(float(mine["price"]) - float(true["price"])) for mine, true in zip(found, truth, strict=True)]
    assert sum(errors) / len(errors) < 340
    predict.main(["run=gan_points.ring_of_gaussians", "samples=3"])
    assert (tmp_path / "outputs/gan_points.ring_of_gaussians/predictions/samples/samples.npy").is_file()


def test_evaluation_writes_the_recorded_results(tmp_path, capsys):
    evaluate.main(["run=gan_points.ring_of_gaussians"])
    written = json.loads((tmp_path / "outputs/gan_points.ring_of_gaussians/evaluation-test.json").read_text())
    recorded = json.loads((pretrained.FOLDER / "gan_points.ring_of_gaussians/summary.json").read_text())["metrics"]
    assert written["metrics"] == pytest.approx(recorded, rel=1e-3)
    assert not (pretrained.FOLDER / "gan_points.ring_of_gaussians/evaluation-test.json").exists()


def test_a_folder_of_that_name_comes_first(tmp_path):
    (tmp_path / NAME).mkdir()
    with pytest.raises(mozoo.ConfigError, match="is no run folder"):
        load_predictor(NAME)


@pytest.mark.parametrize(
    ("name", "advice"), [("shared_trunk.diamond", "did you mean shared_trunk.diamonds"), ("x", "choose")]
)
def test_an_unknown_name_lists_the_known_ones(name, advice):
    with pytest.raises(
        mozoo.ConfigError, match=f"there is no folder {name}; .*, or a name of weights of the zoo; {advice}"
    ):
        load_predictor(name)


def test_training_begins_with_them():
    config = mozoo.compose(["model.pretrained=diamonds", "trainer.device=cpu"])
    run = train.build(config)
    stored = load_file(pretrained.FOLDER / NAME / "best" / "model.safetensors")
    assert all(torch.equal(tensor.float(), run.model.state_dict()[key]) for key, tensor in stored.items())
    assert run.arguments["pretrained"] == "diamonds"
    assert "pretrained" not in mozoo.compose(["model.pretrained=null"]).model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.pretrained=stones"], "model shared_trunk has no weights 'stones'; it has diamonds"),
        (
            ["model.pretrained=diamonds", "model.depth=2"],
            "depth=4, not 2; leave depth out, or train from the tensors that fit",
        ),
        (["model.pretrained=true"], "model.pretrained must be a string or null, got True"),
        (["model=shared_trunk_timm", "model.pretrained=3"], "must be true or false or a string or null, got 3"),
    ],
)
def test_what_cannot_begin_is_one_message(words, message):
    with pytest.raises(mozoo.ConfigError, match=message):
        train.build(mozoo.compose([*words, "trainer.device=cpu"]))


def test_init_takes_the_tensors_that_fit():
    model = create_model("shared_trunk", in_features=21, classifiers={"grade": 3}, regressors={"price": 1})
    told = initialize(model, NAME)
    assert told.startswith(
        f"10 of 12 tensors from {NAME}; untouched: head.grade.weight, head.grade.bias; left out of the file: head.cut"
    )
    stored = load_file(pretrained.FOLDER / NAME / "best" / "model.safetensors")
    assert torch.equal(model.state_dict()["head.price.weight"], stored["head.price.weight"].float())
