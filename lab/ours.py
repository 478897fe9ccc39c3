"""Names that this repository registers; a process may know others, of a user or of tests."""

from __future__ import annotations

from balancing import balancer_class, list_balancers
from zoo import list_models, model_entrypoint


def balancers() -> list[str]:
    """Methods of the package ``balancing``."""
    return [name for name in list_balancers() if balancer_class(name).__module__.startswith("balancing.")]


def models() -> list[str]:
    """Models of the package ``zoo``."""
    return [name for name in list_models() if model_entrypoint(name).__module__.startswith("zoo.")]
