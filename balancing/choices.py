"""One check of arguments: names, choices, finite numbers. Standard library alone."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

F = TypeVar("F", bound=Callable[..., Any])


def check_choices(owner: str | None = None) -> Callable[[F], F]:
    """Decorator that checks arguments of functions and classes.

    Their names, values of those annotated with a ``Literal``, and that numbers are finite, also in mappings and lists; those that
    a class names in ``may_be_infinite`` are not NaN. A class is checked when it is made. Annotations are read at the first call.

    Args:
        owner: What messages begin with; the name of the function or class if not given.

    Raises:
        ValueError: When what was decorated is called with another value.
        TypeError: When it is called with an unknown name.
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
            _check_names(owner, signature().parameters, kwargs)
            given = {}  # the call below raises it where it belongs
        for name, value in [*kwargs.items(), *given.items()]:
            wrong = _not_finite(value)
            infinite = name in getattr(args[0], "may_be_infinite", ()) if args else False
            if wrong is not None and not (infinite and math.isinf(wrong)):
                raise ValueError(f"{owner}: {name} must be finite, got {wrong}")
            if name in annotations():
                raise_for_choice(owner, name, value, annotations()[name])
        return function(*args, **kwargs)

    return checked


def _check_names(owner: str, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Raise TypeError for a name in ``given`` that is no parameter."""
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name != "self"]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(known)}"
            raise TypeError(f"{owner} has no option {name!r}; {hint}")


def _not_finite(value: Any) -> float | None:
    """A number in ``value`` that is not finite, also in mappings and sequences."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((wrong for item in value if (wrong := _not_finite(item)) is not None), None)
    return None


def _kinds(annotation: Any) -> Iterator[Any]:
    """The members of a union, or what is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
