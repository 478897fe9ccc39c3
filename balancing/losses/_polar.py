from __future__ import annotations

import torch
from torch import Tensor


def polar(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector and length; zero for the zero vector. Squares neither over- nor underflow."""
    top = vector.abs().max()
    scaled = vector / torch.where(top > 0, top, 1.0)
    norm = torch.linalg.vector_norm(scaled)
    return scaled / torch.where(top > 0, norm, 1.0), top * norm
