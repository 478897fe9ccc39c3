"""One check of arguments: names, types, choices, sizes of numbers. Standard library alone."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

F = TypeVar("F", bound=Callable[..., Any])
_LARGEST, _SMALLEST = 3.4028235e38, 2.0**-126  # of float32


def check_choices(owner: str | None = None) -> Callable[[F], F]:
    """Decorator that checks arguments of functions and classes.

    Their names and types, values of those annotated with a ``Literal``, and that numbers are finite and those of float32, also
    in mappings and lists; those that a class names in ``may_be_infinite`` are not NaN. A class is checked when it is made.
    Annotations are read at the first call; ``objectives`` are left to the function.

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
        make = vars(target).get("__init__") or getattr(target, "__init__")  # noqa: B009  of a class, mypy warns of the latter
        if "__init__" in vars(target) or (inspect.isfunction(make) and not hasattr(make, "__wrapped__")):
            target.__init__ = _checked(make, name)  # type: ignore[misc]
        return target

    return decorate


def check_value(owner: str, name: str, value: Any, annotation: Any, infinite: bool = False) -> None:
    """Raise an error about a number that float32 does not hold, or see :func:`raise_for_choice`.

    ``infinite`` numbers are allowed on request.
    """
    for number in _numbers(value):
        if number != number or (abs(number) == math.inf and not infinite):
            raise ValueError(f"{owner}: {name} must be finite, got {number}")
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise ValueError(f"{owner}: {name} must be a number of 64 bits, got {_shown(number)}")
        if _LARGEST < abs(float(number)) < math.inf or 0 < abs(float(number)) < _SMALLEST:  # float16 cannot be compared
            raise ValueError(f"{owner}: {name} must be a number of float32, 1.2e-38 to 3.4e38, got {number}")
    raise_for_choice(owner, name, value, annotation)


def raise_for_choice(owner: str, name: str, value: Any, annotation: Any) -> None:
    """Raise an error about a ``value`` that its ``annotation`` excludes.

    ValueError where that names choices, otherwise TypeError. Annotations of other classes than numbers, texts, lists and mappings
    are compared with ``isinstance``.
    """
    if fits(value, annotation):
        return
    kinds = list(_kinds(annotation))
    inner = [get_args(kind)[1] for kind in kinds if _is_mapping(kind)]
    if isinstance(value, Mapping) and len(inner) == 1:
        for key, each in value.items():
            raise_for_choice(owner, f"{name}.{key}", each, inner[0])
    words = list(dict.fromkeys(word for kind in kinds for word in _words(kind)))
    chosen = [word for kind in kinds if get_origin(kind) is Literal for word in map(str, get_args(kind))]
    words = [word for word in words if word not in chosen and not (chosen and word == "None")] + chosen
    error = ValueError if chosen else TypeError
    raise error(f"{owner}: {name} must be {_either(words)}, got {_shown(value)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether ``value`` is of the type, or one of the choices."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if annotation is Any or annotation is None:
        return annotation is Any or value is None
    if origin is Literal:
        return isinstance(value, (str, int, float, type(None))) and not isinstance(value, bool) and value in arguments
    if annotation in (int, float):
        return isinstance(value, Integral if annotation is int else Real) and not isinstance(value, bool)
    if _is_mapping(annotation):
        return isinstance(value, Mapping) and all(fits(each, arguments[1]) for each in value.values())  # any names
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if getattr(value, "ndim", 0) > 0:
            return True  # an array of numbers
        listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return listed and all(fits(item, arguments[0]) for item in value)
    try:
        return isinstance(value, annotation) if isinstance(annotation, type) else True
    except TypeError:  # a protocol
        return True


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _words(kind: Any) -> Iterator[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        yield from map(str, arguments)
    elif _is_mapping(kind):
        yield f"a mapping of {_either(list(_words_of(arguments[0])))} to {_either(list(_words_of(arguments[1])))}"
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        yield f"a list of {_either(list(_words_of(arguments[0])))}"
    else:
        plain = {
            int: "an integer",
            float: "a number",
            bool: "True or False",
            str: "a string",
            type(None): "None",
            Any: "anything",
        }
        yield plain.get(kind, getattr(kind, "__name__", str(kind)))


def _words_of(annotation: Any) -> Iterator[str]:
    for kind in _kinds(annotation):
        yield from _words(kind)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}..."


def _checked(function: Any, owner: str) -> Any:
    signature = functools.cache(functools.partial(inspect.signature, function, eval_str=True))

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        parameters = signature().parameters
        try:
            given = signature().bind(*args, **kwargs).arguments
        except TypeError:
            _check_names(owner, parameters, kwargs)
            given = {}  # the call below raises it where it belongs
        for name, value in [*kwargs.items(), *given.items()]:
            infinite = name in getattr(args[0], "may_be_infinite", ()) if args else False
            check_value(owner, name, value, _annotation(parameters.get(name), value), infinite)
        return function(*args, **kwargs)

    return checked


def _annotation(parameter: inspect.Parameter | None, value: Any) -> Any:
    """What the value of a parameter must fit; ``Any`` for its default, and for objectives."""
    if parameter is None or parameter.name == "objectives" or value is parameter.default:
        return Any
    several = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return Any if several or parameter.annotation is parameter.empty else parameter.annotation


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


def _numbers(value: Any) -> Iterator[Any]:
    """All numbers in ``value``, also in mappings and sequences."""
    if isinstance(value, Real):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The members of a union, or what is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
