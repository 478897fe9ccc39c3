from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from .compiled import checked_backwards
from .measuring.agreement import Agreement
from .measuring.call import Call
from .measuring.features import PLACES, find_place
from .measuring.gradients import Gradients
from .measuring.graph import LossGraph
from .measuring.looped import Out
from .measuring.processes import several_processes
from .measuring.sharing import Sharing
from .measuring.step_losses import where
from .method import Method
from .micro_batches import MicroBatches, Part, Step, prepare
from .narrowing import for_some
from .objectives import ordered_losses
from .options import BalancerOptions
from .own_gradients import OwnGradients
from .recomputation import buffers_unmoved
from .report import BalanceReport
from .rescaling import Rescaling
from .surroundings import known_weights, surroundings
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
    #: Whether weights may be found for groups of parameters one by one.
    per_group: bool = False
    head_weights: Tensor | None = None
    #: Whether the other objectives are absent, so that a method that measures gradients is not asked for the weight.
    alone: bool = False
    _present: tuple[bool, ...] | None = None  # at the last step

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.rescaling = Rescaling.of(self)
        self.cache = WeightCache(len(self.objectives), self.options.update_every, self.options.weight_ema)
        self.micro_batches, self.own_gradients = MicroBatches(apart=self.unbiased), OwnGradients()
        self.place, self.sharing = PLACES[self.options.at], Sharing(self.name)
        self._agreement = Agreement(self.name, self.objectives, self.options)
        self._out: Out | None = None

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
        features: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None = None,
        subset: Sequence[Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        last: bool = True,
        groups: Mapping[str, Sequence[Tensor]] | None = None,
        retain_graph: bool = False,
        create_graph: bool = False,
        advance: bool = True,
        weights_of: BalanceReport | None = None,
    ) -> BalanceReport:
        """Add the balanced gradients of ``losses`` to ``.grad``.

        Args:
            losses: Name -> scalar tensor, exactly the balancer's objectives. ``None``: absent from this step, as there are
                no labels, say. Its state and its head rest, and the method sees the others.
            shared: The contested parameters; found from the autograd graph if not given, and from the gradients where it does
                not distinguish heads from trunk (a compiled model, concatenated outputs).
            parameters: Only these receive gradients; every parameter of the graph if not given.
            features: The input of the heads, for ``at="features"``.
            subset: Where gradients are measured for ``at="subset"``, e.g. the last shared layer.
            scaler: A GradScaler whose ``step`` will follow: ``.grad`` is scaled, weights follow from true gradients.
            groups: Name -> parameters, such as ``group_parameters(model, "layer")``: weights are found for each group from its
                part of the gradients. Contested parameters in no group form the group ``others``.
            last: False only collects the gradients of a micro-batch; the weights follow from the sum with the last.
            retain_graph: Whether the graph of the losses is kept, as by ``Tensor.backward``.
            create_graph: Whether ``.grad`` gets a graph, of the sum with constant weights (loss methods only).
            advance: False leaves the state as it is: the gradients are those of the coming step, which is not counted.
            weights_of: A report of the same step, whose weights are used once more; the state stays as it is.

        Returns:
            Losses, weights and, if measured, the Gramian. Its tensors may still be on their way from the device.

        Raises:
            ValueError: Missing or unknown objectives, missing ``features`` or ``subset``, or ``groups`` that a method or an option
                of it excludes.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed.
        """
        given = (shared, parameters, features, subset, scaler, last, groups)
        call = Call(*given, retain_graph, create_graph, advance, weights_of)
        compiled = checked_backwards(self.name, losses if self.measures else {})
        with surroundings(self, self.own_gradients, call), buffers_unmoved(), compiled:
            return self._over_present(losses, call)

    def discard(self) -> None:
        """Forget the micro-batches of a step that was given up after ``last=False``."""
        self.micro_batches.discard()

    def _over_present(self, losses: Mapping[str, Tensor | None], call: Call) -> BalanceReport:
        """A step of the objectives that are present, by a copy for these if they are not all."""
        earlier = self.micro_batches.take(self.name)  # forgotten if this call fails
        device = self.cache.weights.device
        now = self._agreement.losses(lambda: ordered_losses(self.name, self.objectives, losses), device)
        step = earlier.step(now, call.last)
        self._present, some = step.present, where(step.present)
        if len(some) == len(self.objectives) or not call.last:
            report = self._backward(step, None, call)
            self.micro_batches.present = None if call.last else step.present
            return report.masked(step.present)
        if not some:
            return BalanceReport.nothing(self.objectives, step.losses.means, self.skips)
        report = for_some(self, some, lambda method: method._backward(step.among(some), None, call))
        return report.among(self.objectives, step.present)

    def _backward(self, step: Step, first: LossWeights | None, call: Call) -> BalanceReport:
        """:meth:`backward` of the losses times the weights that ``first`` gives to them."""
        if call.groups is not None:
            self.check_groups()
        losses = step.losses
        means = losses.means if step.summed is None else step.summed + losses.means
        known, active = known_weights(self, call, self.active(), bool(step.parts))
        if known is None and not self.alone and self.cache.reusable(self.step, step.present, step.summed is not None):
            known = self.cache.weights.clone()
        at_once = self._weighs_at_once(first, call.last and not step.parts, step.waits or bool(step.parts))
        if step.mixed() and not at_once and call.weights_of is None:
            active = None
        if self.alone and not self.options.max_norm:
            call = replace(call, shared=None)
        differentiated = losses.differentiated(active)
        graph = LossGraph(
            self.name,
            self.objectives,
            losses.values,
            losses.stacked,
            call,
            differentiated,
            self.sharing,
            self.remembers,
        )
        weighs = known is not None or at_once or step.summed is not None
        tensors = find_place(graph, self._agreement, "shared" if self.alone else self.options.at, call, weighs)
        if weighs:
            return self._weigh(graph, means, first, known, call.last)
        self.reject(call.create_graph, "create_graph=True needs the whole batch in one call")

        out = self._out if call.last and not step.parts else None
        rows = Gradients.none(len(losses.values)) if graph.active == () else self.place.rows(graph, tensors, out)
        part = Part(losses.means, rows, losses.present)
        self._check(part, graph)
        parts = self.micro_batches.join(step.parts, part)
        if not call.last:
            self.micro_batches.keep(part.leaves(), parts)
            return BalanceReport(self.objectives, torch.stack([p.losses for p in parts]).sum(0), skips=self.skips)
        if step.parts:
            prepare(parts, call.shared is None, self.active())
        return self._balance(graph, parts, first)

    def _weigh(
        self, graph: LossGraph, losses: Tensor, first: LossWeights | None, known: Tensor | None, last: bool
    ) -> BalanceReport:
        """One backward with weights that are known, or follow from the losses alone."""
        if finite := self.finite.of_losses(losses):
            weights = self._loss_weights(losses, first) if known is None else known
            if self.head_rule == "unit" and (self.step % self.options.update_every or self.head_weights is None):
                self.head_weights = self.cache.heads
            if graph.active != () or several_processes():
                graph.weighted_backward(weights, self.head_weights)
        if not last:
            self.micro_batches.keep(graph.leaves_with_gradients(), [], losses)
            return BalanceReport(self.objectives, losses, skipped=not finite, skips=self.skips)
        return self.finish(losses, weights) if finite else self.skip(losses)

    def narrowed_to(self, indices: Sequence[int]) -> None:
        self.rescaling = Rescaling.of(self)
        if len(indices) == 1 and self.measures:
            self.alone, self.place = True, PLACES["shared"]

    # ---- for kinds -----------------------------------------------------------------------------------------------

    def _weighs_at_once(self, first: LossWeights | None, whole: bool, waits: bool) -> bool:
        """Whether the weights do not depend on gradients; ``whole``: nor on other micro-batches.

        ``waits``: with others, in which objectives may be present that are absent from this one.
        """
        return False

    def _loss_weights(self, losses: Tensor, first: LossWeights | None) -> Tensor:
        """(K,) weights that follow from the losses alone; those of an earlier step where none do."""
        return self.cache.weights.clone()

    def check_groups(self) -> None:
        """Raise ValueError if weights cannot be found per group."""
        raise ValueError(f"{self.name}: groups= needs a method that finds weights from the Gramian alone")

    def _check(self, part: Part, graph: LossGraph) -> None:
        """Raise BalancingError for gradients that cannot be balanced."""

    def _balance(self, graph: LossGraph, parts: list[Part], first: LossWeights | None) -> BalanceReport:
        """Add the balanced sum of all micro-batches to ``.grad``."""
        raise TypeError(f"{self.name}: derive from a kind, such as LossBalancer or GramianBalancer, not from Balancer")

    def observe(self, losses: Mapping[str, Tensor | None]) -> None:
        """Give a method with ``observes`` the batch's losses after the optimizer's step.

        An objective that is absent here (``None``), or was from the step, rests.
        Raises as :meth:`backward` for losses that do not fit.
        """
        if not self._learns():
            return
        device = self.cache.weights.device
        now = self._agreement.losses(lambda: ordered_losses(self.name, self.objectives, losses, False), device)
        if some := where(map(min, now.present, self._present or now.present)):
            means = now.means[some].to(self.cache.weights.device)
            with self.own_gradients.scaled_again(list(self.parameters())):
                for_some(self, some, lambda method: method._observe(means, None))

    def _learns(self) -> bool:
        return type(self).update is not Balancer.update

    def _observe(self, means: Tensor, factors: Tensor | None) -> None:
        if self._learns() and self.finite(means, "loss"):
            with torch.no_grad():
                self.update(means if factors is None else means * factors.to(means))
