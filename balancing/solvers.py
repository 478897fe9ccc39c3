"""The small convex problems behind gradient methods: K x K, float64, nothing but torch."""

from __future__ import annotations

import torch
from torch import Tensor

from balancing.errors import SolverError

__all__ = ["frank_wolfe", "min_norm_weights", "nonnegative_qp"]


def nonnegative_qp(a: Tensor, b: Tensor, tolerance: float = 1e-13) -> Tensor:
    """``argmin_{x >= 0} 1/2 x'Ax - b'x`` by the active-set method of Lawson and Hanson (1974).

    Args:
        a: (K, K) symmetric positive semi-definite with a positive diagonal. It is scaled to a unit diagonal first, so
            rows may differ by many orders of magnitude.
        b: (K,) linear term.
        tolerance: Largest dual violation, relative to ``b`` in the scaled problem.

    Returns:
        (K,) minimiser.

    Raises:
        SolverError: The active set did not settle, which a bounded problem cannot cause in exact arithmetic.
    """
    size = len(b)
    root = a.diagonal().sqrt()
    a, b = a / root[:, None] / root, b / root
    x = torch.zeros_like(b)
    passive = torch.zeros(size, dtype=torch.bool)
    bound = tolerance * float(b.abs().max())
    for _ in range(10 * size + 10):
        slope = (b - a @ x).masked_fill(passive, -torch.inf)
        best = int(slope.argmax())
        if float(slope[best]) <= bound:
            return x / root
        passive[best] = True
        while True:
            index = passive.nonzero().squeeze(1)
            target = _solve(a[index[:, None], index], b[index])
            current = x[index]
            falling = target <= 0
            if not bool(falling.any()):
                x = torch.zeros_like(b).index_copy(0, index, target)
                break
            ratio = (current / (current - target).clamp(min=torch.finfo(a.dtype).tiny))[falling]
            current = current + ratio.min() * (target - current)
            current[falling.nonzero().squeeze(1)[ratio <= ratio.min()]] = 0.0
            x = torch.zeros_like(b).index_copy(0, index, current.clamp(min=0.0))
            passive &= x > 0
            if not bool(passive.any()):
                break
    raise SolverError("the active set of the non-negative QP did not settle")


def _solve(a: Tensor, b: Tensor) -> Tensor:
    """Solve with a Cholesky factor, or by least squares if the matrix is numerically singular."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if int(failed):
        return torch.linalg.lstsq(a, b[:, None], driver="gelsd").solution.squeeze(1)
    return torch.cholesky_solve(b[:, None], factor).squeeze(1)


def min_norm_weights(gramian: Tensor) -> Tensor:
    """Weights of the shortest vector in the convex hull of the gradients: ``argmin_{w in simplex} w'Gw``.

    Two gradients have a closed form; more are the non-negative QP with ``A = G / c + 11'`` and ``b = 1``, normalised,
    for any c > 0. A zero gradient is itself the answer.
    """
    size = len(gramian)
    diagonal = gramian.diagonal()
    least = int(diagonal.argmin())
    if size == 1 or float(diagonal[least]) <= 0.0:
        return torch.zeros(size, dtype=gramian.dtype).index_fill(0, torch.tensor(least), 1.0)
    if size == 2:
        (aa, ab), (_, bb) = gramian.tolist()
        gap = aa + bb - 2 * ab
        first = 0.5 if gap <= 0 else min(max((bb - ab) / gap, 0.0), 1.0)
        return gramian.new_tensor([first, 1 - first])
    x = nonnegative_qp(gramian / diagonal[least] + 1.0, torch.ones(size, dtype=gramian.dtype))
    return x / x.sum()


def frank_wolfe(gramian: Tensor, iterations: int = 250, tolerance: float = 1e-5) -> Tensor:
    """The same weights by the Frank-Wolfe iteration of Sener and Koltun (2018), Algorithm 2, from the uniform point.

    Stops when the duality gap ``w'Gw - min_i (Gw)_i`` is at most ``tolerance`` times ``w'Gw``, or after ``iterations``.
    """
    size = len(gramian)
    w = torch.full((size,), 1.0 / size, dtype=gramian.dtype)
    for _ in range(iterations):
        slope = gramian @ w
        length = w @ slope
        vertex = int(slope.argmin())
        if float(length - slope[vertex]) <= tolerance * float(length):
            break
        # the shortest point between w and the vertex, in closed form
        gap = length + gramian[vertex, vertex] - 2 * slope[vertex]
        step = ((length - slope[vertex]) / gap).clamp(0.0, 1.0)
        w = (1 - step) * w
        w[vertex] += step
    return w
