from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..errors import BalancingError
from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("go4align")
class GO4Align(LossBalancer):
    """GO4Align: objectives are clustered, and each gets the mean weight of its group.

    The weights are clustered by ``q_i = p_i sum_j(L_j) / L_i``.

    p starts at 1/K and follows the losses: ``p_i <- p_i exp(-eta L_i)``, divided by the sum. With one group all
    weights are equal, with K groups w = q.
    Shen, Wang, Xiao, van Noord and Worring, "GO4Align: Group Optimization for Multi-Task Alignment", NeurIPS 2024,
    arXiv:2404.06486.

    needs: losses     scale: own     heads: weighted
    The groups are the exact k-means clustering of K numbers, which needs no starting point; public code starts
    its k-means from random centers at every step.

    Args:
        groups: How many; K if there are fewer objectives.
        eta: Step of p, per unit of loss.
    """

    convention = "own"
    positive = True
    proportions = {"log_shares": "log"}

    def __init__(
        self, objectives: Sequence[str], *, groups: int = 2, eta: float = 1e-4, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(groups < 1, f"groups must be at least 1, got {groups}")
        self.reject(eta < 0, f"eta must not be negative, got {eta}")
        self.groups, self.eta = groups, eta
        self.log_shares = nn.Buffer(torch.zeros(len(self.objectives)).log_softmax(0))

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        exact = losses.cpu().double()
        log_shares = torch.log_softmax(self.log_shares.to(exact) - self.eta * exact, 0)
        self.log_shares.copy_(log_shares)
        q = log_shares.exp() * exact.sum() / exact
        centers = group_centers(q.tolist(), self.groups)
        if not max(centers) <= torch.finfo(losses.dtype).max:
            raise BalancingError("go4align: the losses differ so much that their weights cannot be represented")
        return torch.tensor(centers, dtype=losses.dtype, device=losses.device)


def group_centers(values: Sequence[float], groups: int) -> list[float]:
    """The mean of the group of each value; ``groups`` minimize the squared deviations.

    Groups are intervals of the sorted values, so dynamic programming finds the optimum: O(groups K^2).
    """
    size = len(values)
    order = sorted(range(size), key=values.__getitem__)
    ordered = [values[i] for i in order]
    cost = [0.0] + [math.inf] * size  # of the best division of the first n values into the groups so far
    begins: list[list[int]] = []  # where the last of these groups begins
    for _ in range(min(groups, size)):
        best, begin = [math.inf] * (size + 1), [0] * (size + 1)
        for first in range(size):
            mean = spread = 0.0
            for last in range(first, size):
                delta = ordered[last] - mean
                mean += delta / (last - first + 1)
                spread += delta * (ordered[last] - mean)
                if cost[first] + spread < best[last + 1]:
                    best[last + 1], begin[last + 1] = cost[first] + spread, first
        cost = best
        begins.append(begin)
    centers = [0.0] * size
    end = size
    for begin in reversed(begins):
        members = order[begin[end] : end]
        center = math.fsum(values[i] for i in members) / len(members)
        for i in members:
            centers[i] = center
        end = begin[end]
    return centers
