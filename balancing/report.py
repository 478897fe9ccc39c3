from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class BalanceReport:
    """Result of one ``Balancer.backward``.

    Attributes:
        objectives: Names, in the order of every tensor below.
        losses: (K,) detached losses.
        weights: (K,) weights of the objectives' gradients, before ``max_norm``; ``None`` for a method that combines
            coordinates one by one, and while micro-batches are only being collected (``last=False``).
        gramian: (K, K) inner products of the objectives' gradients where the method measured them, else ``None``.
        skipped: True for a non-finite loss or gradient: do not step. Nothing was added to ``.grad``, except by
            earlier micro-batches of a method with constant weights.
        overflow: True if it was an fp16 overflow: ``.grad`` holds the infinity, so that ``GradScaler.step`` skips the step.
        skips: How many steps were skipped so far, this one included.
        groups: Name -> the same of a group of parameters, if weights were found for each; ``weights`` are then
            their mean by the number of parameters, which heads get where the method weighs heads.
        arrival: When the tensors will be on the processor, for a report that :meth:`to_host` gave.
    """

    objectives: tuple[str, ...]
    losses: Tensor
    weights: Tensor | None = None
    gramian: Tensor | None = None
    skipped: bool = False
    skips: int = 0
    overflow: bool = False
    groups: Mapping[str, BalanceReport] = field(default_factory=dict)
    arrival: torch.cuda.Event | None = None

    def to_host(self) -> BalanceReport:
        """A copy whose tensors are on their way from CUDA; :meth:`as_dict` waits for these alone."""
        if self.losses.device.type != "cuda":
            return self
        sent: dict[str, Any] = {
            key: torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
            for key, tensor in (("losses", self.losses), ("weights", self.weights))
            if tensor is not None and tensor.is_cuda
        }
        arrival = torch.cuda.Event()
        arrival.record()
        return replace(self, arrival=arrival, **sent)

    @cached_property
    def norms(self) -> Tensor | None:
        """(K,) lengths of the objectives' gradients."""
        return None if self.gramian is None else self.gramian.diagonal().clamp(min=0).sqrt()

    @cached_property
    def cosines(self) -> Tensor | None:
        """(K, K) cosines between the objectives' gradients; 0 where a gradient is zero."""
        if self.gramian is None or self.norms is None:
            return None
        lengths = torch.where(self.norms > 0, self.norms, torch.inf)
        return (self.gramian / lengths[:, None] / lengths).clamp(-1, 1)

    @cached_property
    def conflicts(self) -> float | None:
        """Share of pairs of objectives with a negative cosine of gradients; ``None`` without pairs."""
        if self.cosines is None or len(self.objectives) < 2:
            return None
        size = len(self.cosines)
        row, column = torch.triu_indices(size, size, offset=1)
        return float((self.cosines[row, column] < 0).double().mean())

    def as_dict(self) -> dict[str, float]:
        """Flat numbers for a log.

        The keys are ``loss/<name>``, ``weight/<name>``, ``norm/<name>``, ``cosine/<a>/<b>``, ``conflicts`` and
        ``conflicts/<group>``.
        """
        row: dict[str, float] = {}
        if self.arrival is not None:
            self.arrival.synchronize()
        for kind, values in (("loss", self.losses), ("weight", self.weights), ("norm", self.norms)):
            if values is not None:
                row |= {f"{kind}/{name}": value for name, value in zip(self.objectives, values.tolist(), strict=True)}
        if self.cosines is not None:
            table = self.cosines.tolist()
            for i, a in enumerate(self.objectives):
                row |= {f"cosine/{a}/{b}": table[i][j] for j, b in enumerate(self.objectives) if j > i}
        if self.conflicts is not None:
            row["conflicts"] = self.conflicts
        return row | {f"conflicts/{name}": g.conflicts for name, g in self.groups.items() if g.conflicts is not None}
