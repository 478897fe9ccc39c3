from __future__ import annotations

import torch
from torch import Tensor

from .block_pivoting import WRONG, solve_together
from .quadratic import ActiveSet, minimum_of_unit_qp

# Up to this number of gradients, problems that cycle take less time one by one in plain floats.
_FEW = 12


def dual_cone_weights(cosines: Tensor, target: Tensor) -> Tensor:
    """Weights of a projection onto the directions in conflict with no gradient.

    ``argmin_{v >= u} v'Cv`` for the vector ``sum_i u_i g_i``.
    Args:
        cosines: (K, K) Gramian C of the gradients, scaled to unit length.
        target: (K,) weights u of these unit gradients.
    """
    return target + minimum_of_unit_qp(cosines, -(cosines @ target))


def dual_cone_weights_of_each(cosines: Tensor, rounds: int = 30) -> Tensor:
    """(K, K) matrix whose row i is :func:`dual_cone_weights` for the target e_i.

    If many gradients depend on each other so that every direction conflicts, one combination of all of them that is zero
    solves every problem. What has not settled after ``rounds`` of block pivoting goes to an active-set method.
    """
    unit, few = torch.eye(len(cosines), dtype=cosines.dtype), len(cosines) <= _FEW
    x, left = _solve_few(cosines, unit, min(rounds, 5)) if few else (unit, torch.arange(len(cosines)))
    if len(left):
        zero = dual_cone_weights(cosines, torch.ones_like(cosines[0]))
        if float(zero @ cosines @ zero) < 1e-10 * float(zero.sum()) ** 2 / len(zero):
            return zero.expand_as(cosines).clone()
    if not few:
        x, left = solve_together(cosines, -cosines.T, rounds)
    result = x + unit
    if len(left):
        solver = ActiveSet(cosines.tolist())
        for i in left.tolist():
            result[i] = unit[i] + unit.new_tensor(solver.solve((-cosines[:, i]).tolist()))
    return result


def _solve_few(cosines: Tensor, unit: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """:func:`solve_together` for few variables: all systems are solved whole, in every round."""
    positive = cosines < 0
    for _ in range(rounds):
        mask = positive.to(cosines.dtype)
        matrix = cosines * mask[:, :, None] * mask[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).fill_(float(cosines[0, 0]))
        factor, _ = torch.linalg.cholesky_ex(matrix)
        x = torch.cholesky_solve((-cosines * mask)[:, :, None], factor).squeeze(2)
        wrong = torch.where(positive, x, (x + unit) @ cosines) < WRONG
        if not bool(wrong.any()):
            break
        positive ^= wrong
    return x.clamp(min=0), wrong.any(1).nonzero().squeeze(1)
