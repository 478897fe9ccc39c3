from __future__ import annotations

from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..solvers import cosine_matrix, dual_cone_weights_of_each


@register_balancer("upgrad")
class UPGrad(GramianBalancer):
    """UPGrad: the mean of the gradients' projections onto the dual cone.

    ``d = 1/K sum_i proj(g_i)`` with the cone ``{d : g_j.d >= 0 for all j}``.
    The projection of g_i is ``sum_j v_j g_j`` with ``v = argmin v'Gv`` over ``v >= e_i``. The update conflicts with no
    objective, and is linear in the length of each gradient.
    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232.

    needs: gramian     scale: mean-like     heads: unit     preference: of the gradients in the mean
    Solved on the cosines, so that no gradient is too short to be heard; public code adds a ridge relative to the longest.
    A zero gradient keeps its weight 1/K. Where every direction conflicts, d = 0.
    """

    convention = "mean"
    preference_on = "rows"

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        lengths, cosines = cosine_matrix(gramian)
        unit = lengths @ dual_cone_weights_of_each(cosines)
        return (unit / lengths).masked_fill(lengths == 0, 1.0) / len(lengths)
