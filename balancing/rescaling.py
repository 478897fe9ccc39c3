"""What options change in losses and Gramian before a method, and in its weights after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .method import Method


@dataclass(frozen=True)
class Rescaled:
    """Losses after rescaling, and the factors of the gradients.

    Attributes:
        losses: (K,) rescaled losses.
        rows: (K,) factors between the true and the rescaled gradients.
        chain: (K,) the part of ``rows`` due to the losses: weights of a loss method before, derivatives of logarithms.
        changes: Whether a factor may differ from 1.
    """

    losses: Tensor
    rows: Tensor
    chain: Tensor
    changes: bool = True

    def of(self, gramian: Tensor) -> Tensor:
        """Gramian of the rescaled gradients, from that of the true gradients."""
        if not self.changes:
            return gramian
        return gramian * self.rows[:, None] * self.rows


@dataclass(frozen=True)
class Rescaling:
    """The options ``log_losses``, ``normalize``, ``preference`` and ``scale``.

    Attributes:
        log_losses: Whether losses become their logarithms.
        by_length: Whether gradients are divided by their lengths.
        by_loss: Whether gradients are divided by their losses.
        preference: (K,) priorities of mean 1; ``None``: all are 1.
        preference_on: See :class:`balancing.base.Balancer`.
        prefers_losses: Whether ``preference_on="rows"`` multiplies the losses, too.
        size: Factor of the weights, or (K,) factors.
        share: The part of it that is due to objectives that were not drawn.
        require_positive: Raises for losses that are not.
    """

    log_losses: bool
    by_length: bool
    by_loss: bool
    preference: Tensor | None
    preference_on: str
    prefers_losses: bool
    size: float | Tensor
    share: float | Tensor
    require_positive: Callable[[Tensor], None]

    @classmethod
    def of(cls, method: Method, factors: Tensor) -> Rescaling:
        """As the options and the class of a method have it.

        ``factors`` (K,) are those of objectives that are drawn for a step.
        """
        options = method.options
        summed = options.scale == "sum" and method.convention == "mean"
        drawn = options.sample is not None and (summed or method.convention == "sum")
        share: float | Tensor = factors if drawn else 1.0
        return cls(
            log_losses=options.log_losses,
            by_length=options.normalize in ("l2", "loss+"),
            by_loss=options.normalize in ("loss", "loss+"),
            preference=None if options.preference is None else method.preference,
            preference_on=method.preference_on,
            prefers_losses=not method.measures,
            size=len(method.objectives) * share if summed else share,
            share=share,
            require_positive=method.require_positive,
        )

    def before(self, losses: Tensor, loss_weights: Tensor | None, gramian: Tensor | None = None) -> Rescaled:
        """Losses for the method, and the factors of its gradients.

        ``loss_weights`` are those of a loss method that comes first. Raises BalancingError for a loss that must be positive and is not.
        """
        chain = torch.ones_like(losses)
        if loss_weights is None and not (self.log_losses or self.by_length or self.by_loss) and self.preference is None:
            return Rescaled(losses, chain, chain, changes=False)  # most steps: every operation shows in a small model's
        if loss_weights is not None:
            chain = loss_weights.to(losses)
            losses = losses * chain
        if self.log_losses or self.by_loss:
            self.require_positive(losses)
        size = losses
        if self.log_losses:
            chain, losses = chain / losses, losses.log()
        rows = chain
        if self.by_length and gramian is not None:
            lengths = gramian.diagonal().clamp(min=0).sqrt() * chain.abs()
            rows = torch.where(lengths > 0, rows / lengths, rows)
        if self.by_loss:
            rows = rows / size
        if self.preference is not None and self.preference_on == "target":
            rows = rows / self.preference.to(rows)
        elif self.preference is not None and self.preference_on == "rows":
            priority = self.preference.to(rows)
            rows = rows * priority
            losses = losses * priority if self.prefers_losses else losses
        return Rescaled(losses, rows, chain)

    def after(self, raw: Tensor, rescaled: Rescaled) -> Tensor:
        """Weights of the true gradients from the ``raw`` weights of a method."""
        if not rescaled.changes:
            # a copy, as they may be a method's state
            alike = raw.dtype is rescaled.rows.dtype
            weights = raw.clone() if alike else raw.to(torch.promote_types(raw.dtype, rescaled.rows.dtype), copy=True)
            return self._sized(weights)
        weights = raw * rescaled.rows
        if self.by_length or self.by_loss or self.preference_on == "target":
            # the update keeps the scale of the gradients; absolute values, so that its sign cannot change
            size = weights.abs().sum()
            weights = weights * torch.where(size > 0, (raw * rescaled.chain).abs().sum() / size, 1.0)
        if self.preference is not None and self.preference_on == "weights":
            weights = weights * self.preference.to(weights)
        return self._sized(weights)

    def _sized(self, weights: Tensor) -> Tensor:
        return weights * self.size if isinstance(self.size, Tensor) or self.size != 1 else weights


def shorten(weights: Tensor, gramian: Tensor, max_norm: float) -> Tensor:
    """Weights of rows with this Gramian, for a sum no longer than ``max_norm``; 0 is off."""
    if max_norm == 0:
        return weights
    length = (weights @ gramian @ weights).clamp(min=0).sqrt()
    return weights * (max_norm / length).clamp(max=1.0)
