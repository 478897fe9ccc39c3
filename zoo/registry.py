"""Names of models, what they are for, and how to make one from its name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, TypeVar

from torch import nn

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


_ENTRIES: dict[str, _Entry] = {}
F = TypeVar("F", bound=Callable[..., nn.Module])


def register_model(info: ModelInfo) -> Callable[[F], F]:
    """Decorator: make a function that builds a model known by the function's name. Raises ValueError if it is taken."""

    def register(build: F) -> F:
        if build.__name__ in _ENTRIES:
            raise ValueError(f"a model named {build.__name__!r} is already registered")
        _ENTRIES[build.__name__] = _Entry(build, info)
        return build

    return register


def list_models(filter: str = "*") -> list[str]:
    """Names of the registered models that match the glob ``filter``, sorted."""
    return sorted(name for name in _ENTRIES if fnmatch(name, filter))


def model_info(name: str) -> ModelInfo:
    """Description of the model. Raises ValueError with the nearest names if there is none."""
    return _entry(name).info


def model_entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function that builds the model. Raises ValueError with the nearest names if there is none."""
    return _entry(name).build


def model_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The keyword arguments that ``create_model(name, ...)`` takes."""
    return dict(inspect.signature(_entry(name).build, eval_str=True).parameters)


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Build the model called ``name``.

    Raises:
        ValueError: Unknown name, or a value out of range.
        TypeError: Unknown or missing argument.
    """
    return _entry(name).build(**arguments)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, _ENTRIES, n=3)
        raise ValueError(
            f"unknown model {name!r}; "
            + (f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(list_models())}")
        )
    return _ENTRIES[name]
