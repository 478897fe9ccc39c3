from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import largest_gain, min_norm_weights


@register_balancer("epo")
class EPO(GramianBalancer):
    """EPO Search: the Pareto optimum with losses inversely proportional to a preference.

    At the end ``r_i L_i`` is the same for all i, r the option ``preference``. The distance from there is
    ``mu = sum_i s_i log(K s_i)``, the shares ``s_i = r_i L_i / sum_j r_j L_j``; ``a_i = r_i (log(K s_i) - mu)`` points along its
    gradient. While ``mu > eps`` the weights maximize ``d.sum_i a_i g_i`` over the simplex: the largest ``r_i L_i`` must not grow,
    and another loss only as far as the balance asks for. Then they maximize ``d.sum_i g_i`` with no loss growing.
    Mahapatra and Rajan, "Multi-Task Learning with User Preferences: Gradient Descent with Controlled Ascent in Pareto
    Optimization", ICML 2020, arXiv:2010.06313.

    needs: gramian     scale: mean-like     heads: weighted     preference: r
    Unlike a weighted sum it finds points on a concave part of the front, and unlike the ``preference`` of other methods it is
    about the losses, so these need a zero of the same meaning. The linear program is solved exactly. It has its answers at
    corners, so the weights jump while the losses are far from the ray; next to it d shrinks with the distance. r has mean 1
    here; the authors take its length as it is given, and the growth that a loss is allowed is proportional to it. Their code
    multiplies the weights by K (``scale="sum"``), and the learning rate by ``10 max(mu, 0.1)`` in the toy examples. Below eps it
    also keeps the balance from getting worse, as is done here, which the constraints may not allow: it then takes weights
    proportional to r, and here they are those of MGDA.

    Args:
        eps: The mu from which on no loss may grow, at least 0.
    """

    convention = "mean"
    positive = True
    head_convention = "weighted"
    preference_on = "method"

    def __init__(self, objectives: Sequence[str], *, eps: float = 1e-4, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not eps >= 0, f"eps must not be negative, got {eps}")
        wrong = self.options.normalize != "none"
        self.reject(wrong, "compares the progress of the losses as they are, so normalize= has no meaning")
        self.eps = eps

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        self.require_positive(losses)
        r = self.preference.to(gramian)
        sizes = r * losses.to(gramian)
        logs = (len(sizes) * sizes / sizes.sum()).log()
        distance = (sizes / sizes.sum()) @ logs
        progress = gramian @ (r * (logs - distance))  # of the losses along the gradient of the balance
        lengths = gramian.diagonal().clamp(min=0).sqrt()
        moving = lengths > 0
        if not bool(moving.any()):
            return torch.full_like(lengths, 1 / len(lengths))

        if distance > self.eps:
            gain = progress
            floor = progress.clamp(max=0) if bool((progress > 0).any()) else torch.zeros_like(progress)
            worst = sizes == sizes.max()
            floor[worst] = 0
            bound = moving & (worst | (progress <= 0))
        else:
            gain, floor, bound = gramian.sum(1), torch.zeros_like(progress), moving
        # x_i = w_i n_i / the smallest n makes all numbers but the floors of order 1
        least, units = lengths[moving].min(), torch.where(moving, lengths, lengths.max())
        rows, floor = gramian[bound] / lengths[bound, None] / units, floor[bound] / lengths[bound] / least
        if 1e-12 < distance <= self.eps:  # nor may the balance suffer, if a direction improves it; below, a is rounding
            along, size = _of_order_1(progress / units)
            rows = torch.cat([rows, along[None]])
            floor = torch.cat([floor, (1 + 1e-9) * progress.max().clamp(max=0)[None] / size / least])
        x = largest_gain(_of_order_1(gain / units)[0], rows, floor, (least / units).clamp(min=1e-11))
        if x is None:  # the set is empty, or a point that rounding took from it
            return min_norm_weights(gramian)
        weights = x / units
        return weights / weights.sum()


def _of_order_1(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values divided by the largest, and this."""
    size = values.abs().max().clamp(min=torch.finfo(values.dtype).tiny)
    return values / size, size
