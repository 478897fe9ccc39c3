"""What the options make of losses and gradients before a method sees them, and of the weights it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from balancing.balancer import Balancer

__all__ = ["View", "shortened", "translate", "view"]


@dataclass
class View:
    """What a method is shown.

    Attributes:
        losses: (K,) losses as the method sees them.
        gramian: (K, K) Gramian of the gradients as the method sees them, or ``None``.
        rows: (K,) factors between the true gradients and those that the method sees.
        chain: (K,) the part of ``rows`` that belongs to the losses: weights found first, and derivatives of logarithms.
    """

    losses: Tensor
    gramian: Tensor | None
    rows: Tensor
    chain: Tensor

    def shown(self, weights: Tensor) -> Tensor:
        """Weights of the gradients that the method sees, from those of the true gradients."""
        return torch.where(self.rows == 0, 0.0, weights / self.rows)


def view(balancer: Balancer, losses: Tensor, gramian: Tensor | None, first: Tensor | None) -> View:
    """Apply ``first`` (weights found by another method), ``log_losses``, ``normalize`` and, where it acts here, ``preference``.

    Raises BalancingError for a loss that must be positive and is not.
    """
    chain = torch.ones_like(losses)
    if first is not None:
        chain = first.to(losses)
        losses = losses * chain
    if balancer.log_losses or balancer.normalize in ("loss", "loss+"):
        balancer.require_positive(losses)
    size = losses
    if balancer.log_losses:
        chain, losses = chain / losses, losses.log()
    rows = chain
    if balancer.normalize in ("l2", "loss+") and gramian is not None:
        lengths = gramian.diagonal().clamp(min=0).sqrt() * chain.abs()
        rows = torch.where(lengths > 0, rows / lengths, rows)
    if balancer.normalize in ("loss", "loss+"):
        rows = rows / size
    if balancer.preference_on == "target":
        rows = rows / balancer.preference.to(rows)
    elif balancer.preference_on == "rows":
        priority = balancer.preference.to(rows)
        rows = rows * priority
        losses = losses if balancer.measures else losses * priority
    return View(losses, None if gramian is None else gramian * rows[:, None] * rows, rows, chain)


def translate(balancer: Balancer, raw: Tensor, seen: View) -> Tensor:
    """Weights of the true gradients from those a method found, after ``preference``, ``scale`` and ``ema``."""
    weights = raw * seen.rows
    if balancer.normalize != "none" or balancer.preference_on == "target":
        # the update keeps the scale of the gradients; absolute values, so that its sign cannot change
        size = weights.abs().sum()
        weights = weights * torch.where(size > 0, (raw * seen.chain).abs().sum() / size, 1.0)
    if balancer.preference_on == "weights":
        weights = weights * balancer.preference.to(weights)
    if balancer.scale == "sum" and balancer.convention == "mean":
        weights = weights * len(balancer.objectives)
    if balancer.ema > 0 and balancer.step > 0:
        weights = balancer.ema * balancer.held.to(weights) + (1 - balancer.ema) * weights
    if balancer.ema > 0 or balancer.every > 1:
        balancer.held.copy_(weights)
    return weights


def shortened(balancer: Balancer, weights: Tensor, gramian: Tensor | None) -> Tensor:
    """Weights of rows with this Gramian after ``max_norm``: their combination is no longer than that."""
    if balancer.max_norm == 0 or gramian is None:
        return weights
    length = (weights @ gramian @ weights).clamp(min=0).sqrt()
    return weights * (balancer.max_norm / length).clamp(max=1.0)
