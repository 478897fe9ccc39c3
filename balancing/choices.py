"""One check of arguments: values of a ``Literal``, and no NaN. Standard library alone."""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

F = TypeVar("F", bound=Callable[..., Any])


def check_choices(owner: str | None = None) -> Callable[[F], F]:
    """Decorator that checks arguments annotated with a ``Literal``, of functions and classes.

    A class is checked when it is made. Annotations are read at the first call.

    Args:
        owner: What messages begin with; the name of the function or class if not given.

    Raises:
        ValueError: When what was decorated is called with another value.
    """

    def decorate(target: F) -> F:
        name = owner or target.__name__
        if not isinstance(target, type):
            return _checked(target, name)
        if "__init__" in target.__dict__:
            target.__init__ = _checked(target.__init__, name)  # type: ignore[misc]
        return target

    return decorate


def raise_for_choice(owner: str, name: str, value: Any, annotation: Any) -> None:
    """Raise ValueError if ``value`` is none of those of the ``Literal`` in ``annotation``."""
    kinds = list(_kinds(annotation))
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    others = [kind for kind in kinds if get_origin(kind) is not Literal]
    if not choices or (value in choices and not isinstance(value, bool)):
        return
    if (value is None and type(None) in others) or (others != [type(None)] and others and not isinstance(value, str)):
        return  # what is not a name is checked where it is used
    numbers = ["a number"] if {int, float} & {*others} else []
    raise ValueError(f"{owner}: {name} must be {_either([*numbers, *map(str, choices)])}, got {value!r}")


def _checked(function: Any, owner: str) -> Any:
    signature = functools.cache(functools.partial(inspect.signature, function, eval_str=True))

    @functools.cache
    def annotations() -> Mapping[str, Any]:
        kinds = {name: p.annotation for name, p in signature().parameters.items()}
        return {name: kind for name, kind in kinds.items() if any(get_origin(k) is Literal for k in _kinds(kind))}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature().bind(*args, **kwargs).arguments
        except TypeError:
            given = {}  # the call below raises it where it belongs
        for name, value in given.items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"{owner}: {name} must be a number, got nan")
            if name in annotations():
                raise_for_choice(owner, name, value, annotations()[name])
        return function(*args, **kwargs)

    return checked


def _kinds(annotation: Any) -> Iterator[Any]:
    """The members of a union, or what is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
