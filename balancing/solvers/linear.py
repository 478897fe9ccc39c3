from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SolverError


def largest_gain(gain: Tensor, rows: Tensor, floor: Tensor, sizes: Tensor) -> Tensor | None:
    """(K,) ``argmax gain.x`` over x >= 0 with ``rows x >= floor`` and ``sizes.x = 1``.

    ``None`` if there is none.
    Dantzig's simplex method in two phases, with Bland's rule against cycles, which the many zeros of ``floor`` invite.
    Plain floats: at this size a tensor operation costs more than the arithmetic in it.

    Args:
        gain: (K,) of order 1.
        rows: (M, K) of order 1.
        floor: (M,) not positive, so that x = 0 keeps these constraints.
        sizes: (K,) positive, at most 1.
    """
    count, size = rows.shape
    first = size + count  # the slack of the sum, which leaves for good in the first phase
    # columns: x, the slacks, the right-hand side
    table = [
        [*(-v for v in row), *(float(i == j) for j in range(count + 1)), -bound]
        for i, (row, bound) in enumerate(zip(rows.tolist(), floor.tolist(), strict=True))
    ]
    table.append([*sizes.tolist(), *[0.0] * count, 1.0, 1.0])
    basis = [*range(size, first + 1)]
    _climb(table, basis, [*sizes.tolist(), *[0.0] * (count + 2)], first)
    if basis[-1] == first:
        return None
    costs = [*gain.tolist(), *[0.0] * (count + 2)]
    for row, variable in zip(table, basis, strict=True):
        share = costs[variable]
        costs = [c - share * v for c, v in zip(costs, row, strict=True)]
    _climb(table, basis, costs, first)
    x = [0.0] * first
    for row, variable in zip(table, basis, strict=True):
        x[variable] = max(row[-1], 0.0)
    return torch.tensor(x[:size], dtype=gain.dtype)


def _climb(table: list[list[float]], basis: list[int], costs: list[float], allowed: int) -> None:
    """Exchange variables among the first ``allowed`` until none has a positive cost.

    Table, basis and costs change in place. Raises SolverError without a maximum.
    """
    for _ in range(1000 + 50 * allowed):
        joining = next((k for k in range(allowed) if costs[k] > 1e-12), -1)
        if joining < 0:
            return
        steps = [(row[-1] / row[joining], basis[i], i) for i, row in enumerate(table) if row[joining] > 1e-12]
        if not steps:
            raise SolverError("the linear program has no maximum")
        least = min(step for step, _, _ in steps)
        *_, leaving = min((variable != allowed, variable, i) for step, variable, i in steps if step <= least)
        pivot = table[leaving][joining]
        head = table[leaving] = [v / pivot for v in table[leaving]]
        for i, row in enumerate(table):
            if i != leaving and (share := row[joining]):
                table[i] = [v - share * h for v, h in zip(row, head, strict=True)]
        share = costs[joining]
        costs[:] = [c - share * h for c, h in zip(costs, head, strict=True)]
        basis[leaving] = joining
    raise SolverError("the linear program did not settle")
