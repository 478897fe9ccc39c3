"""The small convex problems behind gradient methods: K x K, float64, nothing but torch."""

from __future__ import annotations

from math import inf, sqrt
from operator import mul

import torch
from torch import Tensor

from balancing.errors import SolverError

__all__ = [
    "ActiveSet",
    "UnboundedError",
    "conflict_averse_weights",
    "cosine_matrix",
    "dual_cone_weights",
    "dual_cone_weights_of_each",
    "fair_weights",
    "frank_wolfe",
    "min_norm_weights",
    "nonnegative_qp",
]


class UnboundedError(SolverError):
    """The quadratic program has no minimum: the constraints of its dual cannot all hold."""


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
        UnboundedError: There is no minimum, which needs a singular ``a`` and a ``b`` outside its range.
        SolverError: The active set did not settle, which a bounded problem cannot cause in exact arithmetic.
    """
    root = a.diagonal().sqrt()
    a, b = _definite(a / root[:, None] / root, 1e-13), b / root
    return torch.tensor(ActiveSet(a.tolist()).solve(b.tolist(), tolerance), dtype=a.dtype) / root


def _definite(a: Tensor, ridge: float) -> Tensor:
    """``a`` with ``ridge`` on its unit diagonal, or more if rounding, of single precision say, has made it indefinite."""
    a.diagonal().fill_(1 + max(ridge, -2 * float(torch.linalg.eigvalsh(a)[0])))
    return a


class ActiveSet:
    """Solves :func:`nonnegative_qp` for one matrix with a unit diagonal, each time from the last set of positive variables.

    Plain floats: at this size a tensor operation costs more than the arithmetic in it. A variable that joins the set adds
    a row to its Cholesky factor. If it depends on those in the set, it takes a long step along the null space, which ends
    where the first of the others reaches zero.

    Args:
        a: K rows of K numbers, symmetric and, with a little on the diagonal, positive definite.
    """

    def __init__(self, a: list[list[float]]) -> None:
        self.a = a
        self.index: list[int] = []  # the positive variables, in the order of the rows of the factor
        self.factor: list[list[float]] = []
        self.half: list[float] = []  # factor^-1 b

    def solve(self, b: list[float], tolerance: float = 1e-13) -> list[float]:
        """The minimiser for ``b``; dual violations are at most ``tolerance`` times the largest entry of ``b``."""
        self.b, self.half = b, self.forward(b)
        bound = tolerance * max(map(abs, b))
        # a guess: all that look worth adding join at once, unless they nearly depend on those before
        for i, value in enumerate(self._slope(self._minimum_of_some())):
            if value > bound and i not in self.index:
                self._append(i, dependent=1e-6)
        x = self._minimum_of_some()
        barred = -1  # a variable that rounding alone made look worth adding
        for _ in range(10 * len(b) + 10):
            slope = self._slope(x)
            for i in (*self.index, *([barred] if barred >= 0 else [])):
                slope[i] = 0.0
            steepest = max(slope)
            if steepest <= bound:
                return x
            joining = slope.index(steepest)
            self._append(joining)
            self._descend(x)
            barred = -1 if x[joining] > 0 else joining
        raise SolverError("the active set of the non-negative QP did not settle")

    def forward(self, values: list[float]) -> list[float]:
        """``factor^-1 values``, of which the entries of the positive variables count."""
        half: list[float] = []
        for i, row in zip(self.index, self.factor, strict=True):
            half.append((values[i] - sum(map(mul, row, half))) / row[-1])
        return half

    def _slope(self, x: list[float]) -> list[float]:
        return [value - sum(map(mul, row, x)) for value, row in zip(self.b, self.a, strict=True)]

    def _minimum_of_some(self) -> list[float]:
        """Drop variables until the minimum over the others is positive, and return it."""
        while min(values := self._minimum(), default=1.0) <= 0:
            self._keep([i for i, value in zip(self.index, values, strict=True) if value > 0])
        x = [0.0] * len(self.b)
        for i, value in zip(self.index, values, strict=True):
            x[i] = value
        return x

    def _minimum(self) -> list[float]:
        """The positive variables where the slope in all of them is zero: back substitution."""
        values, rest = [], self.half
        for row in reversed(self.factor):
            last = rest[-1] / row[-1]
            values.append(last)
            rest = [v - r * last for v, r in zip(rest[:-1], row, strict=False)]
        return values[::-1]

    def _append(self, i: int, dependent: float = -inf) -> None:
        """Let a variable join the set, unless its pivot is below ``dependent``."""
        row = self.forward(self.a[i])
        pivot = self.a[i][i] - sum(map(mul, row, row))
        if pivot >= dependent:
            row.append(max(pivot, 1e-14) ** 0.5)  # rounding may leave less
            self.half.append((self.b[i] - sum(map(mul, row, self.half))) / row[-1])
            self.index.append(i)
            self.factor.append(row)

    def _keep(self, index: list[int]) -> None:
        """Let only ``index`` stay; the factor's rows after the first that leaves are found anew."""
        same = 0
        while same < len(index) and index[same] == self.index[same]:
            same += 1
        del self.index[same:], self.factor[same:], self.half[same:]
        for i in index[same:]:
            self._append(i)

    def _descend(self, x: list[float]) -> None:
        """Move ``x`` to the minimum over the positive variables; those that reach zero on the way leave the set."""
        limit = 1e7 * max(map(abs, self.b))  # more than 1e-13 on the diagonal allows if there is a minimum
        while self.index:
            target = self._minimum()
            ratios = [x[i] / (x[i] - t) if x[i] > 0 else 0.0 for i, t in zip(self.index, target, strict=True) if t <= 0]
            step = min(ratios, default=1.0)
            if step * max(target) > limit:
                raise UnboundedError("the non-negative QP has no minimum")
            staying = []
            for i, t in zip(self.index, target, strict=True):
                if t <= 0 and (x[i] <= 0 or x[i] / (x[i] - t) <= step):
                    x[i] = 0.0
                else:
                    x[i] = max(x[i] + step * (t - x[i]), 0.0)
                    staying.append(i)
            if len(staying) == len(self.index):
                return
            self._keep(staying)


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


def cosine_matrix(gramian: Tensor, ridge: float = 1e-13) -> tuple[Tensor, Tensor]:
    """(K,) lengths of the gradients, and (K, K) cosines between them; a zero gradient is orthogonal to all others.

    ``ridge`` on the diagonal keeps the cosines of gradients that depend on each other positive definite.
    """
    lengths = gramian.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    cosines = gramian * inverse[:, None] * inverse
    cosines.diagonal().fill_(1.0)
    return lengths, _definite(cosines, ridge)


def dual_cone_weights(cosines: Tensor, target: Tensor) -> Tensor:
    """``argmin_{v >= u} v'Cv``: weights of the projection of ``sum_i u_i g_i`` onto the directions in conflict with no g_i.

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


def conflict_averse_weights(gramian: Tensor, radius: float) -> Tensor:
    """Weights of the d with the largest ``t = min_i g_i.d`` in the ball ``||d - g_0|| <= radius ||g_0||``, g_0 the mean.

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
    """A bound of t in :func:`conflict_averse_weights` by the min-norm point of the unit gradients; 0 if that is zero."""
    w = min_norm_weights(cosines)
    length = float(w @ cosines @ w) - float(cosines[0, 0] - 1) * float(w @ w)
    return 0.0 if length < 1e-15 else float((w @ w.new_tensor(progress) + ball * length**0.5) / (w / lengths).sum())


def _fair_pair(cosines: Tensor, priority: Tensor) -> Tensor:
    """:func:`fair_weights` of two unit gradients for alpha = 1: ``u^2 + c u v = p``, ``v^2 + c u v = q``, a quadratic in uv."""
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

    It minimises the convex ``1/2 a'Ga - sum_i p_i a_i^(1 - 1/alpha) / (1 - 1/alpha)``, where alpha = 1 stands for the
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
        room = 0.9 / max(-float(relative.min()), 0.9)  # how far b stays positive
        # an entry that must fall by orders of magnitude would hold up the others, so there 1 / b moves instead
        crowded = room <= 0.01
        step = 1.0 if crowded else room
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
