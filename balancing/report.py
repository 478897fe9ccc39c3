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
        losses: (K,) detached losses. NaN here and below for an objective that is absent from the step.
        weights: (K,) weights of the objectives' gradients, before ``max_norm``; ``None`` for a method that combines
            coordinates one by one, and while micro-batches are only being collected (``last=False``).
        gramian: (K, K) inner products of the objectives' gradients where the method measured them, else ``None``. Zero
            for an objective that reaches nothing that others reach.
        skipped: True for a non-finite loss or gradient: do not step. Nothing was added to ``.grad``, except by
            earlier micro-batches of a method with constant weights.
        overflow: True if it was an fp16 overflow: ``.grad`` holds the infinity, so that ``GradScaler.step`` skips the step.
        skips: How many steps were skipped so far, this one included.
        groups: Name -> the same of a group of parameters, if weights were found for each; ``weights`` are then
            their mean by the number of parameters, which heads get where the method weighs heads.
        present: Whether each objective had a loss in this step. Without any, the step is skipped.
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
    present: tuple[bool, ...] = ()
    arrival: torch.cuda.Event | None = None

    def __post_init__(self) -> None:
        if not self.present:
            object.__setattr__(self, "present", (True,) * len(self.objectives))

    @classmethod
    def nothing(cls, objectives: tuple[str, ...], losses: Tensor, skips: int) -> BalanceReport:
        """Of a step from which all are absent; ``losses`` of any value."""
        absent = (False,) * len(objectives)
        return cls(objectives, torch.full_like(losses, torch.nan), skipped=True, skips=skips, present=absent)

    def masked(self, present: tuple[bool, ...]) -> BalanceReport:
        """This report with NaN for the losses of the others."""
        if all(present):
            return self
        mask = torch.tensor(present, device=self.losses.device)
        return replace(self, losses=torch.where(mask, self.losses, torch.nan), present=present)

    def among(self, objectives: tuple[str, ...], present: tuple[bool, ...]) -> BalanceReport:
        """This report, of those that are ``present``, as one of all ``objectives``."""
        index = torch.tensor(present).nonzero().squeeze(1)

        def widened(part: Tensor | None) -> Tensor | None:
            if part is None:
                return None
            chosen = index.to(part.device)
            result = part.new_full((len(objectives),) * part.dim(), torch.nan)
            return result.index_put_((chosen,) if part.dim() == 1 else (chosen[:, None], chosen), part)

        losses = widened(self.losses)
        assert losses is not None
        weights, gramian = widened(self.weights), widened(self.gramian)
        groups = {name: group.among(objectives, present) for name, group in self.groups.items()}
        whole = replace(self, objectives=objectives, losses=losses, weights=weights, gramian=gramian, present=present)
        return replace(whole, groups=groups)

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
        if self.cosines is None or sum(self.present) < 2:
            return None
        cosines = self.cosines[list(self.present)][:, list(self.present)]
        row, column = torch.triu_indices(len(cosines), len(cosines), offset=1)
        return float((cosines[row, column] < 0).double().mean())

    @cached_property
    def alignment(self) -> float | None:
        """Gradient alignment score, from -1 to 1; of two objectives, the cosine.

        ``2 ||mean_i(g_i / n_i)||^2 - 1``, n_i = ||g_i||, over the objectives that are present. ``None`` without pairs. Wang,
        Bhartari, Li and Perdikaris, "Gradient Alignment in Physics-informed Neural Networks: A Second-Order Optimization
        Perspective", 2025, arXiv:2502.00604.
        """
        if self.cosines is None or sum(self.present) < 2:
            return None
        cosines = self.cosines[list(self.present)][:, list(self.present)].double()
        return float(2 * cosines.mean() - 1)

    def as_dict(self) -> dict[str, float]:
        """Flat numbers for a log.

        The keys are ``loss/<name>``, ``weight/<name>``, ``norm/<name>``, ``cosine/<a>/<b>``, ``conflicts`` and
        ``conflicts/<group>``; those of an objective that is absent are left out.
        """
        row: dict[str, float] = {}
        if self.arrival is not None:
            self.arrival.synchronize()
        for kind, values in (("loss", self.losses), ("weight", self.weights), ("norm", self.norms)):
            if values is not None:
                named = zip(self.objectives, values.tolist(), self.present, strict=True)
                row |= {f"{kind}/{name}": value for name, value, present in named if present}
        if self.cosines is not None:
            table = self.cosines.tolist()
            names = [(k, name) for k, name in enumerate(self.objectives) if self.present[k]]
            for i, a in names:
                row |= {f"cosine/{a}/{b}": table[i][j] for j, b in names if j > i}
        if self.conflicts is not None:
            row["conflicts"] = self.conflicts
        return row | {f"conflicts/{name}": g.conflicts for name, g in self.groups.items() if g.conflicts is not None}
