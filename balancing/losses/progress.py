"""Weights from how each loss moved between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.factory import register_balancer
from balancing.options import BalancerOptions

__all__ = ["CoefficientOfVariation", "ReLoBRaLo", "SoftAdapt"]


@register_balancer("cov_weighting")
class CoefficientOfVariation(Balancer):
    """More weight to losses whose progress varies: ``w_i ~ std(l_i) / mean(l_i)``, sum 1.

    l_i is the ratio of L_i to the mean of its earlier values, 1 at the first step.
    Groenendijk, Karaoglu, Gevers and Mensink, "Multi-Loss Weighting with Coefficient of Variations", WACV 2021.

    needs: losses     scale: mean-like     heads: weighted
    Means and deviations are over all steps so far. As long as no ratio varies, as at the first step, all weights are
    1/K. The weights do not depend on the scale of any loss, and so leave the losses' differences in scale as they are.

    Args:
        objectives: Names of the losses.
        options: See :class:`balancing.Balancer`.
    """

    convention = "mean"
    positive = True
    mean: Tensor
    ratio: Tensor
    spread: Tensor
    count: Tensor

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        for name in ("mean", "ratio", "spread"):  # of the losses; of the ratios; squared deviations of the ratios
            self.register_buffer(name, torch.zeros(len(self.objectives)))
        self.register_buffer("count", torch.tensor(0))

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) normalised coefficients of variation."""
        self.require_positive(losses)
        ratio = losses / self.mean.to(losses) if int(self.count) else torch.ones_like(losses)
        self.count += 1
        self.mean += (losses - self.mean) / self.count
        delta = ratio - self.ratio
        self.ratio += delta / self.count
        self.spread += delta * (ratio - self.ratio)
        variation = ((self.spread / self.count).sqrt() / self.ratio).to(losses)
        total = variation.sum()
        return torch.where(total > 0, variation / total, 1 / len(losses))


@register_balancer("softadapt")
class SoftAdapt(Balancer):
    """More weight to losses that fall slowly or rise: ``w = softmax(beta (L(t) - L(t-1)))``.

    Heydari, Thompson and Mehmood, "SoftAdapt: Techniques for Adaptive Loss Weighting of Neural Networks with Multi-Part
    Loss Functions", 2019.

    needs: losses     scale: mean-like     heads: weighted
    Equal weights at the first step. Differences of single batches are mostly noise; ``ema=`` smooths the weights.

    Args:
        objectives: Names of the losses.
        beta: How strongly progress counts, per unit of loss; negative favours the fastest.
        options: See :class:`balancing.Balancer`.
    """

    convention = "mean"
    previous: Tensor
    started: Tensor

    def __init__(self, objectives: Sequence[str], *, beta: float = 0.1, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.beta = beta
        self.register_buffer("previous", torch.zeros(len(self.objectives)))
        self.register_buffer("started", torch.tensor(False))

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) softmax of the changes."""
        change = torch.where(self.started, losses - self.previous.to(losses), 0.0)
        self.previous.copy_(losses)
        self.started.fill_(True)
        return torch.softmax(self.beta * change, 0)


@register_balancer("relobralo")
class ReLoBRaLo(Balancer):
    """Smoothed progress since the last step and, now and then, since the first.

    ``w <- alpha (rho w + (1 - rho) v(0)) + (1 - alpha) v(t-1)``, ``v(s) = K softmax(L(t) / (T L(s)))``, rho = 1 with
    probability ``keep`` and otherwise 0: a look back to the start. w = 1 at the first step.
    Bischof and Kraus, "Multi-Objective Loss Balancing for Physics-Informed Deep Learning", 2021.

    needs: losses     scale: sum-like     heads: weighted
    The weights do not depend on the scale of any loss.

    Args:
        objectives: Names of the losses.
        temperature: T; the larger, the more equal the weights.
        alpha: How slowly the weights change.
        keep: Expected rho.
        options: See :class:`balancing.Balancer`.
    """

    positive = True
    initial: Tensor
    previous: Tensor
    current: Tensor

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        temperature: float = 0.1,
        alpha: float = 0.999,
        keep: float = 0.999,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        if not temperature > 0:
            raise ValueError(f"relobralo: temperature must be positive, got {temperature}")
        for key, value in (("alpha", alpha), ("keep", keep)):
            if not 0 <= value <= 1:
                raise ValueError(f"relobralo: {key} must be in [0, 1], got {value}")
        self.temperature, self.alpha, self.keep = temperature, alpha, keep
        self.register_buffer("initial", torch.zeros(len(self.objectives)))
        self.register_buffer("previous", torch.zeros(len(self.objectives)))
        self.register_buffer("current", torch.ones(len(self.objectives)))

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) the smoothed weights."""
        self.require_positive(losses)
        if not bool(self.initial.any()):
            self.initial.copy_(losses)
        else:
            kept = bool(torch.rand((), generator=self.generator) < self.keep)
            past = self.current.to(losses) if kept else self._since(self.initial, losses)
            self.current.copy_(self.alpha * past + (1 - self.alpha) * self._since(self.previous, losses))
        self.previous.copy_(losses)
        return self.current.to(losses)

    def _since(self, reference: Tensor, losses: Tensor) -> Tensor:
        return len(losses) * torch.softmax(losses / (self.temperature * reference.to(losses)), 0)
