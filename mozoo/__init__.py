"""Multi-objective models for PyTorch, with their losses balanced.

>>> model = mozoo.create_model("shared_trunk", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
>>> balancer = mozoo.create_balancer("pcgrad", model.objectives)
>>> trained = mozoo.load("outputs/<run>")

Each name is documented in docs/using.md. The parts of a training run are modules of this package.
"""
# ruff: noqa: E402  files of a user with the names of these packages are refused before they are imported

from mozoo.shadows import check_packages

check_packages("balancing", "zoo", "tasks")

from balancing import create_balancer, list_balancers
from mozoo.arguments import ConfigError
from mozoo.config import Config, compose
from mozoo.prediction import Predictor, load, load_predictor
from tasks import create_task, list_tasks
from zoo import create_model, list_models

__all__ = [
    "Config",
    "ConfigError",
    "Predictor",
    "compose",
    "create_balancer",
    "create_model",
    "create_task",
    "list_balancers",
    "list_models",
    "list_tasks",
    "load",
    "load_predictor",
]


def __dir__() -> list[str]:
    return __all__
