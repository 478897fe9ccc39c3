from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("famo")
class FAMO(LossBalancer):
    """FAMO: learned weights under which the logarithms of all losses fall alike.

    ``w_i = c z_i / D_i``, ``z = softmax(xi)``, ``D = L - b + 1e-8``.

    c makes w sum to 1. After the optimizer's step the same batch is evaluated again, and xi gets the gradient
    ``(diag z - z z') delta + gamma xi``, ``delta = log D_before - log D_after``: who fell most loses weight.
    Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, arXiv:2306.03792.

    needs: losses     scale: mean-like     heads: weighted
    The loop must call ``balancer.observe`` between the model's optimizer step and that of the balancer: a forward pass
    without gradients, in the same mode, as dropout and batch statistics are part of the loss. xi is a parameter: give
    ``balancer.parameters()`` to an optimizer (published: Adam, 0.025) without weight decay, which gamma stands for.
    With b = 0 invariant to the scale of every loss, up to the length of the update, which the paper's code also clips.

    Args:
        gamma: Pull of xi towards equality (published: 1e-5 to 1e-2).
        lower: b, a lower bound of each loss; 0 where not named.
    """

    convention = "mean"
    positive = True
    observes = True
    momentary = ("logs",)

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        gamma: float = 1e-3,
        lower: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(gamma < 0, f"gamma must not be negative, got {gamma}")
        self.gamma = gamma
        self.lower = self.vector(lower or {}, default=0.0)
        self.logits = nn.Parameter(torch.zeros(len(self.objectives)))

    def compute_weights(self, losses: Tensor) -> Tensor:
        logs = self._log_excess(losses)
        self.memory["logs"] = logs
        return torch.softmax(torch.log_softmax(self.logits.to(losses), 0) - logs, 0)

    def update(self, losses: Tensor) -> None:
        """Leave the gradient of xi in ``logits.grad``."""
        before = self.memory.pop("logs", None)
        if before is None:  # the weights were kept from an earlier step, or the step was skipped
            return
        delta = before.to(losses) - self._log_excess(losses)
        z = torch.softmax(self.logits.to(losses), 0)
        gradient = (z * (delta - z @ delta)).to(self.logits) + self.gamma * self.logits
        self.logits.grad = gradient if self.logits.grad is None else self.logits.grad.add_(gradient)

    def _log_excess(self, losses: Tensor) -> Tensor:
        excess = losses - self.lower.to(losses) + 1e-8
        self.require_positive(excess)
        return excess.log()
