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
from .measuring.sharing import Sharing
from .method import Method
from .micro_batches import MicroBatches, Part
from .objectives import ordered_losses
from .options import BalancerOptions
from .report import BalanceReport
from .rescaling import Rescaling
from .spans import span
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

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        given = self.options
        self.rescaling = Rescaling(
            log_losses=given.log_losses,
            by_length=given.normalize in ("l2", "loss+"),
            by_loss=given.normalize in ("loss", "loss+"),
            preference=None if given.preference is None else self.preference,
            preference_on=self.preference_on,
            prefers_losses=not self.measures,
            size=float(len(self.objectives)) if given.scale == "sum" and self.convention == "mean" else 1.0,
            require_positive=self.require_positive,
        )
        self.cache = WeightCache(len(self.objectives), given.update_every, given.weight_ema)
        self.micro_batches = MicroBatches(apart=self.unbiased)
        self.place = PLACES[given.at]
        self.sharing = Sharing(self.name)
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
        features: Tensor | Sequence[Tensor] | None = None,
        subset: Sequence[Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        last: bool = True,
        groups: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> BalanceReport:
        """Add the balanced gradients of ``losses`` to ``.grad``.

        Args:
            losses: Name -> scalar tensor, exactly the balancer's objectives.
            shared: The contested parameters; found from the autograd graph if not given. Give them for a compiled model,
                whose graph does not distinguish heads from trunk.
            parameters: Only these receive gradients; every leaf of the graph if not given.
            features: The input of the heads, for ``at="features"``.
            subset: Where gradients are measured for ``at="subset"``, e.g. the last shared layer.
            scaler: A GradScaler whose ``step`` will follow: ``.grad`` is scaled, weights follow from true gradients.
            groups: Name -> parameters, such as ``group_parameters(model, "layer")``: weights are found for each group from its
                part of the gradients. Contested parameters in no group form the group ``others``.
            last: False only collects the gradients of a micro-batch; the weights follow from the sum with the last.

        Returns:
            Losses, weights and, if measured, the Gramian. Its tensors may still be on their way from the device.

        Raises:
            ValueError: Missing or unknown objectives, missing ``features`` or ``subset``, or ``groups`` that a method or an option
                of it excludes.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed.
        """
        return self._backward(losses, None, Call(shared, parameters, features, subset, scaler, last, groups))

    def _backward(self, losses: Mapping[str, Tensor], first: LossWeights | None, call: Call) -> BalanceReport:
        """:meth:`backward` of the losses times the weights that ``first`` gives to them."""
        earlier, summed = self.micro_batches.take()  # forgotten if this call fails
        if call.groups is not None:
            self.check_groups()
        values = ordered_losses(self.name, self.objectives, losses)
        stacked = torch.stack(values)
        means = stacked.detach()
        if several_processes():
            means = means.clone()
            average_over_processes([means])
        active = self.active()
        graph = LossGraph(self.name, self.objectives, values, stacked, call, active, self.sharing, self.remembers)
        reuse = self.step % self.options.update_every != 0
        if reuse or self._weighs_at_once(first, call.last and not earlier):
            return self._weigh(graph, means if summed is None else summed + means, first, reuse, call.last)

        tensors = given_tensors(self.name, self.options.at, call)
        part = Part(means, self.place.rows(graph, tensors, self._out if call.last and not earlier else None))
        self._check(part, active)
        parts = self.micro_batches.join(earlier, part)
        if not call.last:
            self.micro_batches.parts = parts
            return BalanceReport(self.objectives, torch.stack([p.losses for p in parts]).sum(0), skips=self.skips)
        return self._balance(graph, parts, first)

    def _weigh(
        self, graph: LossGraph, losses: Tensor, first: LossWeights | None, reuse: bool, last: bool
    ) -> BalanceReport:
        """One backward with weights that follow from the losses alone, or from an earlier step."""
        if finite := self.finite.of_losses(losses):
            weights = self.cache.weights.clone() if reuse else self._loss_weights(losses, first)
            if self.head_rule == "unit":
                self.head_weights = self.cache.heads
            graph.weighted_backward(weights, self.head_weights)
        if not last:
            self.micro_batches.losses = losses
            return BalanceReport(self.objectives, losses, skipped=not finite, skips=self.skips)
        return self.finish(losses, weights) if finite else self.skip(losses)

    # ---- for kinds -----------------------------------------------------------------------------------------------

    def _weighs_at_once(self, first: LossWeights | None, whole: bool) -> bool:
        """Whether the weights do not depend on gradients; ``whole``: nor on other micro-batches."""
        return False

    def _loss_weights(self, losses: Tensor, first: LossWeights | None) -> Tensor:
        """(K,) weights that follow from the losses alone; those of an earlier step where none do."""
        return self.cache.weights.clone()

    def check_groups(self) -> None:
        """Raise ValueError if weights cannot be found per group."""
        raise ValueError(f"{self.name}: groups= needs a method that finds weights from the Gramian alone")

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
