"""Names of balancers, and how to make one from its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .base import Balancer
from .choices import check_choices
from .composed import Composed
from .method import Method
from .objectives import objective_names
from .options import Options
from .registry import Registry

_BALANCERS: Registry[Callable[..., Any]] = Registry("balancer")
F = TypeVar("F", bound=Callable[..., Any])


def register_balancer(name: str) -> Callable[[F], F]:
    """Decorator: register a balancer as ``name``. Raises ValueError if the name is taken."""

    def register(target: F) -> F:
        checked = check_choices(name)(target)
        _BALANCERS.add(name, checked)
        if isinstance(checked, type) and issubclass(checked, Method):
            checked.name = name
        return checked

    return register


def list_balancers(filter: str = "*") -> list[str]:
    """Names of the registered balancers that match the glob ``filter``, sorted."""
    return _BALANCERS.names(filter)


def balancer_class(name: str) -> Any:
    """The class or function behind ``name``. Raises ValueError with the nearest names."""
    return _BALANCERS.get(name)


def balancer_arguments(name: str) -> dict[str, inspect.Parameter]:
    """Keyword arguments of ``create_balancer(name, ...)``: the method's own, then shared ones."""
    own = inspect.signature(balancer_class(name), eval_str=True).parameters
    shared = inspect.signature(Options, eval_str=True).parameters
    merged = {key: p for key, p in own.items() if p.kind is not p.VAR_KEYWORD}
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        merged |= {key: p for key, p in shared.items() if key not in merged}
    merged.pop("objectives")
    return merged | {"before": inspect.signature(create_balancer, eval_str=True).parameters["before"]}


def create_balancer(
    name: str | Sequence[str],
    objectives: Sequence[str],
    *,
    before: str | Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Balancer | Any:
    """Make the balancer called ``name`` for ``objectives``.

    ``create_balancer(["uncertainty", "pcgrad"], ...)`` composes: the first weighs the losses, the second balances the
    gradients of the weighted losses. It is short for ``create_balancer("pcgrad", ..., before="uncertainty")``.

    Args:
        name: One of ``list_balancers()``, or several, of which all but the last weigh losses.
        objectives: Names of the losses, in the order of every (K,) tensor.
        before: A method that weighs the losses first: its name, or ``{"name": ..., argument: value}``.
        arguments: Of the method called ``name`` (the last, if several): its own and :class:`balancing.Options`.

    Returns:
        A :class:`Balancer`; for the names of bilevel methods a :class:`BilevelBalancer`, which has no ``backward``.

    Raises:
        ValueError: Unknown name, value out of range, or methods that do not compose.
        TypeError: Unknown argument.
    """
    if not name:
        raise ValueError("create_balancer needs the name of a method, or several")
    *first, last = [name] if isinstance(name, str) else name
    if first and before is not None:
        raise ValueError(f"{last}: give either a list of methods or before=")
    objectives = objective_names(last, objectives)
    balancer = balancer_class(last)(objectives, **arguments)
    if first:
        return Composed(create_balancer(first, objectives), balancer)
    if before is None:
        return balancer
    chosen: Any = {"name": before} if isinstance(before, str) else before
    if not isinstance(chosen, Mapping) or "name" not in chosen:
        raise ValueError(f"{last}: before= must be a name, or a mapping with a name, got {before!r}")
    return Composed(create_balancer(**{**chosen, "objectives": objectives}), balancer)
