"""ConFIG: the direction that makes the same angle with every gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.factory import register_balancer
from balancing.options import BalancerOptions

__all__ = ["ConflictFree", "conflict_free_weights", "weights_for_projections"]


def weights_for_projections(gramian: Tensor, targets: Tensor, tolerance: float = 1.2e-7) -> Tensor:
    """(K,) weights w such that ``d = sum_j w_j g_j`` has the product ``targets_i`` with every unit vector ``g_i / ||g_i||``.

    With the cosines C and the lengths n that is ``C (n w) = targets``. It is solved with the pseudo-inverse of C, in which
    eigenvalues below ``tolerance`` times the largest count as zero: dependent gradients share a weight, and targets that
    contradict each other are met in the sense of least squares. Zero gradients get weight 0, and if nothing is left of the
    targets, as for two opposed gradients, all weights are 0.
    """
    norms = gramian.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    cosines = gramian * inverse[:, None] * inverse
    units = torch.linalg.pinv(cosines, rtol=tolerance, hermitian=True) @ targets
    if float(units @ targets) <= tolerance * float(targets @ targets):
        return torch.zeros_like(norms)
    return units * inverse


def conflict_free_weights(gramian: Tensor, targets: Tensor, length: str = "projection") -> Tensor:
    """(K,) weights of the vector with cosines proportional to ``targets`` and the given ``length`` (see :class:`ConflictFree`)."""
    w = weights_for_projections(gramian, targets)
    products = gramian @ w
    own = (w @ products).clamp(min=0).sqrt()
    if not float(own) > 0:
        return torch.zeros_like(w)
    norms = gramian.diagonal().clamp(min=0).sqrt()
    if length == "projection":
        return w * products.sum() / own.square()
    return w * {"min": norms.min(), "mean": norms.mean(), "max": norms.max()}[length] / own


@register_balancer("conflict_free")
class ConflictFree(Balancer):
    """ConFIG: follow the unit vector v with ``cos(v, g_i)`` equal for all i, for the length ``sum_i g_i.v``.

    With unit gradients U as rows, ``v ~ U^+ 1 = U' C^+ 1``, so the matrix of cosines C is enough.
    Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025.

    needs: gramian     scale: sum-like     heads: unit     preference: cosines in proportion to it
    Gradients of any size count the same. Linearly dependent ones cannot all have equal cosines: these are then met in the
    sense of least squares. Zero gradients are ignored; two opposed gradients, or none, give a zero update.

    Args:
        objectives: Names of the losses.
        length: Of the update. ``projection``: the sum of the gradients' projections on v, as published. ``min``, ``mean``,
            ``max``: that of the gradients' lengths.
        options: See :class:`balancing.Balancer`.
    """

    needs = "gramian"
    preference_on = "method"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        length: Literal["projection", "min", "mean", "max"] = "projection",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        if length not in ("projection", "min", "mean", "max"):
            raise ValueError(f"conflict_free: length must be projection, min, mean or max, got {length!r}")
        self.length = length

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) weights of the vector with equal cosines."""
        assert gramian is not None
        return conflict_free_weights(gramian, self.preference, self.length)
