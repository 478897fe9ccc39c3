from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..composed import Composed
from ..factory import register_balancer
from ..jacobian_balancer import JacobianBalancer
from ..losses.realtime import Realtime
from ..measuring.pieces import Rows
from ..options import BalancerOptions


class _EqualLengths(JacobianBalancer):
    """Averages of the gradients of log losses, at equal lengths."""

    name = "db_mtl"
    convention = "own"
    positive = True
    preference_on = "method"
    remembers = True
    piecewise = True
    per_objective = {"m": (0,)}

    def __init__(
        self, objectives: Sequence[str], beta: float, decay: float, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 <= beta < 1, f"beta must be in [0, 1), got {beta}")
        self.reject(decay < 0, f"decay must not be negative, got {decay}")
        self.beta, self.decay = beta, decay

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        """(P,) sum of the averages of the rows, which are gradients of log losses, at equal lengths."""
        return self.combine_rows(losses, Rows.of(jacobian))[0]

    def combine_rows(self, losses: Tensor, rows: Rows) -> list[Tensor]:
        past = self.beta / (self.step + 1) ** self.decay
        m = self.memory["m"] = rows.memory(self.memory.get("m"))
        norms = []
        for at, vectors in rows.pieces(drop=True):
            for average, vector, factor in zip(m[:, at], vectors, rows.factors, strict=True):
                average.mul_(past).add_(vector, alpha=(1 - past) * factor)
            norms.append(torch.linalg.vector_norm(m[:, at], dim=1))
        lengths = torch.stack(norms).double().norm(dim=0)
        alpha = torch.where(lengths > 0, lengths.max() / lengths, 0.0)
        return rows.combination(alpha * self.preference.to(alpha), m)


@register_balancer("db_mtl")
class DBMTL(Composed):
    """DB-MTL: averaged gradients of the log losses, at equal lengths.

    ``d = sum_i (max_j ||m_j|| / ||m_i||) m_i``, where
    m_i averages the gradients h_i of ``log(L_i + 1e-8)``: ``m_i <- h_i + beta / k^decay (m_i - h_i)`` at step k = 1, 2, ...
    Lin et al., "Dual-Balancing for Multi-Task Learning", 2023, arXiv:2308.12029.

    needs: jacobian     scale: own (K vectors as long as the longest)     heads: unit (of log L)     preference: multiplies the lengths
    m starts at 0, as published: the first update is 1 - beta times what it would be without averaging. The defaults are
    those of the authors' code; the paper lets beta fade, decay=0.5. A zero average stays zero. Keeps K gradients from step
    to step.

    Args:
        beta: Share of the past, in [0, 1).
        decay: Power of the step number that divides it.
    """

    needs = "jacobian"
    convention = "own"
    preference_on = "method"
    remembers = True
    weighs = "takes logarithms of the losses"

    def __init__(
        self, objectives: Sequence[str], *, beta: float = 0.9, decay: float = 0.0, **options: Unpack[BalancerOptions]
    ) -> None:
        # weights 1 / (L + 1e-8), so logarithms, for the heads too
        super().__init__(Realtime(objectives), _EqualLengths(objectives, beta, decay, **options))
