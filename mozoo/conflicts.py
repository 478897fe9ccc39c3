"""Gradients of the objectives, measured beside a step that does not need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from balancing import BalanceReport, group_parameters
from mozoo.distributed import Processes
from mozoo.optimization import PhaseOptimizer


class Conflicts:
    """Inner products of the objectives' gradients at the shared parameters, whole and by layer.

    They are taken from the graph of the step's own losses, so that nothing about the step changes. It costs a backward pass per
    objective.

    Args:
        model: The model.
        optimizer: The phase.
        processes: That train together.
        scale: Of a GradScaler, or 1.
        measures: Whether this step is measured; if not, nothing is done.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: PhaseOptimizer,
        processes: Processes,
        scale: float = 1.0,
        measures: bool = True,
    ) -> None:
        self._measures = measures
        if not measures:
            return
        self._objectives, self._processes, self._scale = optimizer.phase.objectives, processes, scale
        self._shared = optimizer.shared
        self._layers = layers_of(model, optimizer)
        self._rows = [[torch.zeros_like(p) for p in self._shared] for _ in self._objectives]

    def add(self, losses: Mapping[str, Tensor | None]) -> None:
        """Add the gradients of the losses of a micro-batch, whose graph is kept."""
        if not self._measures:
            return
        for row, name in zip(self._rows, self._objectives, strict=True):
            loss = losses[name]
            if loss is None or not loss.requires_grad:
                continue
            found = torch.autograd.grad(loss * self._scale, self._shared, retain_graph=True, allow_unused=True)
            for total, gradient in zip(row, found, strict=True):
                if gradient is not None:
                    total += gradient

    def added_to(self, report: BalanceReport) -> BalanceReport:
        """``report`` with the measured Gramians, of the whole and of each layer."""
        if not self._measures:
            return report
        divisor = self._scale * self._processes.size
        rows = [[self._processes.all_reduce_sum(g).double() / divisor for g in row] for row in self._rows]
        gramians: dict[str, Tensor] = {}
        place = {parameter: p for p, parameter in enumerate(self._shared)}
        for name, parameters in self._layers.items():
            flat = torch.stack([torch.cat([row[place[p]].flatten() for p in parameters]) for row in rows])
            gramians[name] = (flat @ flat.T).cpu()
        groups = report.groups or {name: replace(report, gramian=g, groups={}) for name, g in gramians.items()}
        return replace(report, gramian=torch.stack(list(gramians.values())).sum(0), groups=groups)


def layers_of(model: nn.Module, optimizer: PhaseOptimizer) -> dict[str, list[nn.Parameter]]:
    """The shared parameters of a phase, layer by layer."""
    shared = set(optimizer.shared)
    layers = {name: [p for p in group if p in shared] for name, group in group_parameters(model, "layer").items()}
    return {name: group for name, group in layers.items() if group}
