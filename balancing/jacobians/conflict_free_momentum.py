from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..jacobian_balancer import JacobianBalancer
from ..measuring.gradients import gramian_of
from ..options import BalancerOptions
from ..solvers import conflict_free_weights


@register_balancer("conflict_free_momentum")
class ConflictFreeMomentum(JacobianBalancer):
    """M-ConFIG: ConFIG's direction of the objectives' momenta, one objective per step.

    The objectives are differentiated in turn, and the direction is scaled as Adam does.
    ``m_i`` averages the gradients of objective i and d is ConFIG of ``m_i / (1 - beta1^{t_i})``, t_i counting them. The
    gradient that would have led a single momentum to d, ``g = ((1 - beta1^t) d - beta1 (1 - beta1^{t-1}) d_previous) / (1 - beta1)``,
    feeds the second moment ``s <- beta2 s + (1 - beta2) g^2``; the update is ``d / (sqrt(s / (1 - beta2^t)) + eps)``.
    Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025.

    needs: jacobian     scale: own (that of Adam's steps)     heads: unit     preference: cosines in proportion to it
    A step costs one backward whatever K is. Train with plain SGD, as the update is Adam's already. Like the authors' code,
    it leaves the shared parameters alone until every objective has had a turn. A head receives its gradient, unscaled, in
    its objective's turns. Keeps K + 2 gradients from step to step.

    Args:
        beta1: Decay of the momenta, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        eps: Keeps the update finite where the second moment is zero.
    """

    convention = "own"
    preference_on = "method"
    remembers = True
    positional = True

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            self.reject(not 0 <= value < 1, f"{name} must be in [0, 1), got {value}")
        self.reject(not eps > 0, f"eps must be positive, got {eps}")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def active(self) -> tuple[int, ...] | None:
        return (self.step % len(self.objectives),)

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        size, current = len(jacobian), self.step % len(jacobian)
        jacobian = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))  # 0.999 times a bfloat16 is itself
        keys = ("momenta", "previous", "second")
        if not self.memory:
            self.memory = {key: torch.zeros_like(jacobian if key == "momenta" else jacobian[0]) for key in keys}
        momenta, previous, second = (self.memory[key].to(jacobian) for key in keys)
        momenta[current].lerp_(jacobian[current], 1 - self.beta1)
        self.memory = {"momenta": momenta, "previous": previous, "second": second}
        if self.step < size - 1:
            return torch.zeros_like(previous)

        # an objective has had as many turns as there are steps up to this one that are its own
        turns = torch.tensor([(self.step - k) // size + 1 for k in range(size)], dtype=torch.float64)
        correction = 1 / (1 - self.beta1**turns)
        products = gramian_of(momenta) * correction[:, None] * correction
        w = conflict_free_weights(products, self.preference) * correction
        direction = w.to(momenta) @ momenta

        count = self.step - size + 2
        mean = direction * (1 - self.beta1**count)
        gradient = previous.mul_(-self.beta1).add_(mean).div_(1 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        self.memory["previous"] = mean
        return direction.div_(second.div(1 - self.beta2**count).sqrt_().add_(self.eps))
