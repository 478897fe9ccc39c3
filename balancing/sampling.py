"""The option ``sample``: some of the objectives for each step, the others as if absent."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .measuring.step_losses import StepLosses, where
from .method import Method


class ObjectiveSampling:
    """Draws ``sample`` of a method's objectives for each step, from its random generator.

    All of a step's micro-batches have the same ones, and so have all processes, whose generators are alike.

    Args:
        size: K.
        sample: n; ``None``: all.
        always: The index of an objective that is in each draw, if there is one.
    """

    def __init__(self, size: int, sample: int | None, always: int | None = None) -> None:
        self._size, self._sample, self._always = size, size if sample is None else sample, always
        self._drawn: list[int] = []

    def factors(self) -> Tensor:
        """(K,) inverse chances of the objectives.

        They are K / n, or (K - 1) / (n - 1) beside an objective that is in each draw, whose factor is 1. The mean of a gradient times
        its factor is the true one.
        """
        fixed = self._always is not None
        others = (self._size - fixed) / (self._sample - fixed) if self._size > 1 else 1.0
        factors = torch.full((self._size,), others, dtype=torch.float64)
        if self._always is not None:
            factors[self._always] = 1.0
        return factors

    def of(self, method: Method, losses: StepLosses, last: bool) -> StepLosses:
        """The losses of the step's objectives; ``last``: this is its last micro-batch."""
        if not self._drawn:
            order = torch.randperm(self._size, generator=method.generator).tolist()
            if self._always is not None:
                order = [self._always, *(k for k in order if k != self._always)]
            self._drawn = sorted(order[: self._sample])
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
