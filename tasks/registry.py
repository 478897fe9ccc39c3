"""Names of tasks, and how to make one from its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from balancing.choices import check_choices
from balancing.registry import Registry
from tasks.task import Task

_TASKS: Registry[type[Task]] = Registry("task")
T = TypeVar("T", bound=type[Task])


def register_task(name: str) -> Callable[[T], T]:
    """Class decorator: make the task known as ``name``. Raises ValueError if the name is taken."""

    def register(cls: T) -> T:
        _TASKS.add(name, cls)
        cls.name = name
        return check_choices(name)(cls)

    return register


def list_tasks(filter: str = "*") -> list[str]:
    """Names of the registered tasks that match the glob ``filter``, sorted."""
    return _TASKS.names(filter)


def task_class(name: str) -> type[Task]:
    """The class behind ``name``. Raises ValueError with the nearest names."""
    return _TASKS.get(name)


def task_arguments(name: str) -> dict[str, inspect.Parameter]:
    """Keyword arguments of ``create_task(name, ...)``. Raises ValueError for an unknown name."""
    return dict(inspect.signature(_TASKS.get(name), eval_str=True).parameters)


def create_task(name: str, **arguments: Any) -> Task:
    """Make the task called ``name``; no data are read yet.

    Raises:
        ValueError: Unknown name, or a value out of range.
        TypeError: Unknown argument.
    """
    return _TASKS.get(name)(**arguments)
