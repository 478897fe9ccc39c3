from __future__ import annotations

from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..solvers import cosine_matrix, dual_cone_weights


@register_balancer("dualproj")
class DualProj(GramianBalancer):
    """DualProj: the direction nearest to the mean gradient that conflicts with no objective.

    ``w = argmin w'Gw`` over ``w >= 1/K``.
    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv:1706.08840 (there with
    one gradient to project and the others as constraints).

    needs: gramian     scale: mean-like     heads: unit     preference: of the gradients in the mean
    Solved on the cosines, so that no gradient is too short to be heard; public code adds a ridge relative to the longest.
    A zero gradient keeps its weight 1/K. Where every direction conflicts, d = 0.
    """

    convention = "mean"
    preference_on = "rows"

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        lengths, cosines = cosine_matrix(gramian)
        unit = dual_cone_weights(cosines, lengths / len(lengths))
        return (unit / lengths).masked_fill(lengths == 0, 1 / len(lengths))
