from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..options import BalancerOptions
from .bilevel_balancer import BilevelBalancer
from .lookahead import Lookahead


@register_balancer("auto_lambda")
class AutoLambda(BilevelBalancer):
    """Auto-Lambda: weights whose step lowers the primary objectives' validation losses.

    The update descends ``sum_i lambda_i L_i``, and lambda ``F = sum_{i primary} L_i^val(theta - lr sum_j lambda_j g_j)``.
    ``dF/dlambda_i = -lr g_i . v``, where v is the gradient of the primary validation losses after the virtual step. The
    product is the slope of L_i along v, by a central difference: ``(L_i(theta + e v) - L_i(theta - e v)) / 2e``,
    ``e = radius / ||v||``. A step costs two backwards and two forwards more, whatever the number of objectives.
    Liu, James, Davison and Johns, "Auto-Lambda: Disentangling Dynamic Task Relationships", TMLR 2022, arXiv:2202.03091.

    needs: validation     scale: own (lambda starts at ``init``)     heads: weighted     preference: scales both losses
    The virtual step is plain gradient descent, without the momentum and weight decay of the model's optimizer, which the
    original adds to it. Lambda is not constrained, as published: an objective that harms the primary ones may reach a
    negative weight, and is then unlearned.

    Args:
        primary: The objectives whose validation losses count; all if empty.
        init: The first lambda of every objective.
        radius: How far from the parameters the difference is taken, in their units.
    """

    convention = "own"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        primary: Sequence[str] = (),
        init: float = 0.1,
        radius: float = 0.01,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not radius > 0, f"radius must be positive, got {radius}")
        self.radius = radius
        self.counted = self.vector(dict.fromkeys(primary or self.objectives, 1.0), default=0.0)
        self.alpha = nn.Parameter(torch.full((len(self.objectives),), float(init)))

    def look_ahead(self, ahead: Lookahead) -> tuple[Tensor, list[Tensor], Tensor]:
        weights = self.alpha.detach().to(ahead.losses)
        gradients = ahead.gradient(torch.dot(weights, ahead.losses), ahead.parameters)
        trial = ahead.moved(gradients, -ahead.lr)
        losses = ahead.validation_losses(trial)
        outer = ahead.gradient(torch.dot(self.counted.to(losses), losses), trial)
        length = torch.stack([gradient.norm().to(losses) for gradient in outer]).norm()
        if not bool(length > 0):
            return weights, gradients, torch.zeros_like(weights)
        e = self.radius / length
        with torch.no_grad():
            difference = ahead.train_losses(ahead.moved(outer, e)) - ahead.train_losses(ahead.moved(outer, -e))
        return weights, gradients, -ahead.lr * ahead.mean(difference) / (2 * e)
