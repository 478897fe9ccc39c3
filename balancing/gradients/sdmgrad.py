from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import min_norm_weights, project_to_simplex


@register_balancer("sdmgrad")
class SDMGrad(GramianBalancer):
    """SDMGrad: MGDA drawn towards the mean gradient.

    ``d = (sum_i w_i g_i + lam g_0) / (1 + lam)``, where ``w = argmin_{w in simplex} 1/2 w'Gw + lam w'Gu`` and
    ``g_0 = sum_i u_i g_i``, u = 1 / K.

    lam = 0 is MGDA, a large lam the mean gradient.
    Xiao, Ban and Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms", NeurIPS
    2023, arXiv:2305.18409.

    needs: gramian     scale: mean-like     heads: unit     preference: u
    With two or more micro-batches per step G is the product of independent samples, as published; with one batch it is the
    ordinary Gramian. ``exact`` solves for the G of this step. ``sgd`` is the published inner loop: 20 projected steps on
    G / (mean length)^2 from the last weights, which averages over steps. The published step size of 10 jumps between
    corners of the simplex; 1 converges.

    Args:
        lam: Weight of the mean gradient. The paper's experiments have 0.3, the authors' class 0.6.
        solver: ``exact`` or ``sgd``.
        lr: Step size of ``sgd``.
        momentum: Of ``sgd``, in [0, 1).
        iterations: Of ``sgd``.
    """

    per_group = False
    convention = "mean"
    preference_on = "method"
    unbiased = True
    proportions = {"mixture": "one"}

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        lam: float = 0.3,
        solver: Literal["exact", "sgd"] = "exact",
        lr: float = 1.0,
        momentum: float = 0.5,
        iterations: int = 20,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not lam >= 0, f"lam must not be negative, got {lam}")
        problem = "lr must be positive, momentum in [0, 1) and iterations at least 1"
        wrong = not lr > 0 or not 0 <= momentum < 1 or iterations < 1
        self.reject(wrong, f"{problem}, got {lr}, {momentum} and {iterations}")
        self.lam, self.solver, self.lr, self.momentum, self.iterations = lam, solver, lr, momentum, iterations
        self.mixture = nn.Buffer(torch.full((len(self.objectives),), 1 / len(self.objectives)))

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        base = self.preference / len(gramian)
        w = self._exact(gramian, base) if self.solver == "exact" else self._descend(gramian, base)
        self.mixture.copy_(w)
        return (w + self.lam * base) / (1 + self.lam)

    def _exact(self, gramian: Tensor, base: Tensor) -> Tensor:
        """The minimum as the min-norm point of the vectors ``g_i + lam g_0``."""
        values, vectors = torch.linalg.eigh(gramian)
        if float(values[0]) < -1e-10 * float(values[-1].abs()):
            gramian = vectors * values.clamp(min=0) @ vectors.T  # two samples need not give a Gramian
        shift = torch.eye(len(base), dtype=base.dtype) + self.lam * base
        return min_norm_weights(shift @ gramian @ shift.T)

    def _descend(self, gramian: Tensor, base: Tensor) -> Tensor:
        w, velocity = self.mixture.to(gramian), torch.zeros_like(base)
        scale = gramian.diagonal().clamp(min=0).sqrt().mean()
        if not float(scale) > 0:
            return w
        gramian = gramian / scale.square()
        for _ in range(self.iterations):
            velocity = self.momentum * velocity + gramian @ (w + self.lam * base)
            w = project_to_simplex(w - self.lr * velocity)
        return w
