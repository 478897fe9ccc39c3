from __future__ import annotations

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer

_FEW = 12  # objectives up to which plain floats take less time than tensors


@register_balancer("pcgrad")
class PCGrad(GramianBalancer):
    """PCGrad: each gradient projected onto the normal planes of those it conflicts with.

    For each i take p = g_i and, for every j != i in random order, if ``p.g_j < 0``: ``p -= (p.g_j / ||g_j||^2) g_j``.
    ``d = sum_i p_i``.
    Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv:2001.06782. Each i draws its own order,
    and projections use the original g_j, as published. Every p stays a combination of the g, so the Gramian suffices.

    needs: gramian     scale: sum-like     heads: unit     preference: scales the gradients before projection
    """

    preference_on = "rows"

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        size = len(gramian)
        # row i: the others in i's random order, then i itself, which is left out
        draws = torch.rand(size, size, generator=self.generator, dtype=torch.float64).fill_diagonal_(2.0)
        if size <= _FEW and gramian.device.type == "cpu" and gramian.dtype == torch.float64:
            rows = _project(gramian.tolist(), draws.tolist())
            return torch.tensor(rows, dtype=torch.float64).sum(0)
        order = draws.argsort(dim=1).to(gramian.device)
        squared = gramian.diagonal()
        coefficients = torch.eye(size, dtype=gramian.dtype, device=gramian.device)
        products = gramian.clone()  # row i: products of p_i with every g
        for j in order[:, :-1].T:
            product = products.gather(1, j[:, None])
            step = torch.where(product < 0, product / squared[j, None], 0.0)
            coefficients.scatter_add_(1, j[:, None], -step)
            products = products - step * gramian[j]
        return coefficients.sum(0)


def _project(gramian: list[list[float]], draws: list[list[float]]) -> list[list[float]]:
    """Row i: the coefficients of p_i, with the bits that tensors give."""
    size = len(gramian)
    coefficients = []
    for i, draw in enumerate(draws):
        own, products = [float(k == i) for k in range(size)], gramian[i]
        for j in sorted(range(size), key=draw.__getitem__)[:-1]:
            if products[j] < 0:
                step = products[j] / gramian[j][j]
                own[j] -= step
                products = [p - step * g for p, g in zip(products, gramian[j], strict=True)]
        coefficients.append(own)
    return coefficients
