from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("cov_weighting")
class CoefficientOfVariation(LossBalancer):
    """More weight to losses whose progress varies: ``w_i ~ std(l_i) / mean(l_i)``, sum 1.

    l_i is the ratio of L_i to the mean of its earlier values, 1 at the first step.
    Groenendijk, Karaoglu, Gevers and Mensink, "Multi-Loss Weighting with Coefficient of Variations", WACV 2021,
    arXiv:2009.01717.

    needs: losses     scale: mean-like     heads: weighted
    Means and deviations are over all steps so far. As long as no ratio varies, as at the first step, all weights are
    1/K. The weights do not depend on the scale of any loss, and so leave the losses' differences in scale as they are.
    """

    convention = "mean"
    positive = True

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.mean: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))  # of the losses
        self.ratio: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))  # the mean of the ratios
        self.spread: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))  # squared deviations of the ratios
        self.count: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        ratio = torch.where(self.count > 0, losses / self.mean.to(losses), 1.0)
        self.count += 1
        self.mean += (losses - self.mean) / self.count
        delta = ratio - self.ratio
        self.ratio += delta / self.count
        self.spread += delta * (ratio - self.ratio)
        variation = ((self.spread / self.count).sqrt() / self.ratio).to(losses)
        total = variation.sum()
        return torch.where(total > 0, variation / total, 1 / len(losses))
