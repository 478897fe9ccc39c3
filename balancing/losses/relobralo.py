from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("relobralo")
class ReLoBRaLo(LossBalancer):
    """Smoothed progress since the last step and, now and then, since the first.

    ``w <- alpha (rho w + (1 - rho) v(0)) + (1 - alpha) v(t-1)``, ``v(s) = K softmax(L(t) / (T L(s)))``, rho = 1 with
    probability ``keep`` and otherwise 0: a look back to the start. w = 1 at the first step.
    Bischof and Kraus, "Multi-Objective Loss Balancing for Physics-Informed Deep Learning", 2021, arXiv:2110.09813.

    needs: losses     scale: sum-like     heads: weighted
    The weights do not depend on the scale of any loss.

    Args:
        temperature: T; the larger, the more equal the weights.
        alpha: How slowly the weights change.
        keep: Expected rho.
    """

    positive = True
    proportions = {"current": "size"}

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        temperature: float = 0.1,
        alpha: float = 0.999,
        keep: float = 0.999,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not temperature > 0, f"temperature must be positive, got {temperature}")
        for key, value in (("alpha", alpha), ("keep", keep)):
            self.reject(not 0 <= value <= 1, f"{key} must be in [0, 1], got {value}")
        self.temperature, self.alpha, self.keep = temperature, alpha, keep
        self.initial = nn.Buffer(torch.zeros(len(self.objectives)))
        self.previous = nn.Buffer(torch.zeros(len(self.objectives)))
        self.current = nn.Buffer(torch.ones(len(self.objectives)))

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        new = self.initial == 0
        if bool(new.any()):
            self.initial.copy_(torch.where(new, losses, self.initial))
            self.previous.copy_(torch.where(new, losses, self.previous))
        if not bool(new.all()):
            kept = bool(torch.rand((), generator=self.generator) < self.keep)
            past = self.current.to(losses) if kept else self._since(self.initial, losses)
            self.current.copy_(self.alpha * past + (1 - self.alpha) * self._since(self.previous, losses))
        self.previous.copy_(losses)
        return self.current.to(losses)

    def _since(self, reference: Tensor, losses: Tensor) -> Tensor:
        return len(losses) * torch.softmax(losses / (self.temperature * reference.to(losses)), 0)
