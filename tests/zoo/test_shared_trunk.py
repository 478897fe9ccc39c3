"""The options of the shared trunk."""

import pytest
import torch
from torch import nn

from zoo import create_model, list_models, register_model
from zoo.registry import ModelInfo


def make(**arguments):
    return create_model(
        "shared_trunk", **{"in_features": 4, "classifiers": {"a": 3}, "regressors": {"b": 2}, **arguments}
    )


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("depth", [1, 4])
def test_norm_and_depth(norm, depth):
    model = make(norm=norm, depth=depth, width=8)
    outputs = model(torch.randn(6, 4))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {"a": (6, 3), "b": (6, 2)}
    assert sum(isinstance(m, nn.BatchNorm1d) for m in model.modules()) == (depth if norm == "batch" else 0)
    assert sum(isinstance(m, nn.LayerNorm) for m in model.modules()) == (depth if norm == "layer" else 0)


def test_any_number_of_heads():
    model = make(classifiers={}, regressors={f"r{i}": 1 for i in range(5)})
    assert model.objectives == tuple(f"r{i}" for i in range(5))
    single = make(classifiers={"only": 2}, regressors={})
    assert single.shared_parameters() == []
    assert set(single.objective_parameters("only")) == set(single.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"norm": "group"},
        {"dropout": 1.0},
        {"width": 0},
        {"depth": 0},
        {"classifiers": {"a": 0}},
        {"classifiers": {}, "regressors": {}},
        {"classifiers": {"x": 2}, "regressors": {"x": 1}},
    ],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="shared_trunk"):
        make(**wrong)


def test_registry_suggests_and_refuses_duplicates():
    assert list_models("*_trunk") == ["shared_trunk"]
    with pytest.raises(ValueError, match="did you mean shared_trunk"):
        create_model("shared_trunc")
    with pytest.raises(ValueError, match="already registered"):
        register_model("shared_trunk", ModelInfo("s", "i", "o", "diamonds", "x"))(nn.Identity)
