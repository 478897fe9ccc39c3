from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import Scalarization
from ..options import BalancerOptions


@register_balancer("imtl_l")
class ImpartialLoss(Scalarization):
    """IMTL-L: learned weights that bring every loss to the same size.

    ``sum_i e^{s_i} L_i - s_i`` with a weight ``e^{s_i}`` per objective. At the optimum ``e^{s_i} = 1 / L_i``.
    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, its part for the losses.

    needs: losses     scale: own (all terms tend to 1)     heads: weighted
    s is a parameter: give ``balancer.parameters()`` to an optimizer, with a learning rate of its own (about 0.02 with
    Adam) and no weight decay, which would pull every weight towards 1.

    The paper starts at w = 1. If losses differ by orders of magnitude, the first steps then fill the second moments of
    the model's optimizer with gradients so large that training stalls for thousands of steps after the weights have
    settled. So by default the weights start at the optimum for the first losses.

    Args:
        init: ``losses``: start at the optimum for the first losses. A number: start every s there (published: 0).
    """

    convention = "own"
    positive = True

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        init: float | Literal["losses"] = "losses",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(init != "losses" and abs(float(init)) > 80, f"init must be from -80 to 80, got {init}")
        self.log_weights = nn.Parameter(torch.full((len(self.objectives),), 0.0 if init == "losses" else float(init)))
        self.started = nn.Buffer(torch.full((len(self.objectives),), int(init != "losses")))

    def loss(self, losses: Tensor) -> Tensor:
        if not bool(self.started.all()):
            self.require_positive(torch.where(self.started > 0, 1.0, losses))
            with torch.no_grad():
                self.log_weights.copy_(torch.where(self.started > 0, self.log_weights, -losses.log()))
                self.started.fill_(1)
        s = self.log_weights.to(losses)
        return (s.exp() * losses - s).sum()
