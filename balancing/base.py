from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from .errors import BalancingError, SolverError
from .measuring.call import Call
from .measuring.features import PLACES, given_tensors
from .measuring.graph import LossGraph
from .measuring.looped import Out
from .measuring.processes import average_over_processes, several_processes
from .method import Method
from .micro_batches import MicroBatches, Part
from .objectives import ordered_losses
from .options import BalancerOptions
from .own_gradients import OwnGradients
from .report import BalanceReport
from .rescaling import rescaling_of
from .spans import span
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
    head_weights: Tensor | None = None

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.rescaling = rescaling_of(self)
        self.cache = WeightCache(len(self.objectives), self.options.update_every, self.options.weight_ema)
        self.micro_batches = MicroBatches(apart=self.unbiased)
        self.own_gradients = OwnGradients()
        self.place = PLACES[self.options.at]
        self._out: Out | None = None

    def active(self) -> tuple[int, ...] | None:
        """Indices of the objectives that the coming step differentiates; ``None``: all."""
        return None

    def update(self, losses: Tensor) -> None:
        """Learn from the (K,) losses given to :meth:`observe`. Called under ``torch.no_grad()``."""

    # ---- one step ------------------------------------------------------------------------------------------------

    def backward(
        self,
        losses: Mapping[str, Tensor],
        *,
        shared: Sequence[Tensor] | None = None,
        parameters: Sequence[Tensor] | None = None,
        features: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None = None,
        subset: Sequence[Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        last: bool = True,
        retain_graph: bool = False,
        create_graph: bool = False,
        advance: bool = True,
        weights_of: BalanceReport | None = None,
    ) -> BalanceReport:
        """Add the balanced gradients of ``losses`` to ``.grad``.

        Args:
            losses: Name -> scalar tensor, exactly the balancer's objectives.
            shared: The contested parameters; found from the graph, which a compiled model does not show, if not given.
            parameters: Only these receive gradients; every leaf of the graph if not given.
            features: The input of the heads, for ``at="features"``.
            subset: Where gradients are measured for ``at="subset"``, e.g. the last shared layer.
            scaler: A GradScaler whose ``step`` will follow: ``.grad`` is scaled, weights follow from true gradients.
            last: False only collects the gradients of a micro-batch; the weights follow from the sum with the last.
            retain_graph: Whether the graph of the losses is kept, as by ``Tensor.backward``.
            create_graph: Whether ``.grad`` gets a graph, of the sum with constant weights (loss methods only).
            advance: False leaves the state as it is: the gradients are those of the coming step, which is not counted.
            weights_of: A report of the same step, whose weights are used once more; the state stays as it is.

        Returns:
            Losses, weights and, if measured, the Gramian. Its tensors may still be on their way from the device.

        Raises:
            ValueError: Missing or unknown objectives, or missing ``features`` or ``subset``.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed.
        """
        call = Call(shared, parameters, features, subset, scaler, last, retain_graph, create_graph, advance, weights_of)
        with surroundings(self, self.own_gradients, call):
            return self._backward(losses, None, call)

    def discard(self) -> None:
        """Forget the micro-batches of a step that was given up after ``last=False``."""
        self.micro_batches.discard()

    def _backward(self, losses: Mapping[str, Tensor], first: LossWeights | None, call: Call) -> BalanceReport:
        """:meth:`backward` of the losses times the weights that ``first`` gives to them."""
        earlier, summed = self.micro_batches.take(self.name)  # forgotten if this call fails
        values = ordered_losses(self.name, self.objectives, losses)
        stacked = torch.stack(values)
        means = stacked.detach()
        if several_processes():
            means = means.clone()
            average_over_processes([means])
        known, active = known_weights(self, call, self.active(), bool(earlier))
        graph = LossGraph(self.name, self.objectives, values, stacked, call, active)
        if known is None and self._reuses_weights():
            known = self.cache.weights.clone()
        if known is not None or self._weighs_at_once(first, call.last and not earlier):
            return self._weigh(graph, means if summed is None else summed + means, first, known, call.last)
        self.reject(call.create_graph, "create_graph=True needs the whole batch in one call")

        tensors = given_tensors(self.name, self.options.at, call)
        part = Part(means, self.place.rows(graph, tensors, self._out if call.last and not earlier else None))
        self._check(part, active)
        parts = self.micro_batches.join(earlier, part)
        if not call.last:
            self.micro_batches.keep(part.leaves(), parts)
            return BalanceReport(self.objectives, torch.stack([p.losses for p in parts]).sum(0), skips=self.skips)
        return self._balance(graph, parts, first)

    def _weigh(
        self, graph: LossGraph, losses: Tensor, first: LossWeights | None, known: Tensor | None, last: bool
    ) -> BalanceReport:
        """One backward with weights that are known, or follow from the losses alone."""
        if finite := self.finite.of_losses(losses):
            weights = self._loss_weights(losses, first) if known is None else known
            if self.head_rule == "unit" and (self._reuses_weights() or self.head_weights is None):
                self.head_weights = self.cache.heads
            graph.weighted_backward(weights, self.head_weights)
        if not last:
            self.micro_batches.keep(graph.leaves_with_gradients(), [], losses)
            return BalanceReport(self.objectives, losses, skipped=not finite, skips=self.skips)
        return self.finish(losses, weights) if finite else self.skip(losses)

    def _reuses_weights(self) -> bool:
        """Whether the step lies between updates of ``update_every``."""
        return self.step % self.options.update_every != 0

    # ---- for kinds -----------------------------------------------------------------------------------------------

    def _weighs_at_once(self, first: LossWeights | None, whole: bool) -> bool:
        """Whether the weights do not depend on gradients; ``whole``: nor on other micro-batches."""
        return False

    def _loss_weights(self, losses: Tensor, first: LossWeights | None) -> Tensor:
        """(K,) weights that follow from the losses alone; those of an earlier step where none do."""
        return self.cache.weights.clone()

    def _check(self, part: Part, active: tuple[int, ...] | None) -> None:
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

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Give a method with ``observes`` the batch's losses after the optimizer's step.

        Raises as :meth:`backward` for losses that do not fit.
        """
        with self.own_gradients.scaled_again(list(self.parameters())):
            self._observe(losses, None)

    def _observe(self, losses: Mapping[str, Tensor], factors: Tensor | None) -> None:
        if type(self).update is Balancer.update:
            return
        values = ordered_losses(self.name, self.objectives, losses, differentiable=False)
        means = torch.stack([value.detach() for value in values])
        average_over_processes([means])
        means = means.to(self.cache.weights.device)
        if self.finite(means, "loss"):
            with torch.no_grad():
                self.update(means if factors is None else means * factors.to(means))
