from __future__ import annotations

from operator import mul

import torch
from torch import Tensor

from ..errors import SolverError
from .quadratic import ActiveSet, UnboundedError, cosine_matrix


def conic_weights(gramian: Tensor, cosine: float) -> Tensor:
    """Weights of the best direction for the worst objective in a cone around the mean.

    d has the length of the mean g_0 and the largest ``t = min_i g_i.d`` among those with ``cos(d, g_0) >= cosine``.
    With the part of d along g_0 fixed at 1, the shortest d with ``g_i.d >= t`` is a non-negative QP, and its length, 1 for a
    low t, grows with t: it meets ``1 / cosine`` at the edge of the cone, or where t cannot be larger. Each step is exact
    where the same constraints stay active. Zero gradients have no part in the minimum.

    Args:
        gramian: (K, K) inner products.
        cosine: Of half the opening angle, in (0, 1].
    """
    size = len(gramian)
    rows = torch.cat([torch.eye(size, dtype=gramian.dtype), gramian.new_full((1, size), 1 / size)])
    lengths, cosines = cosine_matrix(rows @ gramian @ rows.T)
    *n, mean = lengths.tolist()
    if cosine == 1 or mean <= 1e-13 * max(n):  # a cone without width, or without axis, as the gradients cancel
        return gramian.new_full((size,), 1 / size)
    limit, problem = 1 / cosine, ActiveSet(cosines.tolist())
    rates = [1 / v if v > 0 else 0.0 for v in n] + [0.0]
    offsets = [0.0] * size + [-1.0]  # the constraints are unit_i.d >= rates t - offsets

    def shortest(t: float) -> tuple[list[float], float]:
        b = [rate * t - offset for rate, offset in zip(rates, offsets, strict=True)]
        x = problem.solve(b)
        square = sum(map(mul, x, b))
        if sum(x) > 1e3 * max(map(abs, b)) or square < max(0.5, 1e-7 * sum(x) ** 2):  # at least 1, its part along g_0
            raise UnboundedError("d is what rounding leaves of larger terms")
        return x, square**0.5

    along = cosines[-1].tolist()
    low = min(v * c for v, c in zip(n, along, strict=False) if v > 0)
    high = min(v for v in n if v > 0) * limit
    best, t = [0.0] * size + [1.0], high
    for _ in range(200):
        try:
            x, length = shortest(t)
        except UnboundedError:  # no d makes so much progress
            x, length = [], float("inf")
        if length <= limit * (1 + 1e-13):
            best, low = x, t
        else:
            high = t
        if abs(length - limit) <= 1e-13 * limit or high - low <= 1e-15 * max(abs(high), abs(low)):
            break
        step = _where_length_is(limit, problem, rates, offsets) if x else t
        t = step if low < step < high else (low + high) / 2
    else:
        raise SolverError("the edge of the cone was not met")
    found = torch.tensor(best, dtype=gramian.dtype)
    weights = found[:-1] * torch.tensor(rates[:-1], dtype=gramian.dtype) + best[-1] / (size * mean)
    square, terms = float(weights @ gramian @ weights), float(weights @ lengths[:-1])
    return weights * (mean / (square if square > 1e-9 * terms**2 else float(found @ cosines @ found)) ** 0.5)


def _where_length_is(limit: float, problem: ActiveSet, rates: list[float], offsets: list[float]) -> float:
    """The t of this length if the active constraints stay the same.

    The length is ``|| t first - second ||``.
    """
    first, second = problem.forward(rates), problem.forward(offsets)
    aa, ab, bb = (sum(map(mul, *pair)) for pair in ((first, first), (first, second), (second, second)))
    return (ab + max(ab * ab - aa * (bb - limit * limit), 0.0) ** 0.5) / aa if aa > 0 else float("nan")
