"""Scalarisations that pull the losses towards a ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.factory import register_balancer
from balancing.options import BalancerOptions

__all__ = ["Cosmos", "PenaltyBoundaryIntersection"]


@register_balancer("pbi")
class PenaltyBoundaryIntersection(Balancer):
    """Go down a ray and stay on it: ``d_1 + theta d_2``.

    ``d_1 = (L - z)'u`` is the distance along the ray and ``d_2 = |L - z - d_1 u|`` that from it. u is the unit vector
    with ``u_i ~ 1 / p_i``: on the ray all ``p_i (L_i - z_i)`` are equal.
    Zhang and Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE TEVC 2007.

    needs: losses     scale: own     heads: weighted     preference: the ray
    A loss far below the ray gets a negative weight, and is raised. On the ray, where d_2 has no derivative, w = u.

    Args:
        objectives: Names of the losses.
        theta: Price of leaving the ray.
        ideal: z, where the ray begins: a lower bound of each loss, 0 where not named.
        options: See :class:`balancing.Balancer`.
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
        if theta < 0:
            raise ValueError(f"pbi: theta must not be negative, got {theta}")
        self.theta = theta
        self.ideal = self._vector(ideal or {}, default=0.0)
        ray = 1 / self.preference
        self.ray = ray / ray.norm()

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) derivatives of the sum of both distances."""
        ray = self.ray.to(losses)
        excess, _ = _polar(losses - self.ideal.to(losses))
        slope, distance = _polar(excess - (excess @ ray) * ray)
        # as near as rounding can tell, the losses are on the ray
        return ray + self.theta * torch.where(distance > 8 * torch.finfo(losses.dtype).eps, slope, 0.0)


@register_balancer("cosmos")
class Cosmos(Balancer):
    """A weighted sum and the cosine to its weights: ``r'L - penalty cos(r, L)``, with r >= 0 of sum 1.

    With ``alpha`` r is drawn anew at each step from a Dirichlet distribution, and a network that reads r learns a whole
    Pareto front: ask :meth:`draw` for r before the forward pass. Without, r is the preference.
    Ruchte and Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", ICDM 2021.

    needs: losses     scale: own     heads: weighted     preference: r, or the mean of its distribution
    A large r_i weighs L_i more, while the cosine draws L towards multiples of r. Weights may be negative.

    Args:
        objectives: Names of the losses.
        penalty: Price of an angle between r and L, in units of the losses (published: 0.01 to 8).
        alpha: Concentration of the Dirichlet distribution (1 is uniform, more is nearer to its mean), or ``None``.
        options: See :class:`balancing.Balancer`.
    """

    convention = "own"
    preference_on = "method"
    ray: Tensor
    drawn: Tensor

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        penalty: float = 1.0,
        alpha: float | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        if penalty < 0:
            raise ValueError(f"cosmos: penalty must not be negative, got {penalty}")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"cosmos: alpha must be positive, got {alpha}")
        self.penalty, self.alpha = penalty, alpha
        self.register_buffer("ray", self.preference.float() / len(self.objectives))
        self.register_buffer("drawn", torch.tensor(alpha is None))

    def draw(self) -> Tensor:
        """(K,) r of the coming step: the same until :meth:`backward` has used it."""
        if not bool(self.drawn):
            assert self.alpha is not None
            self.ray.copy_(torch._sample_dirichlet(self.alpha * self.preference, generator=self.generator))
            self.drawn.fill_(True)
        return self.ray.clone()

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) derivatives of the weighted sum minus the cosine."""
        ray = self.draw().to(losses)
        self.drawn.fill_(self.alpha is None)
        (aim, _), (unit, length) = _polar(ray), _polar(losses)
        slope = (aim - (aim @ unit) * unit) / length  # derivative of the cosine
        return ray - self.penalty * torch.where(length > 0, slope, 0.0)


def _polar(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector and length; zero for the zero vector. Squares neither over- nor underflow."""
    top = vector.abs().max()
    scaled = vector / torch.where(top > 0, top, 1.0)
    norm = torch.linalg.vector_norm(scaled)
    return scaled / torch.where(top > 0, norm, 1.0), top * norm
