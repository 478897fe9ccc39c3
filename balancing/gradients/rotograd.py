from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..factory import register_balancer
from ..gradient_balancer import Measured
from ..gramian_balancer import GramianBalancer
from ..hints import warn_if_unturned
from ..measuring.call import Call, named_tensors
from ..measuring.gradients import Direction
from ..measuring.processes import several_processes
from ..micro_batches import Step
from ..options import BalancerOptions
from ..report import BalanceReport
from ..rotations import holds_rotations
from ..step_method import LossWeights


@register_balancer("rotograd")
class RotoGrad(GramianBalancer):
    """RotoGrad: equal lengths, and a rotation before each head that turns gradients together.

    Heads read ``R_k z`` (:class:`balancing.Rotations`), and G_k is the (batch, d) gradient of L_k at the features z. The trunk gets
    ``C sum_k G_k / n_k``, n_k = ||G_k||, ``C = sum_k a_k n_k``, where a_k is proportional to ``n_k / n_k(0)`` and has sum 1. The
    rotations descend ``-sum_n <R_k^T h_nk, v_n>``: h_nk is the gradient of sample n at its input of head k, a constant,
    ``v_n = mean_k g_nk / n_k``.
    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022, arXiv:2103.02631.

    needs: gramian     scale: sum-like     heads: unit
    Give ``at="features"``, ``features=rotations(z)`` and ``rotations.parameters()`` to an optimizer. Without rotations the
    lengths alone are balanced, at any place; at the tenth such step it warns. Steps between those of ``update_every`` let
    the rotations rest, and so does an objective that is absent. A zero gradient keeps weight 1.
    The paper turns by the matrix exponential, here it is Cayley's map, which agrees to second order and costs much less. The
    authors' code descends ``sum_n ||R_k v_n - h_nk||^2`` with v times the length m of the mean gradient. Along rotations that has
    2 m times the gradient here, the paper's; Adam takes factors out. Its rotations start where geotorch draws them, here at I.
    Its n_k(0) are those of step 20, the default here, and of the first step until then; the paper's are of the first.

    Args:
        burn_in: The step from 0 whose lengths are n_k(0) from then on; 0: as published.
    """

    per_group = False

    def __init__(self, objectives: Sequence[str], *, burn_in: int = 20, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(burn_in < 0, f"burn_in must not be negative, got {burn_in}")
        self.burn_in, self._size = burn_in, len(self.objectives)
        self.initial = nn.Buffer(torch.zeros(self._size, dtype=torch.float64))
        self._places = torch.arange(self._size)  # of the objectives that are present
        self._rotations: Sequence[Tensor] = ()  # of all, during a step

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        lengths = gramian.diagonal().clamp(min=0).sqrt()
        moving = lengths > 0
        again = moving if self.step == self.burn_in else moving & (self.initial.to(lengths) == 0)
        self.initial.copy_(torch.where(again, lengths, self.initial.to(lengths)))
        pace = torch.where(moving, lengths / self.initial.to(lengths), 0.0)
        common = (pace @ lengths) / pace.sum()
        return torch.where(moving, common / lengths, 1.0)

    def _backward(self, step: Step, first: LossWeights | None, call: Call) -> BalanceReport:
        features, at_features = named_tensors(call.features), self.options.at == "features"
        if self.alone or not holds_rotations(features, self._size):
            self._rotations = ()
            if not self.alone:
                warn_if_unturned(self)
            return super()._backward(step, first, call)
        self.reject(not at_features, "rotations are learned from gradients at the features alone; give at='features'")
        z, *self._rotations = features
        present = [self._rotations[place] for place in self._places.tolist()]
        try:
            return super()._backward(step, first, call._replace(features=[z, *present]))
        finally:
            self._rotations = ()

    def _direction(self, measured: Measured, loss_weights: Tensor | None) -> tuple[Tensor | None, Direction]:
        weights, combination = super()._direction(measured, loss_weights)
        inputs = measured.gradients.inputs
        if len(inputs) == 1 or not self._rotations:
            return weights, combination

        def direction() -> list[Tensor]:
            turns = self._turns(measured)  # first, as the combination drops the rows
            return [turns.get(tensor, part) for tensor, part in zip(inputs, combination(), strict=True)]

        return weights, direction

    def _turns(self, measured: Measured) -> dict[Tensor, Tensor]:
        """Rotation -> gradient there of what it descends."""
        size = len(measured.gradients.inputs[1])
        rows = [None if row[0] is None else row[0][..., :size].reshape(-1, size) for row in measured.gradients.rows]
        lengths = measured.gramian.diagonal().clamp(min=0).sqrt() * (measured.factor * len(rows))
        if several_processes():  # each differentiates the mean over its own samples, and the lengths are of all
            lengths *= dist.get_world_size()
        units = [
            row / length for row, length in zip(rows, lengths.tolist(), strict=True) if row is not None and length > 0
        ]
        turns = {}
        for place, row in zip(self._places.tolist(), rows, strict=True):
            rotation = self._rotations[place]
            if row is not None and units:
                turns[rotation] = -rotation.detach() @ (row.T @ sum(units)).to(rotation.dtype)
        return turns
