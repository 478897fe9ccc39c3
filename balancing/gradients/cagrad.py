from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import conflict_averse_weights


@register_balancer("cagrad")
class CAGrad(GramianBalancer):
    """CAGrad: the best direction for the worst objective in a ball around the mean gradient.

    ``max_d min_i g_i.d`` with ``||d - g_0|| <= c ||g_0||``, g_0 the mean gradient.
    Its dual is ``min_{w in simplex} g_w.g_0 + c ||g_0|| ||g_w||``, ``g_w = sum_i w_i g_i``, with ``d = g_0 + c ||g_0|| g_w / ||g_w||``.
    Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, arXiv:2110.14048.

    needs: gramian     scale: mean-like     heads: unit     preference: scales the gradients, and so g_0
    Where ``g_w = 0`` solves the dual (gradients in balance, or one of them zero), many d are best and the one nearest to
    g_0 is taken. A single objective gets weight 1. Public code differs in the length of the update: the authors divide by
    ``1 + c^2`` in one experiment (NYUv2) and by nothing in another (Cityscapes), and multiply by K, ``scale="sum"`` here.

    Args:
        c: Radius of the ball in units of ||g_0||; 0 is the mean, and from 1 on d leads to a Pareto stationary point only.
        rescale: Divide d by ``1 + c^2`` (``square``), by ``1 + c`` (``linear``), or leave it (``none``).
    """

    convention = "mean"
    preference_on = "rows"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        c: float = 0.4,
        rescale: Literal["square", "linear", "none"] = "square",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not c >= 0, f"c must not be negative, got {c}")
        self.c = c
        self.divisor = {"square": 1 + c * c, "linear": 1 + c, "none": 1.0}[rescale]

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        if len(gramian) == 1:
            return torch.ones_like(losses)
        return conflict_averse_weights(gramian, self.c) / self.divisor
