from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..drawing import check_drawing, drawn_preference
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
    Ruchte and Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", ICDM 2021,
    arXiv:2103.13392.

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
        check_drawing(self, alpha)
        self.penalty, self.alpha = penalty, alpha
        self.ray = nn.Buffer(self.preference.float() / len(self.objectives))
        self.drawn = nn.Buffer(torch.tensor(-1))

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.alpha is not None

    def draw(self) -> Tensor:
        if self.alpha is None:
            return self.ray.clone()
        return drawn_preference(self, self.ray, self.drawn, self.alpha)

    def compute_weights(self, losses: Tensor) -> Tensor:
        ray = self.draw().to(losses)
        (aim, _), (unit, length) = polar(ray), polar(losses)
        slope = (aim - (aim @ unit) * unit) / length  # derivative of the cosine
        return ray - self.penalty * torch.where(length > 0, slope, 0.0)
