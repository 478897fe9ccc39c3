from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..errors import SolverError
from ..factory import register_balancer
from ..options import BalancerOptions
from ..solvers import min_norm_weights, nonnegative_qp
from .bilevel_balancer import BilevelBalancer
from .lookahead import Lookahead


@register_balancer("forum")
class FORUM(BilevelBalancer):
    """FORUM: validation losses descend while the weighted training loss stays minimal.

    All ``F_k = L_k^val`` descend subject to ``q(z) = f(alpha, theta) - f(alpha, theta_T) <= 0``, ``z = (alpha, theta)``.
    ``f = sum_i softmax(alpha)_i L_i``, and theta_T is theta after T gradient steps on f, so q measures how far the weighted
    training loss is from its minimum. The direction solves ``min_d max_k u_k.d + ||d||^2 / 2`` subject to
    ``q'.d <= -rho ||q'||^2``, u_k the gradient of F_k at theta divided by its length, q' that of q:
    ``-d = sum_k l_k u_k + nu q'``, ``nu = max(0, rho - sum_k l_k u_k.q' / ||q'||^2)``, l in the simplex.
    l is averaged over steps: ``l <- l + (t + 1)^(-3/4) (l_now - l)`` with t the epochs ended.
    Ye, Lin, Cao, Zhang and Tsang, "A First-Order Multi-Gradient Algorithm for Multi-Objective Bi-Level Optimization",
    ECAI 2024, arXiv:2401.09257.

    needs: validation     scale: own (validation gradients have unit length)     heads: weighted     preference: scales both losses
    First order only: K backwards and T steps on the training batch. The model's gradient is ``-d``, not that of the
    weighted training losses; the report's weights are ``softmax(alpha)``. In the authors' code the QP for l has half the
    linear term that belongs to its nu; here both come from the problem above.

    Args:
        rho: How fast the constraint must be approached.
        inner_steps: T; the descent stops early at a step that would raise f.
        inner_lr: Step size of the descent; ``None``: the ``lr`` given to ``meta_backward``. Published: 0.1.
    """

    convention = "own"
    proportions = {"multipliers": "one"}

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        rho: float = 0.1,
        inner_steps: int = 5,
        inner_lr: float | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not rho > 0, f"rho must be positive, got {rho}")
        self.reject(inner_steps < 1, f"inner_steps must be at least 1, got {inner_steps}")
        self.reject(inner_lr is not None and not inner_lr > 0, f"inner_lr must be positive, got {inner_lr}")
        self.rho, self.inner_steps, self.inner_lr = rho, inner_steps, inner_lr
        self.alpha = nn.Parameter(torch.zeros(len(self.objectives)))
        self.multipliers: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))

    def look_ahead(self, ahead: Lookahead) -> tuple[Tensor, list[Tensor], Tensor]:
        """The softmax weights, and ``-d`` cut into the parts of theta and of alpha."""
        weights = torch.softmax(self.alpha.detach().to(ahead.losses), 0)
        lower = ahead.gradient(torch.dot(weights, ahead.losses), ahead.parameters)
        gap = ahead.mean(ahead.losses) - self._descend(ahead, weights, lower)
        slope = (weights * (gap - torch.dot(weights, gap))).cpu().double()  # of q in alpha
        here = ahead.unmoved()
        losses, chosen = ahead.validation_losses(here), ahead.validated
        if not chosen:
            return weights, [self.rho * gradient for gradient in lower], torch.zeros_like(weights)
        rows = ahead.rows(losses[chosen], here, "validation gradient")
        flat = torch.cat([gradient.reshape(-1) for gradient in lower]).to(rows.matrix)
        gramian, along = rows.products(rows.matrix), rows.products(flat[None]).squeeze(1)
        squared = float(flat.norm()) ** 2 + float(slope @ slope)
        lengths = gramian.diagonal().clamp(min=0).sqrt()
        scales = torch.where(lengths > 0, 1 / lengths, 0.0)
        gramian, along = gramian * scales[:, None] * scales, along * scales
        multipliers_now = constrained_min_norm_weights(gramian, along, squared, self.rho)
        change = multipliers_now.to(self.multipliers) - self.multipliers[chosen]
        self.multipliers[chosen] += (self.epoch + 1) ** -0.75 * change
        multipliers = self.multipliers[chosen].cpu().double()
        nu = max(0.0, self.rho - float(multipliers @ along) / squared) if squared > 0 else 0.0
        upper = rows.combine(multipliers * scales)
        return weights, [u.add_(g, alpha=nu) for u, g in zip(upper, lower, strict=True)], nu * slope

    def _descend(self, ahead: Lookahead, weights: Tensor, gradient: list[Tensor]) -> Tensor:
        """(K,) training losses after ``inner_steps`` of descent, the first along ``gradient``."""
        lr = ahead.lr if self.inner_lr is None else self.inner_lr
        point, losses = ahead.parameters, ahead.mean(ahead.losses)
        for step in range(self.inner_steps):
            trial = [(p.detach() - lr * g).requires_grad_() for p, g in zip(point, gradient, strict=True)]
            trial_losses = ahead.train_losses(trial)
            reached = ahead.mean(trial_losses)
            if not bool(torch.dot(weights, reached) < torch.dot(weights, losses)):
                break
            point, losses = trial, reached
            if step < self.inner_steps - 1:
                gradient = ahead.gradient(torch.dot(weights, trial_losses), trial)
        return losses


def constrained_min_norm_weights(gramian: Tensor, along: Tensor, squared: float, rho: float) -> Tensor:
    """Weights l of the min-norm point under FORUM's constraint.

    ``argmin_{l in simplex, nu >= 0} ||sum_k l_k u_k + nu q||^2 / 2 - nu rho ||q||^2``.
    If the min-norm point keeps the constraint by itself, nu is 0. Otherwise nu is the minimizer for its l, which leaves
    ``l'Sl / 2 + rho u.q l``, S the Gramian of what is orthogonal to q: non-negative QPs whose multiplier of
    ``sum l = 1`` is corrected until it holds.

    Args:
        gramian: (K, K) products of the u_k, which have unit length or are zero.
        along: (K,) products ``u_k.q``.
        squared: ``||q||^2``.
        rho: Largest required progress of q, relative to its gradient step.

    Raises:
        SolverError: The multiplier did not settle.
    """
    w = min_norm_weights(gramian)
    if float(w @ along) >= rho * squared:
        return w
    rest = gramian - along[:, None] * along / squared
    # at unit lengths, what falls 4 short of the best linear term has weight zero anyway
    linear = (rho * (along.min() - along)).clamp(min=-4.0)
    stiffness, target = 100.0, 1.0
    a = rest + stiffness
    for _ in range(100):
        w = nonnegative_qp(a, linear + stiffness * target)
        missing = 1.0 - float(w.sum())
        if abs(missing) < 1e-12:
            return w / w.sum()
        target += missing
    raise SolverError("the weights of the constrained min-norm point did not settle")
