"""Names of models, descriptions of them, and construction by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from balancing.choices import check_choices
from balancing.registry import Registry
from zoo.pretrained import list_weights, load_trained, trained_arguments
from zoo.stored import plain


@dataclass(frozen=True)
class ModelInfo:
    """Description of a model, for readers who choose one.

    Args:
        summary: One line.
        inputs: The tensors that ``features`` takes, with shapes.
        objectives: The objectives that the model can have.
        default_task: The task on which ``train.py`` trains it unless another one is given.
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
M = TypeVar("M", bound=nn.Module)


def register_model(name: str, info: ModelInfo) -> Callable[[F], F]:
    """Decorator that registers a class, or a function that builds a model.

    Raises ValueError if the name is taken.
    """

    def register(build: F) -> F:
        checked = check_choices(name)(build)
        _MODELS.add(name, _Entry(checked, info))
        return checked

    return register


def register_variant(
    name: str, info: ModelInfo, model: Callable[..., M]
) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., M]]:
    """Decorator that registers ``model`` with some of its arguments set.

    The decorated function returns these arguments. Its own arguments, each with a default, and the remaining ones of
    ``model`` are the arguments of the variant. Raises ValueError if the name is taken.
    """

    def register(settings: Callable[..., dict[str, Any]]) -> Callable[..., M]:
        own = inspect.signature(settings, eval_str=True).parameters
        others = inspect.signature(model, eval_str=True).parameters
        kept = [parameter for key, parameter in others.items() if key not in settings()]
        required = [parameter for parameter in kept if parameter.default is parameter.empty]
        signature = inspect.Signature([*required, *own.values(), *kept[len(required) :]])

        @functools.wraps(settings)
        def build(*args: Any, **kwargs: Any) -> M:
            arguments = signature.bind(*args, **kwargs).arguments
            chosen = settings(**{key: arguments.pop(key) for key in own if key in arguments})
            return model(**arguments, **chosen)

        build.__signature__ = signature  # type: ignore[attr-defined]
        return register_model(name, info)(build)

    return register


def list_models(filter: str = "*", pretrained: bool = False) -> list[str]:
    """Sorted names of models, or of trained weights (``<model>.<weights>``), by a glob."""
    return list_weights(filter) if pretrained else _MODELS.names(filter)


def model_info(name: str) -> ModelInfo:
    """Description of the model. Raises ValueError with the nearest names if there is none."""
    return _MODELS.get(name).info


def model_entrypoint(name: str) -> Callable[..., nn.Module]:
    """Class or function of the model. Raises ValueError with the nearest names if there is none."""
    return _MODELS.get(name).build


def model_arguments(name: str) -> dict[str, inspect.Parameter]:
    """Keyword arguments of ``create_model(name, ...)``."""
    return dict(inspect.signature(_MODELS.get(name).build, eval_str=True).parameters)


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Build the model called ``name``, in training mode.

    Numbers of numpy and containers of OmegaConf become Python's.

    Args:
        name: Of the model; ``<model>.<weights>`` is the same as ``pretrained=<weights>``.
        arguments: Those of the model, and ``pretrained``: the name of trained weights of the whole model, see
            :func:`list_models`, with which the others can be left out. ``True`` is for models with an encoder of timm: its
            weights there. A model whose own ``pretrained`` is more than a bool gets the value.

    Raises:
        ValueError: Unknown name of a model or of weights, weights of a model with other arguments, no objectives, one named
            twice or unknown, or a value out of range.
        TypeError: Unknown or missing argument.
    """
    given = {key: plain(value) for key, value in arguments.items()}
    pretrained = given.pop("pretrained", None)
    if "." in name and name not in _MODELS.names() and pretrained in (None, True):
        name, _, pretrained = name.partition(".")
    build = _MODELS.get(name).build
    if pretrained is None:
        return build(**given)
    known = model_arguments(name)
    own = known.get("pretrained")
    if isinstance(pretrained, str) and (own is None or own.annotation is bool):
        model = build(**trained_arguments(name, pretrained, given, known))
        load_trained(name, pretrained, model)
        return model
    if own is not None:
        return build(**given, pretrained=pretrained)
    if pretrained:
        names = ", ".join(list_weights(f"{name}.*")) or "none"
        raise ValueError(f"model {name} has no encoder of timm, for which pretrained=true is; it has weights: {names}")
    return build(**given)
