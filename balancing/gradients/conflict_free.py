from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import conflict_free_weights


@register_balancer("conflict_free")
class ConflictFree(GramianBalancer):
    """ConFIG: the direction with the same angle to every gradient.

    It is the unit vector v with ``cos(v, g_i)`` equal for all i, times ``sum_i g_i.v``.
    With unit gradients U as rows, ``v ~ U^+ 1 = U' C^+ 1``, so the matrix of cosines C is enough.
    Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025,
    arXiv:2408.11104.

    needs: gramian     scale: sum-like     heads: unit     preference: cosines in proportion to it
    Gradients of any size count the same. Linearly dependent ones cannot all have equal cosines: these are then met in the
    sense of least squares. Zero gradients are ignored; two opposed gradients, or none, give a zero update.

    Args:
        length: Of the update. ``projection``: the sum of the gradients' projections on v, as published. ``min``, ``mean``,
            ``max``: that of the gradients' lengths.
    """

    preference_on = "method"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        length: Literal["projection", "min", "mean", "max"] = "projection",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.length = length

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        return conflict_free_weights(gramian, self.preference, self.length)
