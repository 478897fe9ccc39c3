from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..options import BalancerOptions
from ..solvers import min_norm_weights
from .bilevel_balancer import BilevelBalancer
from .lookahead import Lookahead


@register_balancer("moml")
class MOML(BilevelBalancer):
    """MOML: weights whose step lowers every objective's validation loss.

    The update descends ``sum_i w_i L_i``, ``w = softmax(alpha)``, and alpha all ``F_k = L_k^val(theta - lr sum_i w_i g_i)`` at once.
    ``dF_k/dw_i = -lr v_k . g_i``, v_k the gradient of validation loss k after the virtual step, is exact for one step and
    needs no second derivative. The K gradients of alpha are divided by their lengths and combined by their min-norm point.
    Ye, Lin, Yue, Guo, Xiao and Zhang, "Multi-Objective Meta Learning", NeurIPS 2021, arXiv:2102.07121.

    needs: validation     scale: mean-like     heads: weighted     preference: scales both losses
    2K backwards a step. The min-norm weights belong to the normalized gradients, whose combination alpha then follows;
    the authors' first code finds them for these, but applies them to the raw ones.
    """

    convention = "mean"

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.alpha = nn.Parameter(torch.zeros(len(self.objectives)))

    def look_ahead(self, ahead: Lookahead) -> tuple[Tensor, list[Tensor], Tensor]:
        share = torch.softmax(self.alpha.detach().to(ahead.losses), 0)
        weights = share * len(share) if self.options.scale == "sum" else share
        inner = ahead.rows(ahead.losses, ahead.parameters, "gradient")
        gradients = inner.combine(weights)
        trial = ahead.moved(gradients, -ahead.lr)
        losses = ahead.validation_losses(trial)
        if not ahead.validated:
            return weights, gradients, torch.zeros_like(weights)
        outer = ahead.rows(losses[ahead.validated], trial, "validation gradient")
        slopes = -ahead.lr * outer.products(inner.matrix)
        # chain rule through the softmax; a common factor is of no effect
        share = share.cpu().double()
        slopes = share * (slopes - (slopes @ share)[:, None])
        lengths = slopes.norm(dim=1, keepdim=True)
        slopes = torch.where(lengths > 0, slopes / lengths, slopes)
        return weights, gradients, min_norm_weights(slopes @ slopes.T) @ slopes
