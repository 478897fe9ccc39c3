from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..jacobian_balancer import RowBalancer
from ..measuring.pieces import Rows
from ..objectives import primary_among, primary_index
from ..options import BalancerOptions


@register_balancer("lra")
class LearningRateAnnealing(RowBalancer):
    """Learning-rate annealing: boundary terms weighed by statistics of gradients.

    ``w_i <- (1 - alpha) w_i + alpha max|g_0| / mean|w_i g_i|`` over the coordinates; ``w_0 = 1``.
    Made for physics-informed networks, g_0 being the gradient of the residual of the equation.
    Wang, Teng and Perdikaris, "Understanding and Mitigating Gradient Flow Pathologies in Physics-Informed Neural
    Networks", SIAM J. Sci. Comput. 2021, arXiv:2001.04536.

    needs: jacobian     scale: own     heads: weighted
    The weights start at 1. The paper's text recommends alpha = 0.9 for its update, while the authors' code keeps 0.9 of the
    old weight, which is alpha = 0.1 here, the default. The code divides by the gradient with its current weight, which is
    the formula above: weights come to rest at the square root of ``max|g_0| / mean|g_i|``. The paper prints
    ``mean|g_i|`` (``weighted=False``), by which a condition that is nearly met keeps as much of the update as ever, and the
    equation may no longer count. The code measures every ten steps (``update_every=10``), leaves biases out, and averages
    the means of weight matrices. The mean here is over the coordinates where any gradient is not zero, so that layers which
    a step leaves out do not count. A gradient of zeros leaves its weight as it is, and that of the primary objective all of
    them. In a step from which the primary objective is absent, the first of the others stands in for it.

    Args:
        primary: The objective of g_0; ``None``: the first named.
        alpha: Step of the running mean, in (0, 1]; below 1 if ``weighted``, as weights would alternate.
        weighted: Whether the divisor is the mean of ``|w_i g_i|``; of ``|g_i|`` if not.
    """

    convention = "own"
    head_convention = "weighted"
    piecewise = True
    primary: int

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        primary: str | None = None,
        alpha: float = 0.1,
        weighted: bool = True,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 < alpha <= 1, f"alpha must be in (0, 1], got {alpha}")
        self.primary = primary_index(self.name, primary, self.objectives)
        self.reject(weighted and alpha == 1, "alpha=1 needs weighted=False, as weights would alternate")
        self.alpha = alpha
        self.weighted = weighted
        self.current = nn.Buffer(torch.ones(len(self.objectives)))

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self.primary = primary_among(self.primary, indices)

    def compute_weights(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self.weights_of_rows(losses, Rows.of(jacobian))

    def weights_of_rows(self, losses: Tensor, rows: Rows) -> Tensor:
        largest, totals, count = [], [], 0
        for _, vectors in rows.pieces():
            sizes = torch.stack(vectors).abs_()
            largest.append(sizes[self.primary].max())
            totals.append(sizes.sum(1))
            count += int(torch.count_nonzero(sizes.sum(0)))
        factors = torch.tensor(rows.factors, dtype=torch.float64)
        means = torch.stack(totals).double().sum(0).cpu() / max(count, 1) * factors
        old = self.current.cpu().double()
        top = torch.stack(largest).max().cpu().double() * factors[self.primary]
        known = (means > 0) & (top > 0)
        divisors = torch.where(known, means * old if self.weighted else means, 1.0)
        weights = torch.where(known, torch.lerp(old, top / divisors, self.alpha), old)
        weights[self.primary] = 1
        self.current.copy_(weights)
        return weights.to(losses)
