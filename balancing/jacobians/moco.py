from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..jacobian_balancer import JacobianBalancer
from ..measuring.gradients import gramian_of
from ..measuring.pieces import Rows
from ..options import BalancerOptions
from ..solvers import project_to_simplex


@register_balancer("moco")
class MoCo(JacobianBalancer):
    """MoCo: MGDA's weights and the gradients they combine, both tracked over steps.

    Gradients are averaged, ``y_i <- y_i - beta_k (y_i - h_i)``, and the update is ``d = sum_i w_i y_i``.
    The weights on the simplex descend ``1/2 ||d||^2``: ``w <- project(w - gamma_k (Y Y' + rho) w)``. At step k = 1, 2, ...
    ``beta_k = beta / k^beta_decay`` and ``gamma_k = gamma / k^gamma_decay``; Y starts at 0 and w at 1 / K.
    Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach", ICLR 2023,
    arXiv:2210.12624.

    needs: jacobian     scale: mean-like     heads: unit     preference: multiplies the weights
    As in the authors' code, ``h_i = g_i L_i / ||g_i||``, a gradient as long as its loss, which must be positive;
    ``rescale=False`` is the paper's ``h_i = g_i``. Public code has a softmax where the paper and this class project.
    A zero gradient counts as zero. Keeps K gradients from step to step.

    Args:
        beta: Step of the averages, in (0, 1].
        beta_decay: Power of the step number that divides it.
        gamma: Step of the weights, in the unit of 1 / ``||y||^2``.
        gamma_decay: Power of the step number that divides it.
        rho: Pull towards equal weights, in the unit of ``||y||^2``.
        rescale: Whether gradients are made as long as their losses.
    """

    convention = "mean"
    positive = True
    preference_on = "method"
    remembers = True
    piecewise = True
    state_options = ("rescale",)
    per_objective = {"y": (0,)}
    proportions = {"mixture": "one"}

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        beta: float = 0.5,
        beta_decay: float = 0.5,
        gamma: float = 0.1,
        gamma_decay: float = 0.5,
        rho: float = 0.0,
        rescale: bool = True,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        wrong = not 0 < beta <= 1 or not gamma > 0
        self.reject(wrong, f"beta must be in (0, 1] and gamma positive, got {beta} and {gamma}")
        problem = f"beta_decay, gamma_decay and rho must not be negative, got {beta_decay}, {gamma_decay} and {rho}"
        self.reject(min(beta_decay, gamma_decay, rho) < 0, problem)
        self.beta, self.beta_decay, self.gamma, self.gamma_decay = beta, beta_decay, gamma, gamma_decay
        self.rho, self.rescale = rho, rescale
        self.mixture = nn.Buffer(torch.full((len(self.objectives),), 1 / len(self.objectives)))

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self.combine_rows(losses, Rows.of(jacobian))[0]

    def combine_rows(self, losses: Tensor, rows: Rows) -> list[Tensor]:
        factors = rows.factors
        if self.rescale:
            self.require_positive(losses)
            lengths = rows.gramian.diagonal().clamp(min=0).sqrt().tolist()
            targets = zip(factors, losses.tolist(), lengths, strict=True)
            factors = [factor * loss / length if length > 0 else 0.0 for factor, loss, length in targets]
        beta = self.beta / (self.step + 1) ** self.beta_decay
        y = self.memory["y"] = rows.memory(self.memory.get("y"))
        for at, vectors in rows.pieces(drop=True):
            for average, vector, factor in zip(y[:, at], vectors, factors, strict=True):
                average.mul_(1 - beta).add_(vector, alpha=beta * factor)
        products = gramian_of(y)
        w = self.mixture.to(products)
        gamma = self.gamma / (self.step + 1) ** self.gamma_decay
        w = project_to_simplex(w - gamma * (products @ w + self.rho * w))
        self.mixture.copy_(w)
        return rows.combination(w * self.preference, y)
