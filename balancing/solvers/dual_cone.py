from __future__ import annotations

import torch
from torch import Tensor

from .quadratic import ActiveSet


def dual_cone_weights(cosines: Tensor, target: Tensor) -> Tensor:
    """Weights of a projection onto the directions in conflict with no gradient.

    ``argmin_{v >= u} v'Cv`` for the vector ``sum_i u_i g_i``.
    Args:
        cosines: (K, K) Gramian C of the gradients, scaled to unit length.
        target: (K,) weights u of these unit gradients.
    """
    return target + torch.tensor(ActiveSet(cosines.tolist()).solve((-(cosines @ target)).tolist()), dtype=target.dtype)


def dual_cone_weights_of_each(cosines: Tensor, iterations: int = 15) -> Tensor:
    """(K, K) matrix whose row i is :func:`dual_cone_weights` for the target e_i.

    All K problems at once by block pivoting: each guesses which of its variables are positive, solves for them, and moves
    every variable of the wrong sign and every one with a negative slope to the other side. That nearly always settles in
    two or three rounds; what has not settled after ``iterations`` goes to the active-set method.
    """
    unit = torch.eye(len(cosines), dtype=cosines.dtype)
    positive = cosines < 0
    for _ in range(iterations):
        mask = positive.to(cosines.dtype)
        matrix = cosines * mask[:, :, None] * mask[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).fill_(float(cosines[0, 0]))
        factor, _ = torch.linalg.cholesky_ex(matrix)
        x = torch.cholesky_solve((-cosines * mask)[:, :, None], factor).squeeze(2)
        wrong = torch.where(positive, x, (x + unit) @ cosines) < -1e-12
        if not bool(wrong.any()):
            break
        positive ^= wrong
    result = x.clamp(min=0) + unit
    for i in wrong.any(1).nonzero().squeeze(1).tolist():
        result[i] = dual_cone_weights(cosines, unit[i])
    return result
