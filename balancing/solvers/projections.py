"""Vectors with given projections on the gradients or cosines to them, and the simplex."""

from __future__ import annotations

import torch
from torch import Tensor


def weights_for_projections(gramian: Tensor, targets: Tensor, tolerance: float = 1.2e-7) -> Tensor:
    """(K,) weights of a vector with given products with every unit gradient.

    ``d = sum_j w_j g_j`` has the product ``targets_i`` with ``g_i / ||g_i||``.
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
    """(K,) weights of a vector with cosines ~ ``targets``; for its length see ConflictFree."""
    w = weights_for_projections(gramian, targets)
    products = gramian @ w
    own = (w @ products).clamp(min=0).sqrt()
    if not float(own) > 0:
        return torch.zeros_like(w)
    norms = gramian.diagonal().clamp(min=0).sqrt()
    if length == "projection":
        return w * products.sum() / own.square()
    return w * {"min": norms.min(), "mean": norms.mean(), "max": norms.max()}[length] / own


def project_to_simplex(vector: Tensor) -> Tensor:
    """The nearest point with non-negative coordinates that sum to 1, exactly (by sorting)."""
    ordered = vector.sort(descending=True).values
    shifts = (ordered.cumsum(0) - 1) / torch.arange(1, len(vector) + 1)
    # the threshold belongs to the longest prefix of coordinates that stay positive
    return (vector - shifts[int((ordered > shifts).sum()) - 1]).clamp(min=0)
