from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from ..errors import BalancingError
from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions


@register_balancer("gradnorm")
class GradNorm(GramianBalancer):
    """GradNorm: learned weights, with gradient lengths set by each objective's pace.

    The lengths ``w_i n_i``, n_i = ||g_i||, are pulled towards ``T_i = mean_j(w_j n_j) r_i^alpha``, where
    ``r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0))``.
    The weights descend ``sum_i |w_i n_i - T_i|`` with T held constant. Its derivative is ``sign(w_i n_i - T_i) n_i``, so
    the Gramian's diagonal is enough and no second backward is needed. ``w = K softmax(theta)`` keeps them positive and their sum K.
    Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing", ICML 2018, arXiv:1711.02257, which
    measures at the last shared layer (``at="subset"``) and renormalizes w after each step instead.

    needs: gramian     scale: sum-like     heads: weighted
    theta is a parameter: give ``balancer.parameters()`` to an optimizer (Adam, about 0.02) without weight decay.
    The paper starts at w = 1. If losses differ by orders of magnitude, the first steps then fill the second moments of the
    model's optimizer with gradients so large that training stalls after the weights have settled. So by default w starts
    where all lengths ``w_i n_i`` are equal, the fixed point of the first step.

    Args:
        alpha: How strongly slow objectives are favored; 0: equal lengths.
        init: ``lengths``: start at equal lengths of the first gradients. ``equal``: start at w = 1, as published.
        initial_losses: L_i(0) > 0 of every objective, or ``None`` to take those of the first step.
    """

    per_group = False
    positive = True
    head_convention = "weighted"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        alpha: float = 1.5,
        init: Literal["lengths", "equal"] = "lengths",
        initial_losses: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not math.isfinite(alpha), f"alpha must be finite, got {alpha}")
        self.alpha = alpha
        self.theta = nn.Parameter(torch.zeros(len(self.objectives)))
        self.initial = nn.Buffer(torch.zeros(len(self.objectives)))
        if initial_losses is not None:
            self.initial.copy_(self.vector(initial_losses, default=None, positive=True))
        self.started = nn.Buffer(torch.full((len(self.objectives),), int(init == "equal")))

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        """(K,) current weights; the gradient of theta is left in ``theta.grad``."""
        self.require_positive(losses)
        self.initial.copy_(torch.where(self.initial > 0, self.initial, losses))
        norms = gramian.diagonal().clamp(min=0).sqrt()
        if not bool(self.started.all()) and bool((norms > 0).all()):
            logs, old = norms.log(), self.started > 0
            # a late one joins at the lengths of the others
            level = (self.theta.to(logs) + logs)[old].mean() if bool(old.any()) else logs.mean()
            self.theta.copy_(torch.where(old, self.theta, level - logs))
            self.started.fill_(1)
        share = torch.softmax(self.theta.to(losses), 0)
        w = len(losses) * share
        pace = losses / self.initial.to(losses)
        target = (w * norms).mean() * (pace / pace.mean()) ** self.alpha
        slope = torch.sign(w * norms - target) * norms
        # chain rule through w = K softmax(theta)
        gradient = (w * (slope - share @ slope)).to(self.theta)
        if not bool(gradient.isfinite().all()):
            raise BalancingError(
                "gradnorm: the gradient of its weights is not finite; are the losses' scales representable?"
            )
        if self.theta.requires_grad:
            self.theta.grad = gradient if self.theta.grad is None else self.theta.grad.add_(gradient)
        return w
