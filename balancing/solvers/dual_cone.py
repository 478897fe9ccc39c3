from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from .block_pivoting import SMALL, WRONG, solve_together
from .min_norm import min_norm_weights
from .quadratic import ActiveSet, UnboundedError, minimum_of_unit_qp

# Up to this number of gradients, problems that cycle take less time one by one in plain floats.
_FEW = 12


def dual_cone_weights(cosines: Tensor, target: Tensor) -> Tensor:
    """Weights of a projection onto the directions in conflict with no gradient.

    ``argmin_{v >= u} v'Cv`` for the vector ``sum_i u_i g_i``.
    Args:
        cosines: (K, K) Gramian C of the gradients, scaled to unit length.
        target: (K,) weights u of these unit gradients.
    """
    # x = v - u; v'Cv >= 0, so there is a minimum, but b may be far smaller than x where unit gradients add up to little
    return target + minimum_of_unit_qp(cosines, -(cosines @ target), bounded=True)


def constrained_weights(cosines: Tensor, progress: Tensor) -> Tensor:
    """(K,) weights of the shortest vector with given products with unit gradients.

    The products may be larger: ``argmin_{x >= 0} 1/2 x'Cx - b'x``. Raises UnboundedError if no vector has such products. Many
    gradients are asked for that first, as a solver takes long to see it: a convex combination of them is zero then, and that
    of b is positive.

    Args:
        cosines: (K, K) Gramian C of the gradients, scaled to unit length.
        progress: (K,) the products b.
    """
    if len(cosines) <= SMALL:
        return progress.new_tensor(ActiveSet(cosines.tolist()).solve(progress.tolist()))
    w = min_norm_weights(cosines)
    if float(w @ cosines @ w) < 1e-12 and float(w @ progress) > 1e-6 * float(progress.abs().max()):
        raise UnboundedError("the gradients exclude each other's progress")
    return minimum_of_unit_qp(cosines, progress)


def dual_cone_weights_of_each(cosines: Tensor, rounds: int = 30) -> Tensor:
    """(K, K) matrix whose row i is :func:`dual_cone_weights` for the target e_i.

    If many gradients depend on each other so that every direction conflicts, one combination of all of them that is zero
    solves every problem. What has not settled after ``rounds`` of block pivoting goes to an active-set method.
    """
    if len(cosines) == 2:
        return _of_two(cosines)
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
            result[i] = unit[i] + unit.new_tensor(solver.solve((-cosines[:, i]).tolist(), bounded=True))
    return result


def _of_two(cosines: Tensor) -> Tensor:
    """:func:`dual_cone_weights_of_each` for two gradients.

    The order of operations is that of a Cholesky factor, which decides the last bit.
    """
    (square, above), (below, _) = cosines.tolist()
    length = sqrt(square)
    rows = [[1.0, max(-above, 0.0) / length / length], [max(-below, 0.0) / length / length, 1.0]]
    return torch.tensor(rows, dtype=cosines.dtype)


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
