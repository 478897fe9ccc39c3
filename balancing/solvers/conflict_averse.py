from __future__ import annotations

from operator import mul

import torch
from torch import Tensor

from ..errors import SolverError
from .min_norm import min_norm_weights
from .quadratic import ActiveSet, UnboundedError, cosine_matrix


def conflict_averse_weights(gramian: Tensor, radius: float) -> Tensor:
    """Weights of the best direction for the worst objective in a ball around the mean.

    d has the largest ``t = min_i g_i.d`` in the ball ``||d - g_0|| <= radius ||g_0||``, g_0 the mean.
    For a given t the d nearest to g_0 with ``g_i.d >= t`` is a non-negative QP, and its distance is convex in t. So t falls
    from an upper bound, and each step is exact where the same constraints stay active. No t above 0 is possible if a convex
    combination of the gradients is zero; if t = 0 is, the d nearest to g_0 is taken, which may lie inside the ball.
    """
    size = len(gramian)
    lengths, cosines = cosine_matrix(gramian)
    n = lengths.tolist()
    mean = [v / size for v in n]
    progress = [sum(map(mul, row, mean)) for row in cosines.tolist()]  # of g_0, along unit gradients
    ball = radius * sum(map(mul, progress, mean)) ** 0.5
    problem = ActiveSet(cosines.tolist())

    def distance(t: float) -> tuple[list[float], float]:
        b = [(t / v if v > 0 else 0.0) - p for v, p in zip(n, progress, strict=True)]
        x = problem.solve(b)
        return x, max(sum(map(mul, x, b)), 0.0) ** 0.5

    x, far = distance(0.0)
    low, high = min(map(mul, n, progress)), 0.0
    if far <= ball:
        low, high = 0.0, min(v * (p + ball) for v, p in zip(n, progress, strict=True))
        for attempt in range(3):
            try:
                x, far = distance(high)
                break
            except UnboundedError:  # no d has such products with all gradients
                high = _largest_product(lengths, cosines, progress, ball) if attempt == 0 else 0.0
    t = high
    for _ in range(100):
        if abs(far - ball) <= 1e-13 * ball or not low < high:
            break
        # on the active constraints the distance is || t first - second ||
        first, second = problem.forward([1 / v if v > 0 else 0.0 for v in n]), problem.forward(progress)
        aa, ab, bb = (sum(map(mul, *pair)) for pair in ((first, first), (first, second), (second, second)))
        step = (ab + max(ab * ab - aa * (bb - ball * ball), 0.0) ** 0.5) / aa if aa > 0 else t
        step = step if low < step < high else (low + high) / 2
        if abs(step - t) <= 1e-15 * abs(t):
            break
        t = step
        x, far = distance(t)
        low, high = (low, t) if far > ball else (t, high)
    else:
        raise SolverError("the radius of the conflict-averse direction was not met")
    return torch.tensor([1 / size + (y / v if v > 0 else 0.0) for y, v in zip(x, n, strict=True)], dtype=gramian.dtype)


def _largest_product(lengths: Tensor, cosines: Tensor, progress: list[float], ball: float) -> float:
    """A bound of t from the min-norm point of the unit gradients; 0 if that is zero."""
    w = min_norm_weights(cosines)
    length = float(w @ cosines @ w) - float(cosines[0, 0] - 1) * float(w @ w)
    return 0.0 if length < 1e-15 else float((w @ w.new_tensor(progress) + ball * length**0.5) / (w / lengths).sum())
