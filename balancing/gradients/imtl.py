"""IMTL: an update with the same projection on every gradient, alone (IMTL-G) or with learned loss scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from balancing.balancer import Balancer
from balancing.errors import SolverError
from balancing.factory import register_balancer
from balancing.gradients.conflict_free import weights_for_projections
from balancing.losses.imtl_l import ImpartialLoss
from balancing.options import BalancerOptions

__all__ = ["IMTL", "ImpartialGradient"]


@register_balancer("imtl_g")
class ImpartialGradient(Balancer):
    """Make the projections ``d.g_i / ||g_i||`` equal for all i, with weights that sum to 1.

    ``w_i ~ (C^+ 1)_i / ||g_i||`` with the matrix of cosines C: the published closed form, which singles out the first
    objective, written symmetrically.
    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, its part for the gradients, which the authors measure at
    the shared features (``at="features"``).

    needs: gramian     scale: mean-like     heads: unit     preference: projections in proportion to it
    Weights may be negative. Where they would sum to a negative number, the published update goes uphill for every
    objective; here the sum is then -1 and the update goes downhill. Linearly dependent gradients have projections that are
    equal in the sense of least squares; zero gradients get weight 0; two opposed gradients, or none, give a zero update.
    Raises if the weights sum to 0 otherwise, as the length of the update is then undefined.
    """

    needs = "gramian"
    convention = "mean"
    preference_on = "method"

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) weights of the vector with equal projections."""
        assert gramian is not None
        w = weights_for_projections(gramian, self.preference)
        total, size = abs(float(w.sum())), float(w.abs().sum())
        if size == 0:
            return w
        if total <= 1e-12 * size:
            raise SolverError("the weights of equal projections sum to zero, so they cannot be normalised")
        return w / total


@register_balancer("imtl")
class IMTL(ImpartialGradient):
    """IMTL-G on the gradients of losses that IMTL-L scales: rows ``e^{s_i} g_i``, where s descends ``sum_i e^{s_i} L_i - s_i``.

    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021. Short for ``create_balancer(["imtl_l", "imtl_g"], ...)``.

    needs: gramian     scale: mean-like     heads: unit (of e^s L)     preference: projections in proportion to it
    IMTL-G finds the same direction whatever the lengths of the gradients; the scales set its length, and the heads' rates.
    s is a parameter: give ``balancer.parameters()`` to an optimizer (Adam, about 0.02) without weight decay.

    Args:
        objectives: Names of the losses.
        init: ``losses``: start at the optimum for the first losses. A number: start every s there (published: 0).
        options: See :class:`balancing.Balancer`.
    """

    positive = True

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        init: float | Literal["losses"] = "losses",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        super().weigh_first(ImpartialLoss(objectives, init=init))

    def weigh_first(self, before: Balancer) -> None:
        """Raise ValueError: the losses are weighed already."""
        raise ValueError(f"imtl: weighs the losses itself, so {before.name} before it has no meaning")
