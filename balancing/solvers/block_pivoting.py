from __future__ import annotations

import torch
from torch import Tensor

#: Up to this number of variables, of which half are positive, plain floats take less time than tensors.
SMALL = 40
#: A variable or slope below this has the wrong sign.
WRONG = -1e-12


def solve_together(a: Tensor, b: Tensor, rounds: int = 30) -> tuple[Tensor, Tensor]:
    """(N, K) ``argmin_{x >= 0} 1/2 x'Ax - b'x`` for several b, and which are unsolved.

    Block pivoting (Judice and Pires, 1994) settles in a few rounds where the variables are independent. Where they depend
    on each other it may cycle, so problems that are left get a penalty on the distance from where they are, which falls as
    they settle: the proximal point method. An active-set method solves what is then left.

    Args:
        a: (K, K) symmetric positive semi-definite with a constant diagonal of about 1.
        b: (N, K) linear terms of order 1.
        rounds: Limit of the rounds of block pivoting with a penalty, and three more without.
    """
    problems = _Problems(a, b)
    start = problems.approach(torch.arange(len(b)), 0.3, 50) if len(b) > 1 else b.clamp(min=0)
    x, left = problems.pivot(torch.arange(len(b)), start, 0.0, min(rounds, 3))
    if len(left):
        start = problems.approach(left, 0.03, 100) if len(b) > 1 else b[left].clamp(min=0)
        x[left], left = problems.pivot(left, start, 1e-2, rounds)
    if len(left):
        x[left], unsolved = problems.descend(left, x[left].clamp(min=0))
        left = left[unsolved]
    return x.clamp(min=0), left


class _Problems:
    """The problems of :func:`solve_together`."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def approach(self, chosen: Tensor, penalty: float, iterations: int) -> Tensor:
        """(N, K) points >= 0 near the solutions of the (N,) ``chosen`` problems.

        The alternating direction method of multipliers (Boyd et al., 2011) with over-relaxation, whose iterations cost one
        matrix product for all problems. It ends early if the positive variables have stayed the same for ten of them.
        """
        b, relaxation = self.b[chosen], 1.6
        inverse = torch.linalg.inv(self.a + penalty * torch.eye(len(self.a), dtype=self.a.dtype))
        fixed, inverse = b @ inverse, penalty * inverse
        x, dual, positive = torch.zeros_like(b), torch.zeros_like(b), b > 0
        for count in range(1, iterations + 1):
            free = torch.addmm(fixed, x - dual, inverse)
            dual.add_(free, alpha=relaxation).add_(x, alpha=1 - relaxation)
            x = dual.clamp(min=0)
            dual -= x
            if count % 10 == 0:
                former, positive = positive, x > 0
                if torch.equal(former, positive):
                    break
        return x

    def pivot(self, chosen: Tensor, start: Tensor, penalty: float, rounds: int) -> tuple[Tensor, Tensor]:
        """(N, K) solutions of the (N,) ``chosen`` problems, and those that have not settled.

        Each problem guesses which variables are positive, solves for them, and moves every variable of the wrong sign and
        every one with a negative slope to the other side. ``penalty / 2 |x - last|^2`` is added, where ``last`` is the
        solution of the round before; the penalty falls when no sign is wrong, and grows again otherwise.
        """
        x, left, b = start.clone(), torch.arange(len(chosen)), self.b[chosen]
        inside, last, pull = start > 0, start, torch.full_like(start[:, :1], penalty)
        for _ in range(rounds):
            values = self._minimum(b, inside, pull, last)
            slope = values @ self.a - b
            wrong = ~(torch.where(inside, values, slope + pull * (values - last) if penalty else slope) >= WRONG)
            some = wrong.any(1, keepdim=True)
            if penalty:  # settled if the slopes are right without it
                pull = torch.where(some, 2 * pull, pull / 10).clamp(1e-6, penalty)
                some = some | ~(torch.where(inside, -slope.abs(), slope) >= WRONG).all(1, keepdim=True)
            inside, last = inside ^ wrong, values.clamp(min=0)
            if not bool(some.all()):
                some = some.squeeze(1)
                x[left[~some]] = values[~some]
                left, b, inside, last, pull = left[some], b[some], inside[some], last[some], pull[some]
                if not len(left):
                    break
        x[left] = last
        return x, chosen[left]

    def descend(self, chosen: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Solutions of the (N,) ``chosen`` problems from (N, K) ``x`` >= 0, and which have none.

        In each round a problem moves to the minimum over its positive variables. If some are negative there, they are left
        out at once where that is a descent; otherwise it moves as far as all stay positive. At the minimum the variable with
        the steepest slope joins.
        """
        positive, unsolved = x > 0, torch.ones(len(chosen), dtype=torch.bool)
        left = torch.arange(len(chosen))
        for _ in range(2 * len(self.a)):
            inside, start, b = positive[left], x[left], self.b[chosen[left]]
            target = self._minimum(b, inside, torch.zeros_like(b[:, :1]), start)
            falling = inside & (target <= 0)
            leap, lowest = self._scaled(target.clamp(min=0), b)
            lower = lowest < (start * (start @ self.a / 2 - b)).sum(1, keepdim=True)
            lower &= falling.any(1, keepdim=True)
            ratios = torch.where(falling, start / (start - target), torch.inf)
            step = ratios.amin(1, keepdim=True).clamp(max=1.0)
            leaving = falling & ((ratios <= step) | lower)
            inside = inside & ~leaving
            values = torch.where(lower, leap, (start + step * (target - start)).clamp(min=0))
            values = torch.where(inside, values, 0.0)
            slope = b - values @ self.a
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

    def _scaled(self, x: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The multiples of (N, K) ``x`` where what is minimized is lowest, and its values."""
        along, across = (x * b).sum(1, keepdim=True).clamp(min=0), (x * (x @ self.a)).sum(1, keepdim=True)
        size = torch.where(across > 0, along / across, 0.0)
        return size * x, -size * along / 2

    def _minimum(self, b: Tensor, inside: Tensor, penalty: Tensor, last: Tensor) -> Tensor:
        """(N, K) minima over the variables ``inside``; the others are 0.

        ``penalty / 2 |x - last|^2`` is added. Not a number where the variables depend on each other.
        """
        mask, matrix = inside, self.a
        right = torch.addcmul(b, penalty, last)
        size = int(inside.sum(1).max())
        whole = len(self.a) <= max(64, size)
        if not whole:
            # those inside come first
            order = inside.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]
            mask, right = inside.gather(1, order), right.gather(1, order)
            matrix = matrix[order[:, :, None], order[:, None, :]]
        ones = mask.to(right.dtype)
        matrix = matrix * ones[:, :, None] * ones[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).copy_(self.a[0, 0] + penalty.expand_as(right))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        values = torch.cholesky_solve((right * ones)[:, :, None], factor).squeeze(2)
        if bool(failed.any()):
            values[failed > 0] = torch.nan
        return values if whole else torch.zeros_like(b).scatter_(1, order, values)
