from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .measuring.processes import average_over_processes, several_processes


@dataclass(frozen=True)
class StepLosses:
    """The losses of one call, of which some may be absent.

    Attributes:
        values: K scalars; a constant zero for an objective that is absent from this process.
        stacked: (K,) the same as one tensor.
        means: (K,) without graph, averaged over processes, to which a process without the objective adds zero.
        here: Indices of the objectives that are present on this process.
        present: Whether each objective is present on any process.
    """

    values: list[Tensor]
    stacked: Tensor
    means: Tensor
    here: tuple[int, ...]
    present: tuple[bool, ...]

    @classmethod
    def of(cls, given: Sequence[Tensor | None], device: torch.device) -> StepLosses:
        """From the losses of this process; ``device`` is where to be without any."""
        present = tuple(value is not None for value in given)
        here, values = tuple(where(present)), [value for value in given if value is not None]
        if len(here) < len(given):
            zero = torch.zeros_like(values[0]) if values else torch.zeros((), device=device)
            values = [zero if value is None else value for value in given]
        stacked = torch.stack(values)
        means = stacked.detach()
        if several_processes():
            flags = torch.tensor(present, dtype=torch.float64, device=means.device)
            message = torch.stack([means.double(), flags])
            average_over_processes([message])
            means, present = message[0].to(means.dtype), tuple((message[1] > 0).tolist())
        return cls(values, stacked, means, here, present)

    def among(self, indices: Sequence[int]) -> StepLosses:
        """Those of the objectives with these indices."""
        values = [self.values[k] for k in indices]
        here = tuple(position for position, k in enumerate(indices) if k in self.here)
        present = tuple(self.present[k] for k in indices)
        return StepLosses(values, torch.stack(values), self.means[list(indices)], here, present)

    def differentiated(self, active: Sequence[int] | None) -> tuple[int, ...] | None:
        """Those of the ``active`` objectives that are present here; ``None``: all."""
        chosen = self.here if active is None else tuple(k for k in active if k in self.here)
        return None if len(chosen) == len(self.values) else chosen


def where(present: Iterable[bool]) -> list[int]:
    """Indices of the objectives that are present."""
    return [k for k, here in enumerate(present) if here]
