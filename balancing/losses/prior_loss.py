from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import ScheduleBalancer
from ..options import BalancerOptions


@register_balancer("prior_loss")
class PriorLoss(ScheduleBalancer):
    """Divide each loss by what the best constant prediction scores: ``w_i = 1 / L_i^prior``.

    needs: nothing     scale: own (a term of 1 means: no better than a constant)     heads: weighted
    For classification L^prior is the entropy of the label frequencies, for a squared error the variance of the target.

    Args:
        prior_losses: L_i^prior > 0 of every objective; required, as the balancer does not see the labels.
    """

    convention = "own"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        prior_losses: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        if prior_losses is None:
            raise ValueError("prior_loss needs prior_losses={objective: value}, e.g. label entropy or target variance")
        self.prior = self.vector(prior_losses, default=None, positive=True)

    def compute_weights(self, losses: Tensor) -> Tensor:
        return (1 / self.prior).to(losses)
