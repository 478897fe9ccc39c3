from __future__ import annotations

from math import inf, sqrt
from operator import mul

import torch
from torch import Tensor

from ..errors import SolverError
from .block_pivoting import SMALL, solve_together


class UnboundedError(SolverError):
    """The quadratic program has no minimum: the constraints of its dual cannot all hold."""


def nonnegative_qp(a: Tensor, b: Tensor, tolerance: float = 1e-13) -> Tensor:
    """(K,) ``argmin_{x >= 0} 1/2 x'Ax - b'x`` by Lawson and Hanson's active-set method (1974).

    Args:
        a: (K, K) symmetric positive semi-definite with a positive diagonal. It is scaled to a unit diagonal first, so
            rows may differ by many orders of magnitude.
        b: (K,) linear term.
        tolerance: Largest dual violation, relative to ``b`` in the scaled problem.

    Raises:
        UnboundedError: There is no minimum, which needs a singular ``a`` and a ``b`` outside its range.
        SolverError: The active set did not settle, which a bounded problem cannot cause in exact arithmetic.
    """
    root = a.diagonal().sqrt()
    return minimum_of_unit_qp(_definite(a / root[:, None] / root, 1e-13), b / root, tolerance) / root


def minimum_of_unit_qp(a: Tensor, b: Tensor, tolerance: float = 1e-13, bounded: bool = False) -> Tensor:
    """:func:`nonnegative_qp` for a matrix with a unit diagonal.

    Raises as that, but no UnboundedError where the caller knows that there is a minimum (``bounded``).
    """
    size = float(b.abs().max())
    if float(b.max()) <= 0:
        return torch.zeros_like(b)
    if size > 0 and (len(a) > SMALL or int((b > 0).sum()) > SMALL // 2):
        (x,), left = solve_together(a, b[None] / size)
        if not len(left):
            return x * size
    return torch.tensor(ActiveSet(a.tolist()).solve(b.tolist(), tolerance, bounded), dtype=a.dtype)


def _definite(a: Tensor, ridge: float) -> Tensor:
    """``a`` with ``ridge`` on its unit diagonal, or more if rounding has made it indefinite."""
    a.diagonal().fill_(1 + ridge / 2)
    if not int(torch.linalg.cholesky_ex(a).info):  # no eigenvalue of a is below -ridge / 2
        least = 0.0
    else:
        a.diagonal().fill_(1)
        least = float(torch.linalg.eigvalsh(a)[0])
    a.diagonal().fill_(1 + max(ridge, -2 * least))
    return a


class ActiveSet:
    """Solver of :func:`nonnegative_qp` for one matrix with a unit diagonal.

    It starts each time from the last set of positive variables.
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

    def solve(self, b: list[float], tolerance: float = 1e-13, bounded: bool = False) -> list[float]:
        """The minimizer for ``b``, to violations of ``tolerance`` times its largest entry."""
        self.b, self.half = b, self.forward(b)
        # more than 1e-13 on the diagonal allows if there is a minimum
        self.limit = inf if bounded else 1e7 * max(map(abs, b))
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
        """Move ``x`` to the minimum over positive variables; those that reach zero leave the set."""
        while self.index:
            target = self._minimum()
            ratios = [x[i] / (x[i] - t) if x[i] > 0 else 0.0 for i, t in zip(self.index, target, strict=True) if t <= 0]
            step = min(ratios, default=1.0)
            if step * max(target) > self.limit:
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


def cosine_matrix(gramian: Tensor, ridge: float = 1e-13) -> tuple[Tensor, Tensor]:
    """(K,) lengths of the gradients, and (K, K) cosines between them.

    A zero gradient is orthogonal to all others.
    ``ridge`` on the diagonal keeps the cosines of gradients that depend on each other positive definite.
    """
    if len(gramian) == 2 and gramian.dtype == torch.float64:  # plain floats, as the operations below take longer
        (aa, ab), (ba, bb) = gramian.tolist()
        n, m = (sqrt(max(square, 0.0)) for square in (aa, bb))
        p, q = (1 / length if length > 0 else 0.0 for length in (n, m))
        above, below = ab * p * q, ba * q * p
        if max(abs(above), abs(below)) <= 1:
            square = 1 + ridge
            return gramian.new_tensor([n, m]), gramian.new_tensor([[square, above], [below, square]])
    lengths = gramian.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    cosines = gramian * inverse[:, None] * inverse
    cosines.diagonal().fill_(1.0)
    return lengths, _definite(cosines, ridge)
