from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions


@register_balancer("gradvac")
class GradVac(GramianBalancer):
    """GradVac: each gradient pulled to the cosines with others that are usual for the pair.

    For each i take p = g_i and, for every j != i in random order, if ``c = cos(p, g_j) < phi_ij``, add that multiple of g_j
    which makes it phi_ij.
    The multiple is ``||p|| (phi sqrt(1 - c^2) - c sqrt(1 - phi^2)) / (||g_j|| sqrt(1 - phi^2))``; then, changed or not,
    ``phi_ij <- (1 - beta) phi_ij + beta c``. ``d = sum_i p_i``. As phi starts at 0, the first step is PCGrad.
    Wang et al., "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual Models",
    ICLR 2021, arXiv:2010.05874.

    needs: gramian     scale: sum-like     heads: unit     preference: scales the gradients before they are changed
    (i, j) and (j, i) are two pairs with targets of their own, each updated once a step with the cosine of p as it then is.
    Some public code updates phi only where it changed p, which lets phi fall but never rise. Zero gradients have no cosine:
    their pairs are left alone.

    Args:
        beta: Step of the targets, in (0, 1]; public code often has 0.5.
    """

    per_group = False
    preference_on = "rows"
    per_objective = {"phi": (0, 1)}

    def __init__(self, objectives: Sequence[str], *, beta: float = 0.01, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 < beta <= 1, f"beta must be in (0, 1], got {beta}")
        self.beta = beta
        self.phi = nn.Buffer(torch.zeros(len(self.objectives), len(self.objectives)))

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        size = len(gramian)
        # row i: the others in i's random order, then i itself, which is left out
        draws = torch.rand(size, size, generator=self.generator, dtype=torch.float64).fill_diagonal_(2.0)
        order = draws.argsort(dim=1)
        norms = gramian.diagonal().clamp(min=0).sqrt()
        present = norms > 0
        norms = torch.where(present, norms, 1.0)
        cosines = gramian / norms[:, None] / norms  # p_i starts at the unit vector of g_i
        pairs = present[:, None] & present
        phi = self.phi.to(gramian)
        target = phi.clamp(-1 + 1e-6, 1 - 1e-6)  # a cosine of 1 would take an infinite multiple
        cotangent = torch.where(pairs, target / (1 - target.square()).sqrt(), 0.0).gather(1, order)
        coefficients = torch.eye(size, dtype=gramian.dtype)
        products = cosines.clone()  # row i: products of p_i with every unit vector
        cosines_now = phi.clone()
        for step in range(size - 1):
            j = order[:, step, None]
            product = products.gather(1, j)
            squared = (coefficients * products).sum(1, keepdim=True)
            across = torch.addcmul(squared, product, product, value=-1).clamp_(min=0).sqrt_()
            # cotangents fall with the angle, so the multiple is positive exactly where the cosine is below phi
            multiple = (across * cotangent[:, step, None]).sub_(product).clamp_(min=0)
            coefficients.scatter_add_(1, j, multiple)
            products = torch.addcmul(products, multiple, cosines[order[:, step]])
            # the floor keeps rounding errors in a p that has vanished from looking like a direction
            cosines_now.scatter_(1, j, product / squared.clamp_(min=1e-12).sqrt_())
        self.phi.copy_(torch.where(pairs, torch.lerp(phi, cosines_now.clamp(-1, 1), self.beta), phi))
        return norms @ coefficients / norms
