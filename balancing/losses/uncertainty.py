from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import Scalarization
from ..options import BalancerOptions


@register_balancer("uncertainty")
class Uncertainty(Scalarization):
    """Learn a noise level per objective and let it set the weight.

    ``form="gaussian"`` with s = log sigma^2:  ``sum_i c_i e^{-s_i} L_i + s_i / 2``, c = 1/2 for regression (a Gaussian
    likelihood), 1 for classification (a softmax with temperature). At the optimum ``e^{s_i} = 2 c_i L_i``. May turn negative.
    Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses", CVPR 2018, arXiv:1705.07115.

    ``form="log1p"``:  ``sum_i L_i / (2 p_i^2) + log(1 + p_i^2)``. The second term is never negative; p = 0 is singular.
    Liebel and Koerner, "Auxiliary Tasks in Multi-Task Learning", 2018, arXiv:1805.06334.

    needs: losses     scale: own     heads: weighted
    The levels are parameters: give ``balancer.parameters()`` to an optimizer, with a learning rate of their own (about
    0.02 with Adam) and no weight decay, which would pull every weight towards its starting value.

    The papers start all levels at the same value. If losses differ by orders of magnitude, the first steps then fill the
    second moments of the model's optimizer with gradients so large that training stalls for thousands of steps after the
    weights have settled. So by default the levels start at the optimum for the first losses.

    Args:
        form: ``gaussian`` or ``log1p``.
        classification: Objectives with the classification likelihood (``gaussian`` only; ``log1p`` has one form).
        init: ``losses``: start at the optimum for the first losses. A number: start every s (``gaussian``, published: 0)
            or every p (``log1p``, published: 1) there.
    """

    convention = "own"
    positive = True
    state_options = ("form",)

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        form: Literal["gaussian", "log1p"] = "gaussian",
        classification: Sequence[str] = (),
        init: float | Literal["losses"] = "losses",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(form == "log1p" and init == 0, "init=0 is singular in the log1p form")
        self.form = form
        likelihood = self.vector(dict.fromkeys(classification, 1.0), default=0.5).float()
        self.likelihood = nn.Buffer(likelihood, persistent=False)
        self.noise = nn.Parameter(torch.full((len(self.objectives),), 1.0 if init == "losses" else float(init)))
        self.started = nn.Buffer(torch.full((len(self.objectives),), int(init != "losses")))

    def compute_weights(self, losses: Tensor) -> Tensor:
        if self.form != "gaussian":
            return super().compute_weights(losses)
        # the derivatives of the loss below, as its graph of eight numbers takes longer than their arithmetic
        if not all(self.started.tolist()):
            self._start(losses)
        with torch.no_grad():
            likelihood, decay = self.likelihood.to(losses), torch.exp(-self.noise.to(losses))
            weights = likelihood * decay
            if self.noise.requires_grad:
                gradient = (0.5 - losses * likelihood * decay).to(self.noise)
                self.noise.grad = gradient if self.noise.grad is None else self.noise.grad.add_(gradient)
        return weights

    def loss(self, losses: Tensor) -> Tensor:
        if not all(self.started.tolist()):
            self._start(losses.detach())
        noise = self.noise.to(losses)
        if self.form == "gaussian":
            return (self.likelihood.to(losses) * torch.exp(-noise) * losses + 0.5 * noise).sum()
        return (0.5 * losses / noise.square() + torch.log1p(noise.square())).sum()

    @torch.no_grad()
    def _start(self, losses: Tensor) -> None:
        """Set levels to the optimum: ``e^s = 2 c L``, or ``p^4 / (1 + p^2) = L / 2``."""
        self.require_positive(torch.where(self.started > 0, 1.0, losses))
        if self.form == "gaussian":
            optimum = torch.log(2 * self.likelihood.to(losses) * losses)
        else:
            optimum = torch.sqrt(losses / 4 + torch.sqrt(losses.square() / 16 + losses / 2))
        self.noise.copy_(torch.where(self.started > 0, self.noise, optimum))
        self.started.fill_(1)
