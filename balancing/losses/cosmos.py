from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions
from .pbi import polar


@register_balancer("cosmos")
class Cosmos(LossBalancer):
    """COSMOS: a weighted sum of the losses and the cosine to its weights.

    ``r'L - penalty cos(r, L)``, with r >= 0 of sum 1.
    With ``alpha`` r is drawn anew at each step from a Dirichlet distribution, and a network that reads r learns a whole
    Pareto front: :meth:`draw` gives r before the forward pass. Without, r is the preference.
    Ruchte and Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", ICDM 2021.

    needs: losses     scale: own     heads: weighted     preference: r, or the mean of its distribution
    A large r_i weighs L_i more, while the cosine draws L towards multiples of r. Weights may be negative.

    Args:
        penalty: Price of an angle between r and L, in units of the losses (published: 0.01 to 8).
        alpha: Concentration of the Dirichlet distribution (1 is uniform, more is nearer to its mean), or ``None``.
    """

    convention = "own"
    preference_on = "method"
    proportions = {"ray": "one"}

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        penalty: float = 1.0,
        alpha: float | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(penalty < 0, f"penalty must not be negative, got {penalty}")
        self.reject(alpha is not None and not alpha > 0, f"alpha must be positive, got {alpha}")
        self.penalty, self.alpha = penalty, alpha
        self.ray = nn.Buffer(self.preference.float() / len(self.objectives))
        self.drawn = nn.Buffer(torch.tensor(int(alpha is None)))

    def draw(self) -> Tensor:
        """(K,) r of the coming step: the same until :meth:`backward` has used it."""
        if not bool(self.drawn):
            assert self.alpha is not None
            self.ray.copy_(torch._sample_dirichlet(self.alpha * self.preference, generator=self.generator))
            self.drawn.fill_(1)
        return self.ray.clone()

    def compute_weights(self, losses: Tensor) -> Tensor:
        ray = self.draw().to(losses)
        self.drawn.fill_(self.alpha is None)
        (aim, _), (unit, length) = polar(ray), polar(losses)
        slope = (aim - (aim @ unit) * unit) / length  # derivative of the cosine
        return ray - self.penalty * torch.where(length > 0, slope, 0.0)
