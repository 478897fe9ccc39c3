"""``torch.hub.load(repository, name, ...)`` for every model of the zoo, and its weights."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

import zoo

dependencies = ["torch", "huggingface_hub", "safetensors", "timm"]


def _entry(name: str) -> Callable[..., nn.Module]:
    build = zoo.model_entrypoint(name)

    @functools.wraps(build, updated=())
    def entry(*args: Any, **arguments: Any) -> nn.Module:
        named = inspect.signature(build).bind_partial(*args).arguments
        return zoo.create_model(name, **named, **arguments)

    return entry


globals().update({name: _entry(name) for name in zoo.list_models()})
