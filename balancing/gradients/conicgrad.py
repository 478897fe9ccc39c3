from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import conic_weights


@register_balancer("conicgrad")
class ConicGrad(GramianBalancer):
    """ConicGrad: the best direction for the worst objective in a cone around the mean gradient.

    ``max_d min_i g_i.d`` with ``cos(d, g_0) >= c`` and ``||d|| = ||g_0||``, g_0 the mean gradient.
    For weights w of the worst objectives, d is the point of the cone nearest to ``g_w = sum_i w_i g_i``, made as long as g_0.
    Where no direction in the cone improves all objectives, those of equal progress for the mean are compared.
    Hassanpour, Janjua, Zhang, Lavasani, Zhang, Zhou and Gao, "Fantastic Multi-Task Gradient Updates and How to Find Them In a
    Cone", 2025, arXiv:2502.00217.

    needs: gramian     scale: mean-like     heads: unit     preference: scales the gradients, and so g_0
    CAGrad's ball bounds angle and length of the update together; here the length is always that of the mean. The paper has a
    closed form of d for given w; w is exact here, too, and has no state.
    Objectives with a zero gradient do not count as the worst. If the gradients cancel, there is no cone and d is zero.

    Args:
        c: Cosine of the largest angle between d and g_0, in (0, 1]; 1 is the mean, and near 0 the direction is MGDA's.
    """

    convention = "mean"
    preference_on = "rows"

    def __init__(self, objectives: Sequence[str], *, c: float = 0.5, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 < c <= 1, f"c must be in (0, 1], got {c}")
        self.c = c

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        return conic_weights(gramian, self.c)
