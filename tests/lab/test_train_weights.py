"""lab/train_weights.py: trained weights are as good as their record says, and every model has some or a reason."""

import json
import math
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

import train
import zoo
from lab import documents, results, train_weights
from lab.train_weights import LEFT_OUT, WEIGHTS
from mozoo import tools
from mozoo.run_evaluation import evaluate_best
from tasks.results import with_split
from zoo import pretrained

FAST = ("shared_trunk.diamonds",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in WEIGHTS]
)
def test_weights_have_the_recorded_results(name):
    if name == "molecules.qm9" and find_spec("qm9pack") is None:
        pytest.skip("its data are in the package qm9pack")
    found = with_split(evaluate_best(train.build, pretrained.FOLDER / name)[1].values, "test")
    recorded = train_weights.record(name)["metrics"]
    assert found == {
        key: pytest.approx(math.nan if value is None else value, rel=1e-3, nan_ok=True)
        for key, value in recorded.items()
    }


def test_every_model_has_weights_or_a_reason():
    assert set(WEIGHTS) == set(zoo.list_models(pretrained=True))
    with_weights = {name.partition(".")[0] for name in WEIGHTS}
    assert with_weights | {*LEFT_OUT} == {*zoo.list_models()}
    assert not with_weights & {*LEFT_OUT}
    assert [name for name in WEIGHTS if not train_weights.is_packed(name)] == []


def run_here(jobs, processes):
    for each in jobs:
        each.run()
    return {}


@pytest.fixture
def workplace(tmp_path, monkeypatch, stones):
    """Weights of one short run, in folders of their own."""
    tiny = (f"task.csv={stones}", "model.width=8", "model.depth=1", "trainer.max_steps=60", "trainer.batch_size=64")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(train_weights, "WEIGHTS", {"shared_trunk.tiny": tiny})
    monkeypatch.setattr(train_weights, "data_of", lambda name: "a few diamonds (MIT)")
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    monkeypatch.setattr(train_weights, "run_missing", run_here)
    (tmp_path / "docs").mkdir()
    marks = [
        f"<!-- {name}: written by lab/train_weights.py -->\n<!-- end of {name} -->\n"
        for name in ("weights", "left_out")
    ]
    (tmp_path / "docs/weights.md").write_text("".join(marks))
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "9.9"\n')
    return tmp_path


def test_what_is_missing_is_trained_and_packed_once(workplace, monkeypatch):
    train_weights.main([])
    run, packed = workplace / "outputs/weights/shared_trunk.tiny", workplace / "weights/shared_trunk.tiny"
    assert zoo.list_models(pretrained=True) == ["shared_trunk.tiny"]
    assert {tensor.dtype for tensor in load_file(packed / "best/model.safetensors").values()} == {torch.float16}
    summary = json.loads((packed / "summary.json").read_text())
    assert (summary["data"], summary["dtype"], summary["versions"]["mozoo"]) == (
        "a few diamonds (MIT)",
        "float16",
        "9.9",
    )
    assert summary["metrics"] == pytest.approx(json.loads((run / "summary.json").read_text())["metrics"], rel=1e-3)
    assert str(workplace / "outputs") not in (packed / "config.yaml").read_text()
    row = documents.block(workplace / "docs/weights.md", "train_weights", "weights").splitlines()[2]
    assert row.startswith("| `shared_trunk.tiny` | a few diamonds (MIT) | cut accuracy 0.")
    monkeypatch.setattr(train_weights, "pack", None)  # there is nothing to do
    train_weights.main([])
    monkeypatch.setattr(train_weights, "WEIGHTS", {"shared_trunk.tiny": ("seed=1",)})
    assert not train_weights.is_packed("shared_trunk.tiny")  # of another command


def test_half_precision_that_loses_something_is_not_used(workplace, monkeypatch):
    monkeypatch.setattr(train_weights, "TOLERANCE", 0.0)
    train_weights.main([])
    assert train_weights.record("shared_trunk.tiny")["dtype"] == "float32"
    run, packed = (workplace / place / "shared_trunk.tiny" for place in ("outputs/weights", "weights"))
    stored, trained = (load_file(folder / "best/model.safetensors") for folder in (packed, run))
    assert all(torch.equal(stored[key], tensor) for key, tensor in trained.items())


def test_a_file_that_is_too_large_and_data_without_a_licence_are_named(workplace, monkeypatch):
    monkeypatch.setattr(train_weights, "LARGEST", 100)
    monkeypatch.setattr(train_weights, "BLOCKS", {})
    with pytest.raises(SystemExit, match=r"shared_trunk.tiny: 0.0 MB are more than a file may have"):
        train_weights.main([])
    assert zoo.list_models(pretrained=True) == []
    monkeypatch.setattr(train_weights, "data_of", lambda name: "")
    with pytest.raises(SystemExit, match=r"shared_trunk.tiny: the task does not say its data and their licence"):
        train_weights.main([])
