"""Trained weights that come with the zoo, by names such as ``shared_trunk.diamonds``.

A name is that of a model, a dot, and that of its weights. Each is a run folder in ``zoo/weights`` without tables and
checkpoint: ``best/`` with weights, arguments, preprocessing state and model card, the configuration in ``config.yaml``, and the
test results in ``summary.json``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from inspect import Parameter
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from zoo.stored import is_storable

FOLDER = Path(__file__).resolve().parent / "weights"
_announced: set[str] = set()


def list_weights(filter: str = "*") -> list[str]:
    """Names of the trained weights that match the glob ``filter``, sorted."""
    names = (file.parent.parent.name for file in FOLDER.glob("*/best/model.safetensors"))
    return sorted(name for name in names if fnmatch(name, filter))


def run_folder(source: str | Path) -> Path:
    """The run folder of the weights with this name; a path that exists, or any other, as it is."""
    path = Path(source)
    if path.exists() or str(source) not in list_weights():
        return path
    _announce(str(source))
    return FOLDER / str(source)


def trained_arguments(
    model: str, weights: str, given: Mapping[str, Any], known: Mapping[str, Parameter]
) -> dict[str, Any]:
    """Arguments for a model that takes the weights: those of training, and what else is given.

    Args:
        model: Name of the model.
        weights: Name of its weights, without that of the model.
        given: Plain arguments, which must not differ from those of training.
        known: The arguments that the model has.

    Raises:
        ValueError: There are no such weights, or an argument differs.
    """
    name = f"{model}.{weights}"
    if name not in list_weights():
        own = ", ".join(each.removeprefix(f"{model}.") for each in list_weights(f"{model}.*"))
        there = f"it has {own}" if own else f"it has none, and the zoo has {', '.join(list_weights())}"
        timm = "; pretrained=true starts its encoder with timm's" if "pretrained" in known else ""
        raise ValueError(f"model {model} has no weights {weights!r}; {there}{timm}")
    config = json.loads((FOLDER / name / "best" / "config.json").read_text(encoding="utf-8"))
    trained = {key: config.get(key, parameter.default) for key, parameter in known.items() if key != "pretrained"}
    trained = {key: value for key, value in trained.items() if value is not Parameter.empty}
    for key, value in given.items():
        if key in trained and not _agree(value, trained[key]):
            raise ValueError(
                f"{model}: the weights {weights!r} are of a model with {key}={trained[key]!r}, not {value!r}; leave {key} out, or "
                f"train from the tensors that fit with init={name}"
            )
    return {**given, **trained}


def _agree(given: Any, trained: Any) -> bool:
    """Whether two plain values are the same once JSON has held them."""
    return is_storable(given) and json.loads(json.dumps(given)) == json.loads(json.dumps(trained))


def load_trained(model: str, weights: str, net: nn.Module) -> None:
    """Load the weights into a model that was built with :func:`trained_arguments`, strictly."""
    name = f"{model}.{weights}"
    net.load_state_dict(load_file(FOLDER / name / "best" / "model.safetensors"))
    _announce(name)


def _announce(name: str) -> None:
    """Say once, in the first process, what the weights were trained for."""
    if name in _announced or os.environ.get("RANK", "0") != "0":
        return
    _announced.add(name)
    summary = json.loads((FOLDER / name / "summary.json").read_text(encoding="utf-8"))
    print(f"{name}: weights for task {summary['task']}, trained on {summary['data']}", file=sys.stderr)
