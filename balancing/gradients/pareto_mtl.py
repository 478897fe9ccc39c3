from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions, Refused
from ..solvers import min_norm_weights


@register_balancer("pareto_mtl")
class ParetoMTL(GramianBalancer):
    """Pareto MTL: MGDA among the losses that lie nearest to one of several rays.

    Nearest is meant by angle: ``(u_j - u_k).L <= 0`` for all rays u_j.
    While a constraint is violated in the first epochs, the update is the min-norm point of the violated constraints'
    gradients ``sum_i (u_j - u_k)_i g_i`` alone. From the first batch inside on, it is the min-norm point of the objectives'
    gradients and those of the constraints that are violated. Weights may be negative; the sum of their sizes is K.
    Lin et al., "Pareto Multi-Task Learning", NeurIPS 2019, arXiv:1912.12854; the authors' code has two objectives only.

    needs: gramian     scale: sum-like     heads: unit     preference: factors of the losses before they meet the rays
    A ray is the wanted ratio of the losses, so these should be of one size: divide them by what is usual, or give rays in
    their units. Heads get their own gradient, as a negative weight would teach a head to be wrong. Given rays lose the
    numbers of absent objectives, in a step that has some; default rays are those of the others.

    Args:
        rays: At least two vectors of K non-negative numbers. ``None``: for two objectives, five spread evenly over the
            quarter circle, as published; for more, one along each loss and the diagonal.
        index: Which ray to stay near; ``None``: the one nearest to the diagonal, equal losses.
        search_epochs: How long at most to descend on violated constraints alone.
    """

    per_group = False
    preference_on = "method"
    per_objective = {"differences": (1,)}
    refused = (Refused("sample", "has rays of all losses, so sample= has no meaning"),)

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        rays: Sequence[Sequence[float]] | None = None,
        index: int | None = None,
        search_epochs: int = 2,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        size = len(self.objectives)
        table = _default_rays(size) if rays is None else [list(map(float, ray)) for ray in rays]
        wrong = any(len(ray) != size or min(ray) < 0 or not 0 < sum(ray) < math.inf for ray in table)
        self.reject(wrong, f"rays must be non-negative and not zero, with {size} numbers each")
        self.reject(len(table) < 2, f"needs at least two rays, got {len(table)}")
        wrong = index is not None and not 0 <= index < len(table)
        self.reject(wrong, f"index must be in 0 ... {len(table) - 1}, got {index}")
        self.reject(search_epochs < 0, f"search_epochs must not be negative, got {search_epochs}")
        wrong = self.options.normalize != "none"
        self.reject(wrong, "its constraints are gradients of losses, so normalize= has no meaning")
        self.search_epochs = search_epochs
        self.standard, self.rays, self.index = rays is None and index is None, table, index
        self.differences = _differences(table, index)
        self.inside = nn.Buffer(torch.tensor(0))

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        table = _default_rays(len(indices)) if self.standard else [[ray[k] for k in indices] for ray in self.rays]
        kept = [k for k, ray in enumerate(table) if any(ray)]
        index = kept.index(self.index) if self.index in kept else None
        self.differences = _differences([table[k] for k in kept], index)

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        priority = self.preference.to(gramian)
        violated = self.differences[self.differences @ (priority * losses.to(gramian)) > 0]
        if not len(violated):
            self.inside.fill_(1)
        searching = not bool(self.inside) and self.epoch < self.search_epochs
        rows = violated if searching else torch.cat([torch.eye(len(priority), dtype=gramian.dtype), violated])
        rows = rows * priority
        weights = min_norm_weights(rows @ gramian @ rows.T) @ rows
        total = weights.abs().sum()
        return weights * (len(weights) / total) if total > 0 else weights


def _differences(table: list[list[float]], index: int | None) -> Tensor:
    """The other rays minus the chosen one, as unit vectors."""
    directions = torch.nn.functional.normalize(torch.tensor(table, dtype=torch.float64), dim=1)
    chosen = int(directions.sum(1).argmax()) if index is None else index
    return torch.cat([directions[:chosen], directions[chosen + 1 :]]) - directions[chosen]


def _default_rays(size: int) -> list[list[float]]:
    if size == 2:
        return [[math.cos(angle * math.pi / 8), math.sin(angle * math.pi / 8)] for angle in range(5)]
    axes = [[float(i == j) for j in range(size)] for i in range(size)]
    return [*axes, [1.0] * size]
