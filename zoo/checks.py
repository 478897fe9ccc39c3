"""Checks of arguments; messages begin with the name of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real

from torch import nn

from balancing.registry import suggestion
from balancing.rotations import Rotations

_DEEPEST = 1000  # layers; many more take minutes to make


def check_at_least(model: str, least: int, **values: int) -> None:
    """Raise ValueError if one of the values is below ``least``, or a depth above 1000."""
    for name, value in values.items():
        if not isinstance(value, Real) or not value >= least:
            raise ValueError(f"{model}: {name} must be at least {least}, got {value}")
        if name.endswith("depth") and value > _DEEPEST:
            raise ValueError(f"{model}: {name} must be at most {_DEEPEST}, got {value}")


def check_dropout(model: str, dropout: float) -> None:
    """Raise ValueError for a probability outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{model}: dropout must be in [0, 1), got {dropout}")


def check_timm_name(model: str, kind: str, name: str) -> None:
    """Raise ValueError with the nearest names if timm has no model of that name."""
    import timm  # takes most of a second, and models for tables need none

    if not timm.is_model(name):
        hint = suggestion(name, timm.list_models(), "timm.list_models() names them all")
        raise ValueError(f"{model}: timm has no {kind} {name!r}; {hint}")


def rotations_of(model: str, objectives: Iterable[str], rotate: int, width: int) -> Rotations | None:
    """A rotation of the first ``rotate`` of ``width`` features for each objective; 0: none.

    Raises ValueError for another number of features.
    """
    if rotate == 0:
        return None
    if not 2 <= rotate <= width:
        raise ValueError(f"{model}: rotate must be from 2 to the {width} features, or 0 for none, got {rotate}")
    return Rotations(list(objectives), rotate)


def head_sizes(model: str, classifiers: Mapping[str, int], regressors: Mapping[str, int]) -> dict[str, int]:
    """Objective -> number of outputs.

    Raises:
        ValueError: No objective, an objective named twice or by no name of a module, or a size below 1.
    """
    sizes = {**classifiers, **regressors}
    if not sizes or len(sizes) < len(classifiers) + len(regressors):
        raise ValueError(f"{model} needs at least one objective, and a different name for each")
    for name, size in sizes.items():
        if not name or "." in name or hasattr(nn.ModuleDict, name):
            raise ValueError(f"{model}: an objective cannot be called {name!r}; use letters, digits and _")
        check_at_least(model, 1, **{f"the size of head {name!r}": size})
    return sizes
