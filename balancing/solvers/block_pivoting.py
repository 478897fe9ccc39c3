from __future__ import annotations

import torch
from torch import Tensor

#: Up to this number of variables plain floats take less time than tensors.
SMALL = 16
#: A variable or slope below this has the wrong sign.
WRONG = -1e-12


def solve_together(a: Tensor, b: Tensor, rounds: int = 15) -> tuple[Tensor, Tensor]:
    """(N, K) ``argmin_{x >= 0} 1/2 x'Ax - b'x`` for several b, and the indices of unsolved ones.

    Block pivoting (Judice and Pires, 1994) nearly always settles in a few rounds. Variables that depend on each other may
    make it cycle; an active-set method then goes on from the solution with a ridge on A, one variable at a time, in all
    problems that are left.

    Args:
        a: (K, K) symmetric positive semi-definite with a constant diagonal of about 1.
        b: (N, K) linear terms of order 1.
        rounds: Of block pivoting, with and without the ridge.
    """
    problems = _Problems(a, b)
    x, left = problems.pivot(torch.arange(len(b)), b > 0, 0.0, min(rounds, 5))
    if len(left):
        start, _ = problems.pivot(left, b[left] > 0, 1e-2, rounds)
        x[left], unsolved = problems.descend(left, start.clamp(min=0))
        left = left[unsolved]
    return x.clamp(min=0), left


class _Problems:
    """The problems of :func:`solve_together`."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def pivot(self, chosen: Tensor, positive: Tensor, ridge: float, rounds: int) -> tuple[Tensor, Tensor]:
        """(N, K) solutions of the (N,) ``chosen`` problems, and those that have not settled.

        Each problem guesses which variables are positive, solves for them, and moves every variable of the wrong sign and
        every one with a negative slope to the other side. ``ridge`` is added to the diagonal.
        """
        x, left = torch.zeros_like(self.b[chosen]), torch.arange(len(chosen))
        for _ in range(rounds):
            inside = positive[left]
            x[left] = values = self._minimum(chosen[left], inside, ridge)
            slope = values @ self.a - self.b[chosen[left]] + ridge * values
            wrong = ~(torch.where(inside, values, slope) >= WRONG)
            some = wrong.any(1)
            left, wrong = left[some], wrong[some]
            if not len(left):
                break
            positive[left] ^= wrong
        return x, chosen[left]

    def descend(self, chosen: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Solutions from (N, K) ``x`` >= 0, and a mask of the problems without one.

        In each round a problem moves to the minimum over its positive variables, or as far as all stay positive. At the
        minimum the variable with the steepest slope joins.
        """
        positive, unsolved = x > 0, torch.ones(len(chosen), dtype=torch.bool)
        left = torch.arange(len(chosen))
        for _ in range(2 * len(self.a)):
            inside, start = positive[left], x[left]
            target = self._minimum(chosen[left], inside, 0.0)
            falling = inside & (target <= 0)
            ratios = torch.where(falling, start / (start - target), torch.inf)
            step = ratios.amin(1, keepdim=True).clamp(max=1.0)
            leaving = falling & (ratios <= step)
            inside = inside & ~leaving
            values = torch.where(inside, start + step * (target - start), 0.0).clamp(min=0)
            slope = self.b[chosen[left]] - values @ self.a
            steepest, joining = slope.masked_fill(inside, -1.0).max(1)
            minimal = ~leaving.any(1)
            solved = minimal & (steepest <= -WRONG / 10)
            x[left], unsolved[left] = values, ~solved
            inside[minimal & ~solved, joining[minimal & ~solved]] = True
            positive[left] = inside
            left = left[~solved & target.isfinite().all(1)]
            if not len(left):
                break
        return x, unsolved

    def _minimum(self, chosen: Tensor, inside: Tensor, ridge: float) -> Tensor:
        """(N, K) solutions of the linear systems of the variables ``inside``; the others are 0.

        Not a number where the variables depend on each other.
        """
        size = int(inside.sum(1).max())
        order = inside.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]  # those inside come first
        mask = inside.gather(1, order)
        matrix = self.a[order[:, :, None], order[:, None, :]] * (mask[:, :, None] & mask[:, None, :])
        matrix.diagonal(dim1=1, dim2=2).fill_(float(self.a[0, 0]) + ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        right = (self.b[chosen].gather(1, order) * mask)[:, :, None]
        values = torch.cholesky_solve(right, factor).squeeze(2) * mask
        values[failed > 0] = torch.nan
        return torch.zeros_like(self.b[chosen]).scatter_(1, order, values)
