"""Names of tasks, and how to make one from its name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, TypeVar

from tasks.task import Task

__all__ = ["create_task", "list_tasks", "register_task", "task_arguments"]

_CLASSES: dict[str, type[Task]] = {}
T = TypeVar("T", bound=type[Task])


def register_task(name: str) -> Callable[[T], T]:
    """Class decorator: make the task known as ``name``. Raises ValueError if the name is taken."""

    def register(cls: T) -> T:
        if name in _CLASSES:
            raise ValueError(f"a task named {name!r} is already registered ({_CLASSES[name].__qualname__})")
        cls.name = name
        _CLASSES[name] = cls
        return cls

    return register


def list_tasks(filter: str = "*") -> list[str]:
    """Names of the registered tasks that match the glob ``filter``, sorted."""
    return sorted(name for name in _CLASSES if fnmatch(name, filter))


def task_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The keyword arguments that ``create_task(name, ...)`` takes. Raises ValueError if the name is unknown."""
    return dict(inspect.signature(_class(name), eval_str=True).parameters)


def create_task(name: str, **arguments: Any) -> Task:
    """Make the task called ``name``; no data are read yet.

    Raises:
        ValueError: Unknown name, or a value out of range.
        TypeError: Unknown argument.
    """
    return _class(name)(**arguments)


def _class(name: str) -> type[Task]:
    if name not in _CLASSES:
        near = difflib.get_close_matches(name, _CLASSES, n=3)
        raise ValueError(
            f"unknown task {name!r}; "
            + (f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(list_tasks())}")
        )
    return _CLASSES[name]
