from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from ..composed import Composed
from ..factory import register_balancer
from ..losses.imtl_l import ImpartialLoss
from ..options import BalancerOptions
from .imtl_g import ImpartialGradient


class _ScaledGradient(ImpartialGradient):
    name = "imtl"
    positive = True


@register_balancer("imtl")
class IMTL(Composed):
    """IMTL: IMTL-G on the gradients of losses that IMTL-L scales.

    The rows are ``e^{s_i} g_i``, where s descends ``sum_i e^{s_i} L_i - s_i``.
    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021. Short for ``create_balancer(["imtl_l", "imtl_g"], ...)``.

    needs: gramian     scale: mean-like     heads: unit (of e^s L)     preference: projections in proportion to it
    IMTL-G finds the same direction whatever the lengths of the gradients; the scales set its length, and the heads' rates.
    s is a parameter: give ``balancer.parameters()`` to an optimizer (Adam, about 0.02) without weight decay.

    Args:
        init: ``losses``: start at the optimum for the first losses. A number: start every s there (published: 0).
    """

    needs = "gramian"
    convention = "mean"
    preference_on = "method"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        init: float | Literal["losses"] = "losses",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(ImpartialLoss(objectives, init=init), _ScaledGradient(objectives, **options))
