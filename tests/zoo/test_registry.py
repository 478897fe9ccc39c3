"""Classes, functions and variants in the registry of models."""

from typing import Literal

import pytest
from torch import nn

import zoo
from balancing.registry import Registry
from zoo.registry import ModelInfo, register_model, register_variant

INFO = ModelInfo("summary", "x", "any", "diamonds", "ours")


class Line(nn.Linear):
    def __init__(self, inputs: int, outputs: int = 2, bias: Literal["yes", "no"] = "yes"):
        super().__init__(inputs, outputs, bias == "yes")


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr("zoo.registry._MODELS", Registry("model"))


def defaults(name):
    return {key: parameter.default for key, parameter in zoo.model_arguments(name).items()}


def test_arguments_of_a_class_are_those_of_its_constructor():
    register_model("line", INFO)(type("Copy", (Line,), {"__init__": Line.__init__}))
    assert list(zoo.model_arguments("line")) == ["inputs", "outputs", "bias"]
    assert zoo.create_model("line", inputs=3, bias="no").bias is None
    with pytest.raises(ValueError, match="line: bias must be yes or no, got 'maybe'"):
        zoo.create_model("line", inputs=3, bias="maybe")


def test_variant_has_the_arguments_that_it_does_not_set():
    @register_variant("plain", INFO, Line)
    def plain():
        """A line without bias."""
        return {"bias": "no"}

    assert list(defaults("plain").items())[1:] == [("outputs", 2)]
    model = plain(3)
    assert isinstance(model, Line)
    assert (model.in_features, model.out_features, model.bias) == (3, 2, None)
    assert zoo.create_model("plain", inputs=3, outputs=5).out_features == 5
    assert zoo.model_entrypoint("plain").__doc__ == "A line without bias."
    with pytest.raises(TypeError, match="bias"):
        zoo.create_model("plain", inputs=3, bias="yes")
    with pytest.raises(TypeError, match="inputs"):
        zoo.create_model("plain")


def test_variant_has_its_own_arguments():
    @register_variant("square", INFO, Line)
    def square(size: int = 4, side: Literal["left", "right"] = "left"):
        return {"inputs": size, "outputs": size}

    assert defaults("square") == {"bias": "yes", "size": 4, "side": "left"}
    assert square().weight.shape == (4, 4)
    assert zoo.create_model("square", size=3, bias="no").weight.shape == (3, 3)
    assert square(3, "right", "no").bias is None  # its own come first among those with defaults
    with pytest.raises(ValueError, match="square: side must be left or right"):
        zoo.create_model("square", side="up")
