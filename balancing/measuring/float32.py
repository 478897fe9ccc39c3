"""Whether single precision is enough for the products of gradients."""

from __future__ import annotations

import math
from operator import mul

import torch
from torch import Tensor

_SLACK = 1e-4  # below which an eigenvalue of the cosines counts as zero; they are off by about 1e-6
_FEW = 12  # rows
_TINY, _HUGE = 1e-30, 1e30  # half of the range of float32: the mixed products must fit as well


def float32_tells(gramian: Tensor) -> bool:
    """Whether products are in float32's range and no row nearly combines the others."""
    if len(gramian) <= _FEW:
        return few_tell(gramian.tolist())
    squares = gramian.diagonal()
    if not all(_TINY < square < _HUGE for square in squares.tolist()):
        return False
    cosines = gramian / squares.outer(squares).sqrt()
    cosines.diagonal().sub_(_SLACK)
    return not bool(torch.linalg.cholesky_ex(cosines).info)


def few_tell(rows: list[list[float]]) -> bool:
    """:func:`float32_tells` in plain floats, which take less time than tensors for a few rows."""
    return all(_TINY < row[k] < _HUGE for k, row in enumerate(rows)) and _is_definite(rows)


def _is_definite(rows: list[list[float]]) -> bool:
    """Whether the cosines without the slack on their diagonal are positive definite."""
    lengths = [math.sqrt(row[k]) for k, row in enumerate(rows)]
    factor: list[list[float]] = []  # of Cholesky, for the cosines
    for i, row in enumerate(rows):
        found: list[float] = []
        for j in range(i):
            rest = row[j] / (lengths[i] * lengths[j]) - sum(map(mul, found, factor[j]))
            found.append(rest / factor[j][j])
        pivot = 1 - _SLACK - sum(map(mul, found, found))
        if not pivot > 0:
            return False
        factor.append([*found, math.sqrt(pivot)])
    return True
