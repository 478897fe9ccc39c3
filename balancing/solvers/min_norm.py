from __future__ import annotations

import torch
from torch import Tensor

from .quadratic import nonnegative_qp


def min_norm_weights(gramian: Tensor) -> Tensor:
    """Weights of the shortest vector in the convex hull of the gradients.

    ``argmin_{w in simplex} w'Gw``.
    Two gradients have a closed form; more are the non-negative QP with ``A = G / c + 11'`` and ``b = 1``, normalized,
    for any c > 0. A zero gradient is itself the answer.
    """
    size = len(gramian)
    if size == 2:
        (aa, ab), (_, bb) = gramian.tolist()
        if min(aa, bb) > 0:
            gap = aa + bb - 2 * ab
            first = 0.5 if gap <= 0 else min(max((bb - ab) / gap, 0.0), 1.0)
            return gramian.new_tensor([first, 1 - first])
    diagonal = gramian.diagonal()
    least = int(diagonal.argmin())
    if size == 1 or float(diagonal[least]) <= 0.0:
        return torch.zeros(size, dtype=gramian.dtype).index_fill(0, torch.tensor(least), 1.0)
    x = nonnegative_qp(gramian / diagonal[least] + 1.0, torch.ones(size, dtype=gramian.dtype))
    return x / x.sum()


def frank_wolfe(gramian: Tensor, iterations: int = 250, tolerance: float = 1e-5) -> Tensor:
    """The same weights by the Frank-Wolfe iteration, from the uniform point.

    Sener and Koltun (2018), Algorithm 2.
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
