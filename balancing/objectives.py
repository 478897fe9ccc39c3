"""Checks of losses and names that a caller gives by objective."""

from __future__ import annotations

import difflib
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
        if value.is_complex():
            raise ValueError(f"{owner}: the loss of objective {name!r} must be real, got {value.dtype}")
        if differentiable and not value.requires_grad:
            raise BalancingError(f"{owner}: the loss of objective {name!r} does not depend on any trainable parameter")
        values.append(value.float() if value.dtype in (torch.float16, torch.bfloat16) else value)
    return values


def unknown_objective(name: str, objectives: Sequence[str]) -> str:
    """Message about an unknown objective, with the nearest name."""
    near = difflib.get_close_matches(name, objectives, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the objectives are {', '.join(objectives)}"
    return f"unknown objective {name!r}; {hint}"
