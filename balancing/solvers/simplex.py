"""Projection onto the simplex."""

from __future__ import annotations

import torch
from torch import Tensor


def project_to_simplex(vector: Tensor) -> Tensor:
    """The nearest point with non-negative coordinates that sum to 1, exactly (by sorting)."""
    ordered = vector.sort(descending=True).values
    shifts = (ordered.cumsum(0) - 1) / torch.arange(1, len(vector) + 1)
    # the threshold belongs to the longest prefix of coordinates that stay positive
    return (vector - shifts[int((ordered > shifts).sum()) - 1]).clamp(min=0)
