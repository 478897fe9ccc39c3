"""Checks of values that a caller gives by objective."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .errors import BalancingError


def ordered_losses(
    owner: str, objectives: Sequence[str], losses: Mapping[str, Tensor], differentiable: bool = True
) -> list[Tensor]:
    """The losses in the order of ``objectives``, in single precision at least.

    Raises ValueError or BalancingError, which begin with ``owner``, for names and tensors that do not fit.
    """
    for name in losses:
        if name not in objectives:
            raise ValueError(f"{owner}: {unknown_objective(name, objectives)}")
    values = []
    for name in objectives:
        if name not in losses:
            raise ValueError(f"{owner}: the loss of objective {name!r} is missing")
        value = losses[name]
        if not isinstance(value, Tensor):
            raise ValueError(f"{owner}: the loss of objective {name!r} must be a tensor, got {value!r}")
        if value.dim() != 0:
            raise ValueError(
                f"{owner}: the loss of objective {name!r} must be a scalar, got shape {tuple(value.shape)}"
            )
        if differentiable and not value.requires_grad:
            raise BalancingError(f"{owner}: the loss of objective {name!r} does not depend on any trainable parameter")
        values.append(value.float() if value.dtype in (torch.float16, torch.bfloat16) else value)
    return values


def objective_vector(
    owner: str, objectives: Sequence[str], values: Mapping[str, float], default: float | None, positive: bool = False
) -> Tensor:
    """(K,) float64 tensor from a mapping by objective.

    Raises ValueError for an unknown name, a missing one without default, and a value that is not ``positive``.
    """
    for name, value in values.items():
        if name not in objectives:
            raise ValueError(f"{owner}: {unknown_objective(name, objectives)}")
        if not math.isfinite(value):
            raise ValueError(f"{owner}: the value for objective {name!r} must be finite, got {value}")
        if positive and not value > 0:
            raise ValueError(f"{owner}: the value for objective {name!r} must be positive, got {value}")
    missing = [name for name in objectives if name not in values]
    if missing and default is None:
        raise ValueError(f"{owner}: no value for objective {missing[0]!r}")
    return torch.tensor([float(values.get(name, default)) for name in objectives], dtype=torch.float64)  # type: ignore[arg-type]


def require_positive(owner: str, objectives: Sequence[str], losses: Tensor) -> None:
    """Raise BalancingError naming the first objective whose loss is not positive."""
    for name, value in zip(objectives, losses.tolist(), strict=True):
        if not value > 0:
            raise BalancingError(f"{owner}: the loss of objective {name!r} is {value:.6g}, but must be positive here")


def unknown_objective(name: str, objectives: Sequence[str]) -> str:
    """Message about an unknown objective, with the nearest name."""
    near = difflib.get_close_matches(name, objectives, n=1)
    return f"unknown objective {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"the objectives are {', '.join(objectives)}"
    )
