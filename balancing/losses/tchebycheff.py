from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("tchebycheff")
class Tchebycheff(LossBalancer):
    """Tchebycheff scalarization: the greatest weighted distance to an ideal point.

    ``max_i lambda_i (L_i - z_i)``, sum of lambda 1.
    Reaches every Pareto-optimal point by some lambda, on concave fronts too. Ties share the weight.

    needs: losses     scale: own (w_i = lambda_i of the greatest term)     heads: weighted     preference: lambda
    Only one objective is trained in most steps; ``stch`` is the smooth form.

    Args:
        ideal: z, a lower bound of each loss; 0 where not named.
    """

    convention = "own"
    preference_on = "method"

    def __init__(
        self, objectives: Sequence[str], *, ideal: Mapping[str, float] | None = None, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.ideal = self.vector(ideal or {}, default=0.0)

    def compute_weights(self, losses: Tensor) -> Tensor:
        share = (self.preference / len(losses)).to(losses)
        terms = share * (losses - self.ideal.to(losses))
        greatest = (terms == terms.max()).to(losses)
        return share * greatest / greatest.sum()
