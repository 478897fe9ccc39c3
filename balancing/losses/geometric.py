from __future__ import annotations

from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from .power_mean import geometric_weights


@register_balancer("geometric")
class Geometric(LossBalancer):
    """The geometric mean of the losses.

    ``V = (prod_i L_i)^(1/K) = exp(mean_i log L_i)``: ``w_i = V / (K L_i)``.
    Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
    Learning", CVPR Workshops 2019, arXiv:1904.08492.

    needs: losses     scale: own     heads: weighted
    Invariant to the scale of every loss, up to the length of the update. Raises on a loss that is not positive.
    """

    convention = "own"
    positive = True

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        return geometric_weights(losses.log())
