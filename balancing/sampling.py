"""The option ``sample``: some of the objectives for each step, the others as if absent."""

from __future__ import annotations

from dataclasses import replace

import torch

from .measuring.step_losses import StepLosses, where
from .method import Method


class ObjectiveSampling:
    """Draws ``sample`` of a method's objectives for each step, from its random generator.

    All of a step's micro-batches have the same ones, and so have all processes, whose generators are alike.

    Attributes:
        factor: K / n, the inverse of the chance of an objective: its gradient times this has the true one as its mean.
    """

    def __init__(self, size: int, sample: int | None) -> None:
        self.sample = size if sample is None else sample
        self.factor = size / self.sample
        self._drawn: list[int] = []

    def of(self, method: Method, losses: StepLosses, last: bool) -> StepLosses:
        """The losses of the step's objectives; ``last``: this is its last micro-batch."""
        if not self._drawn:
            order = torch.randperm(len(losses.present), generator=method.generator)
            self._drawn = sorted(order[: self.sample].tolist())
        drawn = self._drawn
        if last:
            self.forget()
        present = tuple(here and k in drawn for k, here in enumerate(losses.present))
        values = list(losses.values)
        for k in set(range(len(values))) - {*where(present)}:
            values[k] = torch.zeros_like(values[k])
        mask = torch.tensor(present, device=losses.means.device)
        means = torch.where(mask, losses.means, torch.zeros_like(losses.means))
        return replace(losses, values=values, stacked=torch.stack(values), means=means, present=present)

    def forget(self) -> None:
        """Draw again at the next call."""
        self._drawn = []
