"""Options of models, tasks and balancers: checks against signatures, values from the task."""

from __future__ import annotations

import difflib
import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Union, get_args, get_origin

from balancing.choices import fits
from mozoo.renames import renamed, renamed_value
from tasks import Splits, Task


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key and the fix."""


class PartialError(RuntimeError):
    """Some files could not be used, which the message names; the others are done."""


@contextmanager
def constructing() -> Iterator[None]:
    """Errors of a constructor about its arguments, or for lack of memory, become ConfigErrors."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    except (MemoryError, OverflowError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search(r"allocate|out of memory|overflow", str(error)):
            raise
        asked = re.search(r"allocate (\d+) bytes", str(error))
        size = f" ({int(asked[1]) / 2**30:,.0f} GiB)" if asked else ""
        raise ConfigError(f"there is no memory for a part of this size{size}; choose a smaller one") from error


def resolve_arguments(
    group: str, section: Mapping[str, Any], task: Task, splits: Splits, objectives: Sequence[str] | None = None
) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a config group, with every value ``auto`` replaced by the task's.

    Values and options by objective are cut down to ``objectives``, if given: each phase has its own.

    Raises ConfigError if the task has no such value, which means that the two do not fit together.
    """
    arguments = {}
    if group == "model":
        task = task.for_model(section)
    known = {objective.name for objective in task.objectives}
    for key, value in section.items():
        if key == "name":
            continue
        if isinstance(value, Mapping) and "name" in value:  # a method before another
            inner, options = resolve_arguments(f"{group}.{key}", value, task, splits, objectives)
            arguments[key] = {"name": inner, **options}
            continue
        if group == "model" and value != "auto":
            _check_against_task(key, value, task, splits)
        try:
            actual = task.auto_value(key, splits) if value == "auto" else value
            by_objective = isinstance(actual, Mapping) and set(actual) <= known
            arguments[key] = _only(actual, objectives) if value == "auto" or by_objective else actual
        except KeyError:
            raise ConfigError(
                f"{group} {section['name']!r} asks its task for {key!r}, which task {task.name!r} cannot say; "
                f"they do not fit together: choose another task, or set {group}.{key}"
            ) from None
    return section["name"], arguments


def _check_against_task(key: str, value: Any, task: Task, splits: Splits) -> None:
    """Raise ConfigError for sizes of inputs or outputs that contradict the data."""
    if key not in ("in_features", "in_channels", "classifiers", "regressors"):
        return
    try:
        actual = task.auto_value(key, splits)
    except KeyError:
        return  # the task leaves it to the user
    if not isinstance(actual, Mapping):
        if value != actual:
            raise ConfigError(f"model.{key}={value}, but the data of task {task.name!r} have {actual}; leave it out")
        return
    for name in value if isinstance(value, Mapping) else ():
        if name in actual and value[name] != actual[name]:
            raise ConfigError(
                f"model.{key}: {name!r} has {value[name]} outputs, but the data of task {task.name!r} ask for {actual[name]}; "
                f"leave model.{key} out"
            )


def _only(fact: Any, objectives: Sequence[str] | None) -> Any:
    if objectives is None:
        return fact
    if isinstance(fact, Mapping):
        return {name: value for name, value in fact.items() if name in objectives}
    return tuple(name for name in fact if name in objectives) if isinstance(fact, tuple) else fact


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean a, b?`` with the nearest names, or all of them if none is near."""
    prefix = name.rpartition(".")[0] + "."  # all keys of a section share it
    bare = {option.removeprefix(prefix): option for option in sorted(known)}
    near = [bare[match] for match in difflib.get_close_matches(name.removeprefix(prefix), bare, n=3)]
    return f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(bare.values())}"


def some(names: Sequence[str], shown: int = 4, separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = len(names) - shown
    return separator.join(names[:shown]) + (f"{separator}and {more} more" if more > 0 else "")


def check_arguments(group: str, section: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    """Check the options of a config group against a signature. Raises ConfigError."""
    for key, value in section.items():
        if key == "name":
            continue
        if key not in parameters:
            unknown = f"{group} {section['name']!r} has no option {key!r}; {did_you_mean(key, parameters)}"
            raise ConfigError(renamed(f"{group}.{key}") or unknown)
        wanted, from_task = parameters[key].annotation, value == "auto" and group != "task"
        if problem := renamed_value(f"{group}.{key}", value):
            raise ConfigError(problem)
        if not from_task and not fits(value, wanted):
            raise ConfigError(f"{group}.{key} must be {_describe(wanted)}, got {value!r}")


def _describe(wanted: Any) -> str:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if wanted is type(None):
        return "null"
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping of {_describe(arguments[0])} to {_describe(arguments[1])}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list of {_describe(arguments[0])}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a string", Any: "anything"}.get(
        wanted, str(wanted)
    )
