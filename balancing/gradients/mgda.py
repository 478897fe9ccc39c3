from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import frank_wolfe, min_norm_weights


@register_balancer("mgda")
class MGDA(GramianBalancer):
    """MGDA: the min-norm point of the gradients' convex hull.

    ``w = argmin_{w in simplex} w'Gw``, ``d = sum_i w_i g_i``.
    No objective's gradient has a product with d smaller than ``||d||^2``, so a small step improves all of them; d is zero
    exactly where no direction does (Pareto stationarity).
    Desideri, "Multiple-gradient descent algorithm", C. R. Math. 2012; Sener and Koltun, "Multi-Task Learning as
    Multi-Objective Optimization", NeurIPS 2018, arXiv:1810.04650 (whose MGDA-UB is ``at="features"``).

    needs: gramian     scale: mean-like     heads: weighted     preference: progress in proportion to it
    The hull's shortest point lies near the shortest gradient. If the losses have different units, ``normalize="l2"`` or
    ``"loss"`` compares directions instead; unlike public code, the weights then belong to the normalized gradients, so the
    promise above still holds.
    At a vertex of the hull some weights are zero, and the objectives behind them rest. ``min_weight`` keeps all of them
    in training: w is then the shortest point of the part of the hull where every ``w_i >= min_weight``, and the promise
    holds for those above the bound only. The published solver has such a bound by accident: it returns 0.001 and 0.999
    for 0 and 1.

    Args:
        solver: ``exact`` (active set), or ``frank_wolfe`` as in Sener and Koltun's Algorithm 2.
        iterations: Limit for ``frank_wolfe``.
        tolerance: Relative duality gap at which ``frank_wolfe`` stops.
        min_weight: Least weight of an objective, from 0 to 1 / K; 1 / K is the mean gradient.
    """

    convention = "mean"
    head_convention = "weighted"
    preference_on = "target"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        solver: Literal["exact", "frank_wolfe"] = "exact",
        iterations: int = 250,
        tolerance: float = 1e-5,
        min_weight: float = 0.0,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        problem = f"iterations must be at least 1 and tolerance not negative, got {iterations} and {tolerance}"
        self.reject(iterations < 1 or not tolerance >= 0, problem)
        size = len(self.objectives)
        problem = f"min_weight must be from 0 to 1 / {size}, as {size} weights have the sum 1, got {min_weight}"
        self.reject(not 0 <= size * min_weight <= 1 + 1e-12, problem)
        self.solver, self.iterations, self.tolerance, self.min_weight = solver, iterations, tolerance, min_weight

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        if self.min_weight == 0:
            return self._shortest(gramian)
        # w = rows'v with v in the simplex: the vertices of the smaller hull are combinations of the gradients
        least, size = self.min_weight, len(gramian)
        rows = torch.full_like(gramian, least)
        rows.diagonal().add_(max(1 - size * least, 0.0))
        return self._shortest(rows @ gramian @ rows) @ rows

    def _shortest(self, gramian: Tensor) -> Tensor:
        if self.solver == "exact":
            return min_norm_weights(gramian)
        return frank_wolfe(gramian, self.iterations, self.tolerance)
