from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from ..errors import SolverError
from .quadratic import cosine_matrix


def _fair_pair(cosines: Tensor, priority: Tensor) -> Tensor:
    """Two unit gradients, alpha 1: ``u^2 + c u v = p``, ``v^2 + c u v = q``, quadratic in uv."""
    diagonal = float(cosines[0, 0])
    p, q = priority.tolist()
    c = float(cosines[0, 1]) / diagonal
    root = sqrt((c * (p + q)) ** 2 + 4 * (1 - c * c) * p * q)
    # of the two forms of the positive solution, the one that adds numbers of the same sign
    product = 2 * p * q / (root + c * (p + q)) if c > 0 else (root - c * (p + q)) / (2 * (1 - c * c))
    larger = sqrt(max(p, q) - c * product)
    pair = (product / larger, larger) if p < q else (larger, product / larger)
    return cosines.new_tensor(pair) / sqrt(diagonal)


def fair_weights(gramian: Tensor, priority: Tensor, alpha: float) -> Tensor:
    """The positive solution of ``(Ga)_i = p_i a_i^(-1/alpha)``, by a damped Newton method.

    It minimizes the convex ``1/2 a'Ga - sum_i p_i a_i^(1 - 1/alpha) / (1 - 1/alpha)``, where alpha = 1 stands for the
    logarithm. The unknowns are scaled so that the matrix is that of the cosines, plus 1e-12 on its diagonal (more if
    rounding has made it indefinite): if a convex combination of the gradients is zero, no finite solution exists, and the
    one found is large with a direction near zero.

    Args:
        gramian: (K, K) inner products. A zero gradient has no finite weight; it gets 0 and the others are solved alone.
        priority: (K,) positive p.
        alpha: Positive.
    """
    lengths, cosines = cosine_matrix(gramian, ridge=1e-12)
    present = (lengths > 0).nonzero().squeeze(1)
    weights = torch.zeros_like(lengths)
    if len(present) == 0:
        return weights
    if len(present) < len(lengths):
        lengths, cosines, priority = lengths[present], cosines[present[:, None], present], priority[present]
    if alpha == 1 and len(present) == 2:
        return weights.index_copy(0, present, _fair_pair(cosines, priority) / lengths)
    power = 1 / alpha
    # a = unit b, where unit solves the equations without their off-diagonal terms
    unit = (priority / lengths.square()) ** (1 / (1 + power))
    root = lengths * unit
    b = (cosines @ root / root).clamp(min=0.1) ** (-1 / (1 + power))  # exact if these row sums are equal
    steep = b**-power
    residual = root * steep - cosines @ (root * b)
    for _ in range(200):
        matrix = cosines + torch.diag(power * steep / b)
        move = torch.cholesky_solve(residual[:, None], torch.linalg.cholesky_ex(matrix)[0]).squeeze(1)
        relative = move / (root * b)
        largest, descent = float(relative.abs().max()), float(residual @ move)
        reach = 0.9 / max(-float(relative.min()), 0.9)  # how far b stays positive
        # an entry that must fall by orders of magnitude would hold up the others, so there 1 / b moves instead
        crowded = reach <= 0.01
        step = 1.0 if crowded else reach
        rounding = 1e-15 * float((root * b).abs().sum())
        while True:
            change = 1 + step * relative
            trial = b * (torch.where(relative < 0, 1 / (2 - change), change) if crowded else change)
            steep = trial**-power
            residual = root * steep - cosines @ (root * trial)
            if largest < 0.1 or step < 1e-12 or not float(residual @ move) < -0.5 * descent:
                break
            step /= 2
        b = trial
        if largest < 1e-7 or float(residual.abs().max()) < rounding:
            return weights.index_copy(0, present, unit * b)
    raise SolverError("Newton's method for the proportionally fair weights did not converge")
