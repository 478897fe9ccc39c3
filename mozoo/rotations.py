"""Which models, places and tasks a method that learns rotations fits."""

from __future__ import annotations

from typing import Any

from balancing import RotoGrad
from mozoo.arguments import ConfigError
from tasks import Task
from zoo import list_models, model_arguments


def check_rotations(model: Any, balancer: Any, task: Task) -> None:
    """Raise ConfigError where ``rotograd`` has nothing to turn.

    It needs a model with rotations, the features as the place, and objectives that share samples.
    """
    if not isinstance(getattr(balancer, "gradient_balancer", balancer), RotoGrad):
        return
    if getattr(model, "rotations", None) is None or balancer.options.at != "features":
        fitting = [name for name in list_models() if "rotate" in model_arguments(name)]
        raise ConfigError(
            f"balancer {balancer.name} learns a rotation before each head from gradients at the features: it needs "
            f"balancer.at=features, and model.rotate=<how many features> of one of the models {', '.join(fitting)}"
        )
    if task.separate:
        raise ConfigError(
            f"balancer {balancer.name} turns the gradients of a sample together, and in task {task.name} no two objectives "
            "have a sample in common; use another balancer"
        )
