"""Names of balancers, and how to make one from its name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any, TypeVar

from balancing.balancer import Balancer

__all__ = ["balancer_arguments", "balancer_class", "create_balancer", "list_balancers", "register_balancer"]

_CLASSES: dict[str, type[Balancer]] = {}
B = TypeVar("B", bound=type[Balancer])


def register_balancer(name: str) -> Callable[[B], B]:
    """Class decorator: make the class known as ``name``. Raises ValueError if the name is taken."""

    def register(cls: B) -> B:
        if name in _CLASSES:
            raise ValueError(f"a balancer named {name!r} is already registered ({_CLASSES[name].__qualname__})")
        cls.name = name
        _CLASSES[name] = cls
        return cls

    return register


def list_balancers(filter: str = "*") -> list[str]:
    """Names of the registered balancers that match the glob ``filter``, sorted."""
    return sorted(name for name in _CLASSES if fnmatch(name, filter))


def balancer_class(name: str) -> type[Balancer]:
    """The class behind ``name``. Raises ValueError with the nearest names if there is none."""
    if name not in _CLASSES:
        near = difflib.get_close_matches(name, _CLASSES, n=3)
        raise ValueError(
            f"unknown balancer {name!r}; "
            + (f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(list_balancers())}")
        )
    return _CLASSES[name]


def balancer_arguments(name: str) -> dict[str, inspect.Parameter]:
    """Every keyword argument that ``create_balancer(name, ...)`` takes: the method's own, then the options all share."""
    cls = balancer_class(name)
    own = inspect.signature(cls, eval_str=True).parameters
    shared = inspect.signature(Balancer, eval_str=True).parameters
    merged = {key: p for key, p in own.items() if p.kind is not p.VAR_KEYWORD}
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        merged |= {key: p for key, p in shared.items() if key not in merged}
    merged.pop("objectives")
    return merged


def create_balancer(name: str, objectives: Sequence[str], **arguments: Any) -> Balancer:
    """Make the balancer called ``name`` for ``objectives``.

    Args:
        name: One of ``list_balancers()``.
        objectives: Names of the losses, in the order of every (K,) tensor.
        arguments: The method's own arguments and the options of :class:`balancing.Balancer`.

    Raises:
        ValueError: Unknown name or value out of range.
        TypeError: Unknown argument.
    """
    return balancer_class(name)(tuple(objectives), **arguments)
