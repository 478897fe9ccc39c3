from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..jacobian_balancer import JacobianBalancer
from ..measuring.gradients import gramian_of
from ..options import BalancerOptions
from ..solvers import conflict_free_weights
from ..state import decode


@register_balancer("conflict_free_momentum")
class ConflictFreeMomentum(JacobianBalancer):
    """M-ConFIG: ConFIG's direction of the objectives' momenta, one objective per step.

    The objectives are differentiated in turn, and the direction is scaled as Adam does.
    ``m_i`` averages the gradients of objective i and d is ConFIG of ``m_i / (1 - beta1^{t_i})``, t_i counting them. The
    gradient that would have led a single momentum to d, ``g = ((1 - beta1^t) d - beta1 (1 - beta1^{t-1}) d_previous) / (1 - beta1)``,
    feeds the second moment ``s <- beta2 s + (1 - beta2) g^2``; the update is ``d / (sqrt(s / (1 - beta2^t)) + eps)``.
    Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025,
    arXiv:2408.11104.

    needs: jacobian     scale: own (that of Adam's steps)     heads: unit     preference: cosines in proportion to it
    A step costs one backward whatever K is. Train with plain SGD, as the update is Adam's already. Like the authors' code,
    it leaves the shared parameters alone until every objective has had a turn. A head receives its gradient, unscaled, in
    its objective's turns. An objective that is present for the first time has its turn at once. Keeps K + 2 gradients from
    step to step.

    Args:
        beta1: Decay of the momenta, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        eps: Keeps the update finite where the second moment is zero.
    """

    convention = "own"
    adaptive = True
    preference_on = "method"
    remembers = True
    per_objective = {"momenta": (0,), "previous": (), "second": ()}
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
        self.turns: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))
        self.updates: Tensor = nn.Buffer(torch.tensor(0))

    def active(self) -> tuple[int, ...] | None:
        turns = self.turns.tolist()
        return (turns.index(0) if 0 in turns else self.step % len(turns),)

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        turns = self.turns.tolist()
        current = turns.index(0) if 0 in turns else self.step % len(turns)
        jacobian = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))  # 0.999 times a bfloat16 is itself
        keys = ("momenta", "previous", "second")
        if not self.memory:
            self.memory = {key: torch.zeros_like(jacobian if key == "momenta" else jacobian[0]) for key in keys}
        momenta, previous, second = (self.memory[key].to(jacobian) for key in keys)
        momenta[current].lerp_(jacobian[current], 1 - self.beta1)
        self.memory = {"momenta": momenta, "previous": previous, "second": second}
        self.turns[current] += 1
        if not bool(self.turns.all()):
            return torch.zeros_like(previous)

        correction = 1 / (1 - self.beta1 ** self.turns.cpu().double())
        products = gramian_of(momenta) * correction[:, None] * correction
        w = conflict_free_weights(products, self.preference) * correction
        direction = w.to(momenta) @ momenta

        self.updates += 1
        count = int(self.updates)
        mean = direction * (1 - self.beta1**count)
        gradient = previous.mul_(-self.beta1).add_(mean).div_(1 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        self.memory["previous"] = mean
        return direction.div_(second.div(1 - self.beta2**count).sqrt_().add_(self.eps))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        if f"{prefix}turns" not in state_dict and f"{prefix}_extra_state" in state_dict:  # of an earlier version
            step, size = decode(state_dict[f"{prefix}_extra_state"])["step"], len(self.objectives)
            state_dict[f"{prefix}turns"] = torch.tensor([(step - 1 - k) // size + 1 for k in range(size)])
            state_dict[f"{prefix}updates"] = torch.tensor(max(step - size + 1, 0))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
