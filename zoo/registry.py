"""Names of models, what they are for, and how to make one from its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from balancing.choices import check_choices
from balancing.registry import Registry

__all__ = [
    "ModelInfo",
    "create_model",
    "list_models",
    "model_arguments",
    "model_entrypoint",
    "model_info",
    "register_model",
]


@dataclass(frozen=True)
class ModelInfo:
    """What a reader wants to know before choosing a model.

    Args:
        summary: One line.
        inputs: The tensors that ``features`` takes, with shapes.
        objectives: The objectives that it can have.
        default_task: The task that ``train.py`` gives it.
        origin: Paper or tradition that it comes from.
    """

    summary: str
    inputs: str
    objectives: str
    default_task: str
    origin: str


@dataclass(frozen=True)
class _Entry:
    build: Callable[..., nn.Module]
    info: ModelInfo


_MODELS: Registry[_Entry] = Registry("model")
F = TypeVar("F", bound=Callable[..., nn.Module])


def register_model(info: ModelInfo) -> Callable[[F], F]:
    """Decorator: make a function that builds a model known by the function's name. Raises ValueError if it is taken."""

    def register(build: F) -> F:
        checked = check_choices()(build)
        _MODELS.add(build.__name__, _Entry(checked, info))
        return checked

    return register


def list_models(filter: str = "*") -> list[str]:
    """Names of the registered models that match the glob ``filter``, sorted."""
    return _MODELS.names(filter)


def model_info(name: str) -> ModelInfo:
    """Description of the model. Raises ValueError with the nearest names if there is none."""
    return _MODELS.get(name).info


def model_entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function that builds the model. Raises ValueError with the nearest names if there is none."""
    return _MODELS.get(name).build


def model_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The keyword arguments that ``create_model(name, ...)`` takes."""
    return dict(inspect.signature(_MODELS.get(name).build, eval_str=True).parameters)


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Build the model called ``name``.

    Raises:
        ValueError: Unknown name, or a value out of range.
        TypeError: Unknown or missing argument.
    """
    return _MODELS.get(name).build(**arguments)
