"""Rows of models, balancers, tasks, optimizers and schedulers, which are chosen by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import balancing
import tasks
import zoo
from mozoo.commands.recorded import recorded
from mozoo.config import SCHEDULES, import_modules

Row = dict[str, Any]
_SHAPES = {
    "cosine": "half a cosine from optimizer.lr to scheduler.end",
    "tanh": "a hyperbolic tangent, flat at its start and at its end",
    "step": "scheduler.decay_rate times as high after every scheduler.decay_every of the steps",
    "poly": "a straight line to the power of scheduler.decay_rate",
    "none": "constant",
}


def with_imports(words: Sequence[str]) -> list[str]:
    """Import what ``imports=[mine]`` names, and return the other words. Raises ConfigError."""
    lists = [word.removeprefix("imports=").strip("[]") for word in words if word.startswith("imports=")]
    import_modules([name.strip() for each in lists for name in each.split(",")])
    return [word for word in words if not word.startswith("imports=")]


def models() -> list[Row]:
    """Every model, also one without measurements."""
    known = recorded("models")
    missing: Row = {"parameters": None, "operations": None, "results": {}, "command": None}
    return [
        {"name": name, "task": zoo.model_info(name).default_task, **known.get(name, missing)}
        | {"weights": zoo.list_models(f"{name}.*", pretrained=True), "description": zoo.model_info(name).summary}
        for name in zoo.list_models()
    ]


def balancers() -> list[Row]:
    """Every balancer, with the cost of its step."""
    known = recorded("balancers")
    return [
        {"name": name, **known.get(name, {"time": None, "studies": None})}
        | {"description": first_line(balancing.balancer_class(name))}
        for name in balancing.list_balancers()
    ]


def all_tasks() -> list[Row]:
    """Every task, with the models that are trained on it unless another is given."""
    defaults = {name: zoo.model_info(name).default_task for name in zoo.list_models()}
    return [
        {"name": name, "models": [model for model, task in defaults.items() if task == name]}
        | {"description": first_line(tasks.task_class(name))}
        for name in tasks.list_tasks()
    ]


def optimizers() -> list[Row]:
    """The optimizers of timm that need first derivatives alone."""
    from timm.optim import get_optimizer_info, list_optimizers  # timm takes most of a second to import

    names = [str(name) for name in list_optimizers() if name != "adahessian"]
    return [{"name": name, "description": get_optimizer_info(name).description} for name in names]


def schedulers() -> list[Row]:
    """The shapes of the learning rate over a run."""
    return [{"name": name, "description": _SHAPES[name]} for name in SCHEDULES]


def first_line(entry: Any) -> str:
    """The first line of a docstring, without marks of code."""
    return (inspect.getdoc(entry) or "").partition("\n")[0].replace("``", "")


#: Word of the command line -> what makes the rows.
KINDS: dict[str, Callable[[], list[Row]]] = {
    "models": models,
    "balancers": balancers,
    "tasks": all_tasks,
    "optimizers": optimizers,
    "schedulers": schedulers,
}
