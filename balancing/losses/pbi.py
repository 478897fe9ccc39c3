from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("pbi")
class PenaltyBoundaryIntersection(LossBalancer):
    """Go down a ray and stay on it: ``d_1 + theta d_2``.

    ``d_1 = (L - z)'u`` is the distance along the ray and ``d_2 = |L - z - d_1 u|`` that from it. u is the unit vector
    with ``u_i ~ 1 / p_i``: on the ray all ``p_i (L_i - z_i)`` are equal.
    Zhang and Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE TEVC 2007.

    needs: losses     scale: own     heads: weighted     preference: the ray
    A loss far below the ray gets a negative weight, and is raised. On the ray, where d_2 has no derivative, w = u.

    Args:
        theta: Price of leaving the ray.
        ideal: z, where the ray begins: a lower bound of each loss, 0 where not named.
    """

    convention = "own"
    preference_on = "method"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        theta: float = 5.0,
        ideal: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(theta < 0, f"theta must not be negative, got {theta}")
        self.theta = theta
        self.ideal = self.vector(ideal or {}, default=0.0)
        ray = 1 / self.preference
        self.ray = ray / ray.norm()

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self.ray = self.ray / self.ray.norm()

    def compute_weights(self, losses: Tensor) -> Tensor:
        ray = self.ray.to(losses)
        excess, _ = polar(losses - self.ideal.to(losses))
        slope, distance = polar(excess - (excess @ ray) * ray)
        # as near as rounding can tell, the losses are on the ray
        return ray + self.theta * torch.where(distance > 8 * torch.finfo(losses.dtype).eps, slope, 0.0)


def polar(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector and length; zero for the zero vector. Squares neither over- nor underflow."""
    top = vector.abs().max()
    scaled = vector / torch.where(top > 0, top, 1.0)
    norm = torch.linalg.vector_norm(scaled)
    return scaled / torch.where(top > 0, norm, 1.0), top * norm
