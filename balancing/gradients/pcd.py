from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..objectives import primary_among, primary_index
from ..options import BalancerOptions
from ..solvers import UnboundedError, constrained_weights, cosine_matrix, min_norm_weights


@register_balancer("pcd")
class PCD(GramianBalancer):
    """PCD: the direction nearest to the primary gradient on which the others progress, too.

    Each secondary objective gets a share tau of its own progress.
    ``min_d ||d - h_0||`` with ``h_j.d >= tau p_j ||h_j||^2`` for every secondary j, then d gets the length of g_0. Gradients
    are compared as ``h_i = g_i / sqrt(v_i)``, v_i the running mean of ||g_i||^2 with its bias removed.
    Varam and AlHajri, "Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical Multi-Objective
    Optimization", TMLR 2026.

    needs: gramian     scale: own     heads: unit     preference: p, which scales tau
    The promise may cost the primary objective its progress. But if the constraints exclude each other, or no direction
    improves all objectives (a secondary gradient exactly opposed to g_0, say, where public code returns -g_0), d is g_0.
    v_i is not kept from zero by a constant, so small gradients count in full; a zero primary gradient gives d = 0. In a step
    from which the primary objective is absent, the first of the others stands in for it.

    Args:
        primary: The objective that comes first; ``None``: the first named.
        tau: Share of the progress along its own gradient that a secondary objective is to make, in [0, 1].
        beta: Decay of v per step, in [0, 1).
    """

    per_group = False
    convention = "own"
    preference_on = "method"
    primary: int

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        primary: str | None = None,
        tau: float = 0.02,
        beta: float = 0.999,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 <= tau <= 1, f"tau must be in [0, 1], got {tau}")
        self.reject(not 0 <= beta < 1, f"beta must be in [0, 1), got {beta}")
        self.primary = primary_index(self.name, primary, self.objectives)
        self.draw_always(self.primary)
        self.tau, self.beta = tau, beta
        # not buffers, which would follow the model to devices without float64
        self.memory = {
            "squares": torch.zeros(len(self.objectives), dtype=torch.float64),
            "mass": torch.zeros(len(self.objectives)),
        }

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self.primary = primary_among(self.primary, indices)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        # that of an earlier version is one for all
        self.memory["mass"] = self.memory["mass"].expand(len(self.objectives)).clone()

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        first = self.primary
        lengths, cosines = cosine_matrix(gramian)
        squares, mass = (self.memory[key].to(lengths) * self.beta for key in ("squares", "mass"))
        squares, mass = squares + (1 - self.beta) * lengths.square(), mass + (1 - self.beta)
        self.memory = {"squares": squares, "mass": mass}
        typical = (squares / mass).sqrt()
        alone = torch.zeros_like(lengths).index_fill(0, torch.tensor(first), 1.0)
        if lengths[first] == 0:
            return alone

        size = torch.where(typical > 0, lengths / typical, 0.0)  # ||h_i||
        missing = self.tau * self.preference.to(size) * size - size[first] * cosines[first]
        missing[first] = 0.0  # the primary objective is under no constraint: it stands alone and adds nothing
        others = cosines.clone()
        others[first], others[:, first] = alone, alone
        try:
            unit = size * alone + constrained_weights(others, missing)
        except UnboundedError:
            return alone
        progress = cosines @ unit
        length = (unit @ progress).clamp(min=0).sqrt()
        if progress[first] <= 0 or length < 1e-5:
            nearest = min_norm_weights(cosines)
            if nearest @ cosines @ nearest < 1e-12:
                return alone
        return torch.where(lengths > 0, unit / lengths, 0.0) * (lengths[first] / length)
