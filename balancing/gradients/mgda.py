from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

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

    Args:
        solver: ``exact`` (active set), or ``frank_wolfe`` as in Sener and Koltun's Algorithm 2.
        iterations: Limit for ``frank_wolfe``.
        tolerance: Relative duality gap at which ``frank_wolfe`` stops.
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
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        problem = f"iterations must be at least 1 and tolerance not negative, got {iterations} and {tolerance}"
        self.reject(iterations < 1 or not tolerance >= 0, problem)
        self.solver, self.iterations, self.tolerance = solver, iterations, tolerance

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        if self.solver == "exact":
            return min_norm_weights(gramian)
        return frank_wolfe(gramian, self.iterations, self.tolerance)
