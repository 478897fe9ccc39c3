from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import fair_weights


@register_balancer("fairgrad")
class FairGrad(GramianBalancer):
    """FairGrad: progress of the objectives that is alpha-fair.

    ``(G w)_i = p_i w_i^(-1/alpha)`` with w > 0, ``d = sum_i w_i g_i``.
    So ``w_i = (p_i / g_i.d)^alpha``: alpha near 0 is the plain sum, 1 is ``nash_mtl``, and the larger alpha the closer to
    the largest smallest progress. The update grows as the gradients to the power ``(1 - alpha) / (1 + alpha)``.
    Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, arXiv:2402.15638.

    needs: gramian     scale: own     heads: unit     preference: p, with progress in proportion to it where w is equal
    The equations are the minimum of ``1/2 w'Gw - sum_i p_i w_i^(1 - 1/alpha) / (1 - 1/alpha)``, convex for every alpha and
    solved by Newton's method to 1e-9 at any scale; public code stops at the limits of a general least-squares routine.
    An objective with a zero gradient gets weight 0. If a convex combination of the gradients is zero, no finite solution
    exists; then those weights are huge (``1e12^(alpha / (1 + alpha))`` times the usual) and what they add to d cancels.

    Args:
        alpha: How much the objectives with the least progress are favored; positive, 1 to 2 in the paper.
    """

    convention = "own"
    preference_on = "method"

    def __init__(self, objectives: Sequence[str], *, alpha: float = 1.0, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 < alpha < math.inf, f"alpha must be positive and finite, got {alpha}")
        self.alpha = alpha

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        return fair_weights(gramian, self.preference.to(gramian), self.alpha)
