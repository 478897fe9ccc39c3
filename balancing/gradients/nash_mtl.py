from __future__ import annotations

from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..solvers import fair_weights


@register_balancer("nash_mtl")
class NashMTL(GramianBalancer):
    """Nash-MTL: the greatest product of the objectives' progress.

    ``(G a)_i = p_i / a_i`` with a > 0, ``w = a``, ``d = sum_i a_i g_i``.
    Every objective makes progress, ``g_i.d = p_i / a_i``, and ``||d||^2 = sum_i p_i = K`` whatever the losses' scale.
    Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, arXiv:2202.01017.

    needs: gramian     scale: own     heads: weighted     preference: p, the objectives' power in the bargain
    The equations are the minimum of the convex ``1/2 a'Ga - sum_i p_i log a_i``, found by Newton's method to 1e-9. Public
    code linearizes another form of the problem; where that has no minimum, which conflicts cause, it silently keeps the
    weights it had, at first all 1. The published limit of ||d|| to 1 is ``max_norm=1``: it divides every d by ``sqrt(K)``.
    An objective with a zero gradient has nothing to bargain for and gets weight 0. If a convex combination of the
    gradients is zero (two are exactly opposed, say), no finite solution exists; then the weights of those are about
    ``1e6 / ||g_i||``. What they add to d cancels, but a head has no opponent and would receive its gradient times that:
    use ``heads="unit"`` where objectives may be opposed.
    """

    convention = "own"
    head_convention = "weighted"
    preference_on = "method"

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        return fair_weights(gramian, self.preference.to(gramian), alpha=1.0)
