from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from .errors import BalancingError, SolverError
from .measuring.call import Call
from .measuring.features import PLACES, given_tensors
from .measuring.gradients import Gradients
from .measuring.graph import LossGraph
from .measuring.looped import Out
from .measuring.processes import several_processes
from .method import Method
from .micro_batches import MicroBatches, Part, contest
from .narrowing import Narrowed
from .objectives import ordered_losses
from .options import BalancerOptions
from .report import BalanceReport
from .rescaling import Rescaling
from .spans import span
from .step_losses import StepLosses
from .weight_cache import WeightCache

#: (K,) losses -> (K,) weights of a method that comes first.
LossWeights = Callable[[Tensor], Tensor]


class Balancer(Method):
    """Turns K losses into gradients. ``backward`` stands in for ``sum(losses).backward()``.

    The kinds are :class:`LossBalancer` and :class:`Scalarization` (one backward), :class:`GramianBalancer` (weights from
    inner products of the gradients), :class:`JacobianBalancer` and :class:`RowBalancer` (whole gradients), and
    :class:`Composed`. A method is a subclass of one of them with its formula in one function.
    A balancer with parameters (``uncertainty``, ``gradnorm``) needs them in an optimizer, without weight decay.
    Gradient methods do their K x K arithmetic on the CPU in float64, loss methods theirs where their state lives.

    Attributes:
        head_weights: (K,) factors of the gradients of heads at the last step; ``None``: the weights of the objectives.
    """

    #: Whether micro-batches are kept apart as two samples, so that the Gramian becomes an unbiased estimate.
    unbiased: ClassVar[bool] = False
    #: Whether ``memory`` holds gradients, which must then have the same size at every step.
    remembers: ClassVar[bool] = False
    head_weights: Tensor | None = None
    #: Whether the other objectives are absent, so that a method that measures gradients is not asked for the weight.
    alone: bool = False
    _present: tuple[bool, ...] | None = None  # at the last step

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        given = self.options
        self.rescaling = self._make_rescaling()
        self.cache = WeightCache(len(self.objectives), given.update_every, given.weight_ema)
        self.micro_batches = MicroBatches(apart=self.unbiased)
        self.place = PLACES[given.at]
        self._out: Out | None = None

    def _make_rescaling(self) -> Rescaling:
        given = self.options
        return Rescaling(
            log_losses=given.log_losses,
            by_length=given.normalize in ("l2", "loss+"),
            by_loss=given.normalize in ("loss", "loss+"),
            preference=None if given.preference is None else self.preference,
            preference_on=self.preference_on,
            prefers_losses=not self.measures,
            size=float(len(self.objectives)) if given.scale == "sum" and self.convention == "mean" else 1.0,
            require_positive=self.require_positive,
        )

    def active(self) -> tuple[int, ...] | None:
        """Indices of the objectives that the coming step differentiates; ``None``: all."""
        return None

    def update(self, losses: Tensor) -> None:
        """Learn from the (K,) losses given to :meth:`observe`. Called under ``torch.no_grad()``."""

    # ---- one step ------------------------------------------------------------------------------------------------

    def backward(
        self,
        losses: Mapping[str, Tensor | None],
        *,
        shared: Sequence[Tensor] | None = None,
        parameters: Sequence[Tensor] | None = None,
        features: Tensor | Sequence[Tensor] | None = None,
        subset: Sequence[Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        last: bool = True,
    ) -> BalanceReport:
        """Add the balanced gradients of ``losses`` to ``.grad``.

        Args:
            losses: Name -> scalar tensor, exactly the balancer's objectives. ``None``: absent from this step, as there are
                no labels, say. Its state and its head rest, and the method sees the others.
            shared: The contested parameters; found from the autograd graph if not given. Give them for a compiled model,
                whose graph does not distinguish heads from trunk.
            parameters: Only these receive gradients; every leaf of the graph if not given.
            features: The input of the heads, for ``at="features"``.
            subset: Where gradients are measured for ``at="subset"``, e.g. the last shared layer.
            scaler: A GradScaler whose ``step`` will follow: ``.grad`` is scaled, weights follow from true gradients.
            last: False only collects the gradients of a micro-batch; the weights follow from the sum with the last.

        Returns:
            Losses, weights and, if measured, the Gramian. Its tensors may still be on their way from the device.

        Raises:
            ValueError: Missing or unknown objectives, or missing ``features`` or ``subset``.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed.
        """
        return self._over_present(losses, Call(shared, parameters, features, subset, scaler, last))

    def _over_present(self, losses: Mapping[str, Tensor | None], call: Call) -> BalanceReport:
        """A step of the objectives that are present: by a copy for these, unless all are."""
        earlier, summed, before = self.micro_batches.take()  # forgotten if this call fails
        now = StepLosses.of(ordered_losses(self.name, self.objectives, losses), self.cache.weights.device)
        present = now.present if before is None else tuple(a or b for a, b in zip(now.present, before, strict=True))
        self._present = present
        if all(present):
            return self._backward(now, earlier, summed, None, call, False)
        indices = [k for k, here in enumerate(present) if here]
        if not indices:
            return BalanceReport(self.objectives, torch.full_like(now.means, torch.nan), None, None, True, self.skips)
        if not call.last:
            report = self._backward(now, earlier, summed, None, call, True)
            self.micro_batches.present = present
            return replace(report, losses=report.losses.where(now.means.new_tensor(present) > 0, torch.nan), present=present)
        narrowed = Narrowed(self, indices, len(self.objectives))
        parts = [part.among(indices) for part in earlier]
        summed = None if summed is None else summed[indices]
        report = narrowed.module._backward(now.among(indices), parts, summed, None, call, False)
        narrowed.write_back()
        return report.among(self.objectives, present)

    def narrowed_to(self, indices: Sequence[int]) -> None:
        self.rescaling = self._make_rescaling()
        if len(indices) == 1 and self.measures:
            self.alone, self.place = True, PLACES["shared"]

    def _backward(
        self,
        losses: StepLosses,
        earlier: list[Part],
        summed: Tensor | None,
        first: LossWeights | None,
        call: Call,
        waits: bool,
    ) -> BalanceReport:
        """A call of :meth:`backward`.

        Args:
            losses: Those of this call.
            earlier: Gradients of earlier micro-batches.
            summed: Losses of earlier micro-batches whose gradients were added to ``.grad`` at once.
            first: Gives weights to the losses before the method.
            call: What :meth:`backward` was given.
            waits: Whether it is not known yet which objectives are present in the step.
        """
        active = None if waits else self.active()
        chosen = losses.here if active is None else tuple(k for k in active if k in losses.here)
        if self.alone and not self.options.max_norm:
            call = replace(call, shared=None)
        everything = len(chosen) == len(self.objectives)
        graph = LossGraph(
            self.name, self.objectives, losses.values, losses.stacked, call, None if everything else chosen
        )
        means = losses.means
        reuse = self._reuses(losses.present, summed is not None)
        if reuse or summed is not None or self._weighs_at_once(first, call.last and not earlier, waits):
            return self._weigh(graph, means if summed is None else summed + means, first, reuse, call.last)

        tensors = given_tensors(self.name, self.options.at, call)
        out = self._out if call.last and not earlier else None
        rows = self.place.rows(graph, tensors, out) if chosen else Gradients.none(len(self.objectives))
        part = Part(means, rows)
        self._check(part, graph)
        parts = self.micro_batches.join(earlier, part)
        if not call.last:
            self.micro_batches.parts = parts
            return BalanceReport(self.objectives, torch.stack([p.losses for p in parts]).sum(0), skips=self.skips)
        if earlier and call.shared is None:
            contest(parts)
        if active is not None:
            for part in parts:
                part.gradients.keep(active)
        return self._balance(graph, parts, first)

    def _reuses(self, present: Sequence[bool], goes_on: bool) -> bool:
        """Whether the step takes the weights of an earlier one; ``goes_on``: its first micro-batch decided so."""
        if self.step % self.options.update_every == 0:
            return False
        return goes_on or bool(self.cache.known[list(present)].all())

    def _weigh(
        self, graph: LossGraph, losses: Tensor, first: LossWeights | None, reuse: bool, last: bool
    ) -> BalanceReport:
        """One backward with weights that follow from the losses alone, or from an earlier step."""
        if finite := self.finite.of_losses(losses):
            weights = self.cache.weights.clone() if reuse else self._loss_weights(losses, first)
            if self.head_rule == "unit":
                self.head_weights = self.cache.heads
            if graph.active != () or several_processes():
                graph.weighted_backward(weights, self.head_weights)
        if not last:
            self.micro_batches.losses = losses
            return BalanceReport(self.objectives, losses, skipped=not finite, skips=self.skips)
        return self.finish(losses, weights) if finite else self.skip(losses)

    # ---- for kinds -----------------------------------------------------------------------------------------------

    def _weighs_at_once(self, first: LossWeights | None, whole: bool, waits: bool) -> bool:
        """Whether the weights do not depend on gradients; ``whole``: nor on other micro-batches.

        ``waits``: objectives that are absent so far may appear in a later micro-batch.
        """
        return False

    def _loss_weights(self, losses: Tensor, first: LossWeights | None) -> Tensor:
        """(K,) weights that follow from the losses alone; those of an earlier step where none do."""
        return self.cache.weights.clone()

    def _check(self, part: Part, graph: LossGraph) -> None:
        """Raise BalancingError for gradients that cannot be balanced."""

    def _balance(self, graph: LossGraph, parts: list[Part], first: LossWeights | None) -> BalanceReport:
        """Add the balanced sum of all micro-batches to ``.grad``."""
        raise TypeError(f"{self.name}: derive from a kind, such as LossBalancer or GramianBalancer, not from Balancer")

    def _call(self, method: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """Result without gradients and autocast. Raises BalancingError if a solver failed."""
        try:
            with span("weights"), torch.no_grad(), torch.autocast(arguments[0].device.type, enabled=False):
                return method(*arguments)
        except SolverError as error:
            raise BalancingError(f"{self.name}: {error}") from error

    # ---- after the optimizer's step ------------------------------------------------------------------------------

    def observe(self, losses: Mapping[str, Tensor | None]) -> None:
        """Give a method with ``observes`` the batch's losses after the optimizer's step.

        An objective that is absent here (``None``), or was from the step, rests.
        Raises as :meth:`backward` for losses that do not fit.
        """
        if not self._learns():
            return
        given = ordered_losses(self.name, self.objectives, losses, differentiable=False)
        now = StepLosses.of([None if value is None else value.detach() for value in given], self.cache.weights.device)
        present = now.present if self._present is None else map(min, now.present, self._present)
        indices = [k for k, here in enumerate(present) if here]
        means = now.means.to(self.cache.weights.device)
        if len(indices) == len(self.objectives):
            self._observe(means, None)
        elif indices:
            narrowed = Narrowed(self, indices, len(self.objectives))
            narrowed.module._observe(means[indices], None)
            narrowed.write_back()

    def _learns(self) -> bool:
        return type(self).update is not Balancer.update

    def _observe(self, means: Tensor, factors: Tensor | None) -> None:
        if self._learns() and self.finite(means, "loss"):
            with torch.no_grad():
                self.update(means if factors is None else means * factors.to(means))
