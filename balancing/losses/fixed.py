"""Weights that do not depend on the step: the plain sum, weights set by hand, and one objective alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.factory import register_balancer
from balancing.options import BalancerOptions

__all__ = ["Fixed", "Single", "Sum"]


@register_balancer("sum")
class Sum(Balancer):
    """Every objective counts the same: ``sum_i L_i``.

    needs: nothing     scale: sum-like (w = 1, so more objectives mean longer updates)     heads: weighted
    The baseline that any other method has to beat.
    """

    needs = "nothing"
    constant = True

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) ones."""
        return torch.ones_like(losses)


@register_balancer("fixed")
class Fixed(Balancer):
    """Weights set by hand: ``sum_i c_i L_i``.

    needs: nothing     scale: own     heads: weighted
    With a tuned c this is the strongest simple baseline (Xin et al., "Do Current Multi-Task Optimization Methods in
    Deep Learning Even Help?", NeurIPS 2022).

    Args:
        objectives: Names of the losses.
        values: Weight of each objective, 1 where not named; zero switches an objective off.
        options: See :class:`balancing.Balancer`.
    """

    needs = "nothing"
    constant = True
    convention = "own"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        values: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.values = self._vector(values or {}, default=1.0)
        if bool((self.values < 0).any()) or not bool(self.values.any()):
            raise ValueError(f"fixed: weights must not be negative, nor all zero, got {dict(values or {})}")

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) the given values."""
        return self.values.to(losses)


@register_balancer("single")
class Single(Balancer):
    """One objective alone: ``L_objective``.

    needs: nothing     scale: own     heads: weighted
    The single-task baseline: the other objectives are not differentiated, so their heads get no gradient.

    Args:
        objectives: Names of the losses.
        objective: The one to train; the first if ``None``.
        options: See :class:`balancing.Balancer`.
    """

    needs = "nothing"
    constant = True
    convention = "own"

    def __init__(
        self, objectives: Sequence[str], *, objective: str | None = None, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        chosen = self._vector({self.objectives[0] if objective is None else objective: 1.0}, default=0.0)
        self.index = int(chosen.argmax())

    def active(self) -> tuple[int, ...]:
        """The chosen objective."""
        return (self.index,)

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) 1 for the chosen objective, 0 for the others."""
        w = torch.zeros_like(losses)
        w[self.index] = 1
        return w
