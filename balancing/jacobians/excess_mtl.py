from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..jacobian_balancer import RowBalancer
from ..measuring.pieces import Rows
from ..options import BalancerOptions


@register_balancer("excess_mtl")
class ExcessMTL(RowBalancer):
    """ExcessMTL: weights that grow with the estimated excess risk of each objective.

    They are multiplied by ``exp(eta e_i / e_i(0))``, e_i the excess risk, and rescaled to sum K.
    ``s_i`` sums the squared gradients of all steps, coordinate by coordinate; ``e_i = sum g_i^2 / sqrt(s_i + 1e-7)``, a
    second-order estimate with the curvature that Adagrad assumes.
    He et al., "Robust Multi-Task Learning with Excess Risks", ICML 2024, arXiv:2402.02009.

    needs: jacobian     scale: sum-like     heads: weighted
    The first step sets e(0) and leaves w = 1, as in the authors' code; some public code takes the raw excess there, which
    is as large as the gradient has coordinates, and ends with one objective. An objective whose first gradient is zero gets
    its e(0) from the first that is not. Keeps K gradients from step to step.

    Args:
        eta: Step size of the weights.
    """

    head_convention = "weighted"
    remembers = True
    piecewise = True
    per_objective = {"squares": (0,)}
    proportions = {"log_weights": "log"}

    def __init__(self, objectives: Sequence[str], *, eta: float = 0.01, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not eta >= 0, f"eta must not be negative, got {eta}")
        self.eta = eta
        self.initial = nn.Buffer(torch.zeros(len(self.objectives)))
        self.log_weights: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))

    def compute_weights(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self.weights_of_rows(losses, Rows.of(jacobian))

    def weights_of_rows(self, losses: Tensor, rows: Rows) -> Tensor:
        first = "squares" not in self.memory
        squares = self.memory["squares"] = rows.memory(self.memory.get("squares"))
        excess = []
        scratch = squares.new_empty(2, rows.width)  # kept from piece to piece, so that all stays in the cache
        for at, vectors in rows.pieces():
            square, root = scratch[:, : at.stop - at.start]
            for total, vector, factor in zip(squares[:, at], vectors, rows.factors, strict=True):
                torch.mul(vector, vector if factor == 1 else vector * factor**2, out=square)
                total += square
                excess.append(torch.dot(square, torch.add(total, 1e-7, out=root).rsqrt_()))
        risks = torch.stack(excess).view(-1, len(squares)).double().sum(0).to(self.initial)
        self.initial.copy_(torch.where(self.initial > 0, self.initial, risks))
        if not first:
            self.log_weights += self.eta * torch.where(self.initial > 0, risks / self.initial, 0.0)
            self.log_weights -= self.log_weights.max()  # only differences count
        return len(risks) * torch.softmax(self.log_weights, 0)
