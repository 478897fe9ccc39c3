"""Checks of losses and names that a caller gives by objective."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .errors import BalancingError


def objective_names(owner: str, given: Iterable[str]) -> tuple[str, ...]:
    """The names of the objectives, in order.

    Raises ValueError, which begins with ``owner``, for what has no order or is no list of names, for none, and for equal ones.
    """
    if isinstance(given, (str, bytes, set, frozenset)) or not isinstance(given, Iterable):
        kind = "has no order" if isinstance(given, (set, frozenset)) else "is no list of names"
        raise ValueError(f"{owner}: objectives must be a list or tuple of names; {given!r} {kind}")
    names = tuple(given)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{owner} needs one or more objectives with different names, got {names}")
    return names


def ordered_losses(
    owner: str, objectives: Sequence[str], losses: Mapping[str, Tensor | None], differentiable: bool = True
) -> list[Tensor | None]:
    """The losses in the order of ``objectives``, in single precision at least; ``None``: absent.

    Raises ValueError or BalancingError, which begin with ``owner``, for names and tensors that do not fit.
    """
    if not isinstance(losses, Mapping):
        wanted = ", ".join(f"{name!r}: ..." for name in objectives)
        got = f"a tensor of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"{owner}: losses must be a mapping from objective to loss, {{{wanted}}}, got {got}")
    for name in losses:
        if name not in objectives:
            raise ValueError(f"{owner}: {unknown_objective(name, objectives)}")
    values: list[Tensor | None] = []
    for name in objectives:
        if name not in losses:
            raise ValueError(
                f"{owner}: the loss of objective {name!r} is missing; give None if it is absent from this step"
            )
        value = losses[name]
        if value is None:
            values.append(None)
            continue
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
    near = difflib.get_close_matches(name, objectives, n=1) if isinstance(name, str) else []
    hint = f"did you mean {near[0]!r}?" if near else f"the objectives are {', '.join(map(str, objectives))}"
    return f"unknown objective {name!r}; {hint}"


def primary_index(owner: str, primary: str | None, objectives: Sequence[str]) -> int:
    """Index of the primary objective; ``None``: the first.

    Raises ValueError, which begins with ``owner``, for an unknown name.
    """
    if primary is None:
        return 0
    if primary not in objectives:
        raise ValueError(f"{owner}: {unknown_objective(primary, objectives)}")
    return objectives.index(primary)


def primary_among(primary: int, indices: Sequence[int]) -> int:
    """Index of the primary objective among those that are present; the first stands in for it."""
    return indices.index(primary) if primary in indices else 0
