from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import Scalarization
from ..options import BalancerOptions


@register_balancer("ldc_mtl")
class LossDiscrepancyControl(Scalarization):
    """LDC-MTL: learned weights, and a penalty on differences of weighted losses.

    ``sum_i w_i L_i + lam sum_{i<K} |w_i L_i - w_{i+1} L_{i+1}|``, ``w = K softmax(theta)``.

    This is the single-level form of a bilevel problem: the weights minimize the differences, the model the weighted sum.
    Xiao, Dong, Zou and Ji, "LDC-MTL: Balancing Multi-Task Learning through Scalable Loss Discrepancy Control", 2025,
    arXiv:2502.08585.

    needs: losses     scale: sum-like     heads: weighted
    theta is a parameter: give ``balancer.parameters()`` to an optimizer, with a learning rate of its own and no weight
    decay. The authors' weights come from a small network on the features; a vector of K numbers is what a loss method can
    learn. Neighbors are those in the order of the objectives, as published. Give losses of one size, or a method such as
    ``initial_loss`` before this one, as the paper normalizes them.

    Args:
        lam: Weight of the differences. The authors' code has 0.1 for two objectives and 0.01 for forty.
    """

    positional = True  # which objectives are neighbors

    def __init__(self, objectives: Sequence[str], *, lam: float = 0.1, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not lam >= 0, f"lam must not be negative, got {lam}")
        self.lam = lam
        self.logits = nn.Parameter(torch.zeros(len(self.objectives)))

    def loss(self, losses: Tensor) -> Tensor:
        weighted = len(losses) * torch.softmax(self.logits.to(losses), 0) * losses
        return weighted.sum() + self.lam * weighted.diff().abs().sum()
