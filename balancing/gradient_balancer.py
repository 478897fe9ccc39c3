from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor

from .base import Balancer
from .errors import BalancingError
from .groups import Group, split_into_groups
from .hints import warn_if_unshared
from .measuring.gradients import Direction, Gradients
from .measuring.graph import LossGraph
from .measuring.processes import sum_over_samples
from .micro_batches import Part
from .narrowing import for_some
from .options import BalancerOptions
from .report import BalanceReport
from .rescaling import shorten
from .spans import span
from .step_method import LossWeights


@dataclass(frozen=True)
class Measured:
    """Losses and gradients of a step.

    Attributes:
        losses: (K,) losses, float64 on the CPU.
        gramian: (K, K) Gramian of the true gradients.
        samples: (K, K) products of two samples of the gradients, or the Gramian.
        gradients: Of the losses, times ``factor``.
        factor: The scale of a GradScaler.
        groups: Parts of the gradients for which weights are found one by one; empty: the whole.
    """

    losses: Tensor
    gramian: Tensor
    samples: Tensor
    gradients: Gradients
    factor: float
    groups: Sequence[Group] = ()

    def among(self, indices: Sequence[int]) -> Measured:
        """Those of the objectives with these indices."""
        chosen = list(indices)
        gramian, samples = self.gramian[chosen][:, chosen], self.samples[chosen][:, chosen]
        groups = [group.among(chosen) for group in self.groups]
        return Measured(self.losses[chosen], gramian, samples, self.gradients.among(chosen), self.factor, groups)

    def combination(self, weights: Tensor, max_norm: float) -> Direction:
        """The sum of the rows with these weights, no longer than ``max_norm``."""
        short = shorten(weights, self.gramian, max_norm)
        return lambda: self.gradients.combine(short.tolist())


class GradientBalancer(Balancer):
    """Base class of the kinds that measure gradients; they override :meth:`_direction`."""

    measures = True
    #: What ``heads=None`` means.
    head_convention: ClassVar[Literal["unit", "weighted"]] = "unit"

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.head_rule = self.options.heads or self.head_convention

    @abstractmethod
    def _direction(self, measured: Measured, loss_weights: Tensor | None) -> tuple[Tensor | None, Direction]:
        """Weights of the objectives, if there are any, and the combination of the rows.

        ``loss_weights`` are the (K,) weights that a method before this one gives to the losses.
        """

    def _arrange(self, gradients: Gradients) -> None:
        """Change the order of the inputs in a step that counts."""

    def _balance(
        self, graph: LossGraph, parts: list[Part], first: LossWeights | None, reused: Tensor | None
    ) -> BalanceReport:
        factor = graph.loss_scale()
        reaching = self._reaching(parts)
        if self.place.averages_rows:
            for part in parts:
                part.gradients.synchronize()
        total, samples = parts[0] if len(parts) == 1 else parts[0] + parts[1], None
        if self.place.finds_inputs:
            active = self.active()  # in the whole step; the graph may be of a micro-batch with fewer objectives
            owners = graph.own_leaves(total.gradients, complete=active is None)
            for part in {id(part): part for part in (total, *parts)}.values():
                part.gradients.release(owners, active)
        # each holds a sum over some of the micro-batches; none is a sample of an objective that is in the other alone
        if len(parts) == 2 and all(map(min, parts[0].present, parts[1].present)):
            share = parts[0].count * parts[1].count / (parts[0].count + parts[1].count) ** 2
            samples = parts[0].gradients.products(parts[1].gradients) / (share * factor**2)
        gradients = total.gradients
        with span("Gramian"):
            losses = total.losses.cpu().double()
            groups = [] if graph.groups is None else split_into_groups(self.name, graph.groups, gradients, factor)
            gramian = torch.stack([g.gramian for g in groups]).sum(0) if groups else gradients.gramian()
            gramian = gramian if groups or factor == 1 else gramian / factor**2
        if not self.place.averages_rows:
            gramian = sum_over_samples(gramian, total.losses.device)
        # a smaller scale cannot mend a loss
        overflow = graph.is_scaled and not bool(gramian.isfinite().all()) and bool(losses.isfinite().all())
        if not overflow and not (self.finite(losses, "loss") and self.finite(gramian.diagonal(), "gradient")):
            return self.skip(total.losses)

        loss_weights = None if overflow or first is None or reused is not None else first(losses)
        weights: Tensor | None
        if not overflow:
            self._arrange(gradients)
        measured = Measured(losses, gramian, gramian if samples is None else samples, gradients, factor, groups)
        if overflow:  # the plain sum carries the infinity to the scaler, which skips the step and lowers its scale
            weights = torch.ones_like(losses)
            direction = measured.combination(weights, self.options.max_norm)
        elif reused is not None:
            weights, loss_weights = reused.to(losses), self.cache.heads
            direction = measured.combination(weights, self.options.max_norm)
        elif not gradients.inputs or self.alone:
            # nothing is shared, so there is nothing to balance: each objective keeps its own, or its first, gradient
            if not self.alone and len(losses) > 1:
                warn_if_unshared(self)
            weights = self._own_weights(losses, loss_weights)
            direction = measured.combination(weights, self.options.max_norm)
        elif len(reaching) < len(losses):
            weights, direction = self._direction_among(reaching, measured, loss_weights)
        else:
            weights, direction = self._direction(measured, loss_weights)
        factors = self._shares if loss_weights is None else loss_weights * self._shares
        if self.options.update_every > 1 and not self.alone:
            self.cache.heads.copy_(factors)
        self.head_weights = None if self.head_rule == "weighted" else factors
        self.place.write(graph, gradients, losses if weights is None else weights, self.head_weights, direction)
        unknown = self.alone and not gradients.inputs  # what is shared with objectives that are absent
        report = self.finish(total.losses, weights, None if unknown else gramian, overflow)
        if not groups:
            return report
        return replace(report, groups={g.name: replace(report, weights=g.weights, gramian=g.gramian) for g in groups})

    def _direction_among(
        self, reaching: Sequence[int], measured: Measured, loss_weights: Tensor | None
    ) -> tuple[Tensor | None, Direction]:
        """:meth:`_direction` of the objectives that reach a shared leaf.

        The others keep their own gradients.
        """
        own = self._own_weights(measured.losses, loss_weights)
        if len(reaching) == 1:
            return own, measured.combination(own, self.options.max_norm)
        theirs = None if loss_weights is None else loss_weights[list(reaching)]
        some = measured.among(reaching)
        weights, direction = for_some(self, reaching, lambda method: method._direction(some, theirs))
        for whole, part in zip(measured.groups, some.groups, strict=True):
            whole.weights = None if part.weights is None else own.index_copy(0, torch.tensor(reaching), part.weights)
        self.cache.keep(own, [k for k in range(len(own)) if k not in reaching])
        return None if weights is None else own.index_copy(0, torch.tensor(reaching), weights), direction

    def _own_weights(self, losses: Tensor, loss_weights: Tensor | None) -> Tensor:
        """(K,) weights of objectives that are not balanced."""
        own = torch.ones_like(losses) if loss_weights is None else loss_weights.to(losses)
        return own * self.rescaling.share

    def _reaching(self, parts: Sequence[Part]) -> list[int]:
        """Objectives with a gradient at the inputs, on any process.

        All of them where they are differentiated in turn.
        """
        size = len(self.objectives)
        if self.active() is not None:
            return list(range(size))
        return [k for k in range(size) if any(g is not None for part in parts for g in part.gradients.rows[k])]

    def _check(self, part: Part, graph: LossGraph) -> None:
        gradients = part.gradients
        if any(tensor.is_complex() for tensor in gradients.inputs):
            raise BalancingError(
                f"{self.name}: a shared parameter is complex, but gradients are measured as real vectors; "
                "keep torch.view_as_real(parameter) as the parameter"
            )
        if any(gradient.is_sparse for row in gradients.rows for gradient in row if gradient is not None):
            raise BalancingError(f"{self.name}: cannot measure sparse gradients; use nn.Embedding(..., sparse=False)")
        if self.options.at != "subset" or self.alone:
            return
        for index in range(len(self.objectives)) if graph.active is None else graph.active:
            if all(gradient is None for gradient in gradients.rows[index]) and graph.shares_leaves(index):
                raise BalancingError(
                    f"{self.name}: objective {self.objectives[index]!r} reaches none of the {self.place.title}; "
                    "leave it out of this balancer"
                )
