"""The options that every balancer takes, and checks of what a caller gives it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor

from balancing.errors import BalancingError

if TYPE_CHECKING:
    from balancing.balancer import Balancer

__all__ = ["BalancerOptions", "check_options", "objective_vector", "ordered_losses", "unknown_objective"]


class BalancerOptions(TypedDict, total=False):
    """The options of :class:`Balancer`, for the signatures of its subclasses."""

    at: Literal["shared", "features", "subset"]
    every: int
    preference: Mapping[str, float] | None
    heads: Literal["unit", "weighted"] | None
    scale: Literal["paper", "sum"]
    normalize: Literal["none", "l2", "loss", "loss+"]
    log_losses: bool
    ema: float
    max_norm: float
    on_nonfinite: Literal["raise", "skip"]
    seed: int


def check_options(balancer: Balancer) -> None:
    """Raise ValueError, naming the method, for a value out of range or an option that has no meaning for it."""
    if not balancer.objectives or len(set(balancer.objectives)) != len(balancer.objectives):
        raise ValueError(
            f"{balancer.name} needs one or more objectives with different names, got {balancer.objectives}"
        )
    seen = balancer.measures
    weighs = balancer.needs in ("losses", "gramian") or (seen and not balancer.combines)
    rules = [
        (
            balancer.at in ("shared", "features", "subset"),
            f"at must be shared, features or subset, got {balancer.at!r}",
        ),
        (
            balancer.every >= 1 and balancer.every % 1 == 0,
            f"every must be a whole number of at least 1, got {balancer.every}",
        ),
        (balancer.head_rule in ("unit", "weighted"), f"heads must be unit or weighted, got {balancer.head_rule!r}"),
        (balancer.scale in ("paper", "sum"), f"scale must be paper or sum, got {balancer.scale!r}"),
        (
            balancer.normalize in ("none", "l2", "loss", "loss+"),
            f"normalize must be none, l2, loss or loss+, got {balancer.normalize!r}",
        ),
        (0 <= balancer.ema < 1, f"ema must be in [0, 1), got {balancer.ema}"),
        (balancer.max_norm >= 0, f"max_norm must not be negative, got {balancer.max_norm}"),
        (
            balancer.on_nonfinite in ("raise", "skip"),
            f"on_nonfinite must be raise or skip, got {balancer.on_nonfinite!r}",
        ),
        (balancer.at == "shared" or seen, "looks at no gradients, so at= has no meaning"),
        (
            balancer.at == "shared" or not balancer.remembers,
            f"keeps gradients from step to step, so at={balancer.at!r} has no meaning",
        ),
        (
            balancer.at != "subset" or balancer.needs == "gramian",
            "combines whole gradients, so at='subset' has no meaning",
        ),
        (balancer.every == 1 or weighs, "finds no weights to keep, so every= has no meaning"),
        (balancer.ema == 0 or weighs, "finds no weights to smooth, so ema= has no meaning"),
        (balancer.head_rule == "weighted" or seen, "weighs losses, so heads='unit' has no meaning"),
        (
            balancer.head_rule == "unit" or not balancer.combines,
            "finds no weights, so heads='weighted' has no meaning",
        ),
        (balancer.normalize == "none" or seen, "looks at no gradients, so normalize= has no meaning"),
        (
            balancer.max_norm == 0 or (seen and balancer.at == "shared"),
            "max_norm= needs a gradient method with at='shared'",
        ),
        (
            balancer.max_norm == 0 or balancer.every == 1,
            "measures no gradients between the steps of every=, so max_norm= would not hold there",
        ),
        (not (balancer.log_losses and balancer.positive), "needs positive losses, so log_losses= has no meaning"),
        (
            balancer.scale == "paper" or balancer.convention != "own",
            "sets the length of its update itself, so scale='sum' has no meaning",
        ),
    ]
    for holds, problem in rules:
        if not holds:
            raise ValueError(f"{balancer.name}: {problem}")


def ordered_losses(balancer: Balancer, losses: Mapping[str, Tensor], differentiable: bool = True) -> list[Tensor]:
    """The losses in the balancer's order, in single precision at least. Raises for names and tensors that do not fit."""
    for name in losses:
        if name not in balancer.objectives:
            raise ValueError(f"{balancer.name}: {unknown_objective(name, balancer.objectives)}")
    values = []
    for name in balancer.objectives:
        if name not in losses:
            raise ValueError(f"{balancer.name}: the loss of objective {name!r} is missing")
        value = losses[name]
        if not isinstance(value, Tensor):
            raise ValueError(f"{balancer.name}: the loss of objective {name!r} must be a tensor, got {value!r}")
        if value.dim() != 0:
            raise ValueError(
                f"{balancer.name}: the loss of objective {name!r} must be a scalar, got shape {tuple(value.shape)}"
            )
        if differentiable and not value.requires_grad:
            raise BalancingError(
                f"{balancer.name}: the loss of objective {name!r} does not depend on any trainable parameter"
            )
        values.append(value.float() if value.dtype in (torch.float16, torch.bfloat16) else value)
    return values


def objective_vector(balancer: Balancer, values: Mapping[str, float], default: float | None, positive: bool) -> Tensor:
    """(K,) float64 tensor from a mapping by objective.

    Raises ValueError for an unknown name, a missing one without default, and a value that is not ``positive``.
    """
    for name, value in values.items():
        if name not in balancer.objectives:
            raise ValueError(f"{balancer.name}: {unknown_objective(name, balancer.objectives)}")
        if not math.isfinite(value):
            raise ValueError(f"{balancer.name}: the value for objective {name!r} must be finite, got {value}")
        if positive and not value > 0:
            raise ValueError(f"{balancer.name}: the value for objective {name!r} must be positive, got {value}")
    missing = [name for name in balancer.objectives if name not in values]
    if missing and default is None:
        raise ValueError(f"{balancer.name}: no value for objective {missing[0]!r}")
    return torch.tensor([float(values.get(name, default)) for name in balancer.objectives], dtype=torch.float64)  # type: ignore[arg-type]


def unknown_objective(name: str, objectives: Sequence[str]) -> str:
    """What is wrong, and the nearest name."""
    near = difflib.get_close_matches(name, objectives, n=1)
    return f"unknown objective {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"the objectives are {', '.join(objectives)}"
    )
