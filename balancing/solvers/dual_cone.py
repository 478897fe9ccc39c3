from __future__ import annotations

import torch
from torch import Tensor

from .quadratic import ActiveSet

_WRONG = -1e-12  # a variable or slope below this has the wrong sign
_SMALL = (
    16  # up to this size whole systems cost no more than those of some variables, and plain floats less than tensors
)


def dual_cone_weights(cosines: Tensor, target: Tensor) -> Tensor:
    """Weights of a projection onto the directions in conflict with no gradient.

    ``argmin_{v >= u} v'Cv`` for the vector ``sum_i u_i g_i``.
    Args:
        cosines: (K, K) Gramian C of the gradients, scaled to unit length.
        target: (K,) weights u of these unit gradients.
    """
    return target + torch.tensor(ActiveSet(cosines.tolist()).solve((-(cosines @ target)).tolist()), dtype=target.dtype)


def dual_cone_weights_of_each(cosines: Tensor, iterations: int = 15) -> Tensor:
    """(K, K) matrix whose row i is :func:`dual_cone_weights` for the target e_i.

    All K problems at once. Block pivoting nearly always settles in two or three rounds. Gradients that depend on each other
    may make it cycle: if every direction conflicts, one combination of all gradients that is zero solves every problem; else
    an active-set method goes on from the solution with a ridge on C, one variable at a time in all problems that are left.
    """
    problems = _Problems(cosines)
    everything = torch.arange(len(cosines))
    x, left = problems.pivot(everything, cosines < 0, 0.0, iterations)
    if len(left) and len(cosines) > _SMALL:
        zero = dual_cone_weights(cosines, torch.ones_like(cosines[0]))
        if float(zero @ cosines @ zero) < 1e-10 * float(zero.sum()) ** 2 / len(zero):
            return zero.expand_as(cosines).clone()
        start, _ = problems.pivot(left, cosines[left] < 0, 1e-2, iterations)
        x[left], unsolved = problems.descend(left, start.clamp(min=0))
        left = left[unsolved]
    result = x.clamp(min=0) + torch.eye(len(cosines), dtype=cosines.dtype)
    for i in left.tolist():
        result[i] = dual_cone_weights(cosines, torch.eye(len(cosines), dtype=cosines.dtype)[i])
    return result


class _Problems:
    """``argmin_{x >= 0} x'Cx / 2 + x'Ce_i`` for several i."""

    def __init__(self, cosines: Tensor) -> None:
        self.cosines = cosines
        self.unit = torch.eye(len(cosines), dtype=cosines.dtype)

    def pivot(self, chosen: Tensor, positive: Tensor, ridge: float, rounds: int) -> tuple[Tensor, Tensor]:
        """Block pivoting: (N, K) solutions, and those of the (N,) ``chosen`` that have not settled.

        Each problem guesses which variables are positive, solves for them, and moves every variable of the wrong sign and
        every one with a negative slope to the other side. ``ridge`` is added to the diagonal of C.
        """
        x = torch.zeros_like(self.cosines[chosen])
        left = torch.arange(len(chosen))
        for _ in range(rounds):
            inside = positive[left]
            x[left] = values = self._minimum(chosen[left], inside, ridge)
            slope = (values + self.unit[chosen[left]]) @ self.cosines + ridge * values
            wrong = ~(torch.where(inside, values, slope) >= _WRONG)
            some = wrong.any(1)
            left, wrong = left[some], wrong[some]
            if not len(left):
                break
            positive[left] ^= wrong
        return x, chosen[left]

    def descend(self, chosen: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Active sets from (N, K) ``x`` >= 0: solutions, and a mask of the problems without one.

        In each round a problem moves to the minimum over its positive variables, or as far as all stay positive. At the
        minimum the variable with the steepest slope joins.
        """
        positive = x > 0
        unsolved = torch.ones(len(chosen), dtype=torch.bool)
        left = torch.arange(len(chosen))
        for _ in range(2 * len(self.cosines)):
            inside, start = positive[left], x[left]
            target = self._minimum(chosen[left], inside, 0.0)
            falling = inside & (target <= 0)
            ratios = torch.where(falling, start / (start - target), torch.inf)
            step = ratios.amin(1, keepdim=True).clamp(max=1.0)
            leaving = falling & (ratios <= step)
            inside = inside & ~leaving
            values = torch.where(inside, start + step * (target - start), 0.0).clamp(min=0)
            slope = -(values + self.unit[chosen[left]]) @ self.cosines
            steepest, joining = slope.masked_fill(inside, -1.0).max(1)
            minimal = ~leaving.any(1)
            solved = minimal & (steepest <= -_WRONG / 10)
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
        if len(self.cosines) <= _SMALL:
            order = torch.arange(len(self.cosines)).expand_as(inside)
        else:  # the variables inside, and nothing else, come first
            size = int(inside.sum(1).max())
            order = inside.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]
        mask = inside.gather(1, order)
        matrix = self.cosines[order[:, :, None], order[:, None, :]] * (mask[:, :, None] & mask[:, None, :])
        matrix.diagonal(dim1=1, dim2=2).fill_(float(self.cosines[0, 0]) + ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        right = (-self.cosines[chosen].gather(1, order) * mask)[:, :, None]
        values = torch.cholesky_solve(right, factor).squeeze(2) * mask
        values[failed > 0] = torch.nan
        return torch.zeros_like(self.cosines[chosen]).scatter_(1, order, values)
