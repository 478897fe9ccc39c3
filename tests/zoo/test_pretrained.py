"""Trained weights of the zoo by their names: what is loaded, what is said about it, and what is refused."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import zoo
from balancing.registry import Registry
from zoo import pretrained
from zoo.registry import register_model
from zoo.shared_trunk import SharedTrunk

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = zoo.list_models(pretrained=True)
DIAMONDS = {"in_features": 21, "classifiers": {"cut": 5}, "regressors": {"price": 1}}


def best(name):
    return pretrained.FOLDER / name / "best"


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_loaded_by_name(name):
    model = zoo.create_model(name)
    stored, state = load_file(best(name) / "model.safetensors"), model.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(tensor.to(state[key]), state[key]) for key, tensor in stored.items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert name.startswith(f"{json.loads((best(name) / 'config.json').read_text())['model']}.")
    other = type(model).from_pretrained(name)
    assert other.objectives == model.objectives
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_card_says_where_weights_come_from(name):
    summary, card = json.loads((best(name).parent / "summary.json").read_text()), (best(name) / "README.md").read_text()
    model = name.partition(".")[0]
    assert (summary["status"], summary["model"]) == ("finished", model)
    assert summary["command"].startswith((f"python train.py model={model}", "python train.py experiment="))
    told = (
        summary["task"],
        summary["data"],
        summary["command"],
        f"seed {summary['seed']}",
        "mozoo",
        *zoo.create_model(name).objectives,
    )
    assert [words for words in told if words not in card] == []
    assert f'mozoo.load("{name}")' in card
    assert "license: mit" in card
    sections = ("Results", "Use", "Data", "Intended use", "Repeat", "Licence")
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == list(sections)
    assert "pip install" in card
    assert "Out of scope: " in card
    assert f"run={name} " in card
    for file in ("summary.json", "config.yaml", "best/config.json", "best/README.md"):
        text = (best(name).parent / file).read_text()
        assert not [word for word in ("/root", "/work", "/tmp", "/home") if word in text]


def test_name_with_the_model_is_the_same():
    models = [
        zoo.create_model("shared_trunk", pretrained="diamonds"),
        zoo.create_model("shared_trunk.diamonds"),
        zoo.create_model("shared_trunk.diamonds", pretrained=True),
        zoo.create_model("shared_trunk", pretrained="diamonds", width=np.int64(192), categories=[], **DIAMONDS),
        torch.hub.load(str(ROOT), "shared_trunk", source="local", trust_repo=True, pretrained="diamonds"),
    ]
    x = torch.randn(3, 21)
    first = models[0](x)
    for model in models[1:]:
        torch.testing.assert_close(dict(model(x)), dict(first), rtol=0, atol=0)


def test_model_with_weights_is_saved_like_any_other(tmp_path):
    zoo.create_model("shared_trunk", pretrained="diamonds").save_pretrained(tmp_path)
    state = zoo.create_model("shared_trunk", pretrained="diamonds").state_dict()
    restored = SharedTrunk.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, state[key]) for key, tensor in restored.state_dict().items())


def test_task_and_licence_are_said_once(monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "_announced", set())
    for _ in range(2):
        zoo.create_model("shared_trunk", pretrained="diamonds")
    said = "shared_trunk.diamonds: weights for task diamonds, trained on the diamonds of ggplot2 (MIT)\n"
    assert capsys.readouterr() == ("", said)
    monkeypatch.setenv("RANK", "1")
    zoo.create_model("gan_points", pretrained="ring_of_gaussians")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("shared_trunk", {"pretrained": "diamond"}, "model shared_trunk has no weights 'diamond'; it has diamonds$"),
        ("shared_trunk.nothing", {}, "model shared_trunk has no weights 'nothing'; it has diamonds"),
        ("shared_trunks.diamonds", {}, "unknown model 'shared_trunks'; did you mean shared_trunk"),
        (
            "shared_trunk_timm",
            {"pretrained": "imagenet"},
            "has no weights 'imagenet'; it has none, and the zoo has .*shared_trunk.diamonds.*; pretrained=true starts its encoder",
        ),
        (
            "shared_trunk",
            {"pretrained": True},
            "no encoder of timm, for which pretrained=true is; it has weights: .*diam",
        ),
        (
            "shared_trunk.diamonds",
            {"width": 64},
            "'diamonds' are of a model with width=192, not 64; leave width out, or",
        ),
        ("shared_trunk.diamonds", {"classifiers": {"cut": 3}}, r"init=shared_trunk.diamonds"),
    ],
)
def test_other_weights_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, **arguments)


def test_unknown_argument_is_named_beside_weights():
    with pytest.raises(TypeError, match="widht"):
        zoo.create_model("shared_trunk", pretrained="diamonds", widht=192)


def test_an_argument_that_is_younger_than_weights_has_its_default(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    folder = tmp_path / "shared_trunk.old" / "best"
    SharedTrunk(4, {"a": 2}, {}, width=8, depth=1).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["norm"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder.parent / "summary.json").write_text('{"task": "table", "data": "a table"}')
    assert zoo.create_model("shared_trunk.old", norm="none", width=8).objectives == ("a",)
    with pytest.raises(ValueError, match="norm='none', not 'layer'"):
        zoo.create_model("shared_trunk.old", norm="layer")


def test_false_is_without_weights():
    assert zoo.create_model("shared_trunk", pretrained=False, **DIAMONDS).objectives == ("cut", "price")
    sizes = {"in_channels": 1, "classifiers": {"a": 2}, "regressors": {}, "backbone": "test_resnet"}
    assert zoo.create_model("shared_trunk_timm", pretrained=False, **sizes).objectives == ("a",)


def test_a_model_that_knows_its_weights_by_name_gets_the_name(monkeypatch):
    def build(weights: int = 0, pretrained: str | None = None):
        return torch.nn.Linear(1, len(pretrained))

    monkeypatch.setattr("zoo.registry._MODELS", Registry("model"))
    register_model("own", zoo.ModelInfo("summary", "x", "any", "diamonds", "ours"))(build)
    assert zoo.create_model("own", pretrained="three").out_features == 5


def test_package_has_them_and_stays_small():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["zoo"]
    files = [file for file in pretrained.FOLDER.rglob("*") if file.is_file()]
    assert {file.parent.parent.name for file in files if file.suffix == ".safetensors"} == set(NAMES)
    for file in files:
        relative = str(file.relative_to(ROOT / "zoo"))
        assert any(fnmatch(relative, pattern) for pattern in patterns), relative
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= 6_000_000
    assert sum(sizes) <= 25_000_000
