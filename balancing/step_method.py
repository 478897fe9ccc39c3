from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from .measuring.agreement import Agreement
from .measuring.call import Call
from .measuring.features import PLACES, find_place
from .measuring.gradients import Gradients
from .measuring.graph import LossGraph
from .measuring.looped import Out
from .measuring.processes import several_processes
from .measuring.sharing import Sharing
from .method import Method
from .micro_batches import MicroBatches, Part, Step, prepare, united
from .options import BalancerOptions
from .own_gradients import OwnGradients
from .report import BalanceReport
from .rescaling import Rescaling
from .sampling import ObjectiveSampling
from .surroundings import known_weights
from .weight_cache import WeightCache

#: (K,) losses -> (K,) weights of a method that comes first.
LossWeights = Callable[[Tensor], Tensor]


class StepMethod(Method):
    """One step of a :class:`balancing.Balancer` whose objectives are all present.

    The kinds complete it: what they measure, and what becomes of that.

    Attributes:
        head_weights: (K,) factors of the gradients of heads at the last step; ``None``: the weights of the objectives.
        alone: Whether the other objectives are absent, so that a method that measures gradients is not asked for the weight.
    """

    #: Whether micro-batches are kept apart as two samples, so that the Gramian becomes an unbiased estimate.
    unbiased: ClassVar[bool] = False
    #: Whether ``memory`` holds gradients, which must then have the same size at every step.
    remembers: ClassVar[bool] = False
    #: Whether each step has a preference of its own, which :meth:`draw` gives beforehand.
    draws: bool = False
    #: Whether weights may be found for groups of parameters one by one.
    per_group: bool = False
    head_weights: Tensor | None = None
    alone: bool = False

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        size, sample = len(self.objectives), self.options.sample
        problem = f"sample must be at least 2 and below the number of objectives, {size}, got {sample}"
        self.reject(sample is not None and sample >= size, f"{problem}; it needs three objectives or more")
        self.draw_always(None)
        self.cache = WeightCache(len(self.objectives), self.options.update_every, self.options.weight_ema)
        self.micro_batches, self.own_gradients = MicroBatches(apart=self.unbiased), OwnGradients()
        self.place, self.sharing = PLACES[self.options.at], Sharing(self.name)
        self._agreement = Agreement(self.name, self.objectives, self.options)
        self._out: Out | None = None

    def draw_always(self, index: int | None) -> None:
        """Have the objective ``index`` in each draw of ``sample``. Called when a method is made."""
        self.sampling = ObjectiveSampling(len(self.objectives), self.options.sample, index)
        self._shares = self.sampling.factors()
        self.rescaling = Rescaling.of(self, self._shares)

    def active(self) -> tuple[int, ...] | None:
        """Indices of the objectives that the coming step differentiates; ``None``: all."""
        return None

    def draw(self) -> Tensor:
        """(K,) preference of the coming step, of sum 1, for a model that reads it.

        It is the option ``preference``, unless the method :attr:`draws`, and the same for all micro-batches of a step.
        """
        return (self.preference / len(self.objectives)).float()

    def update(self, losses: Tensor) -> None:
        """Learn from the (K,) losses given to :meth:`observe`. Called under ``torch.no_grad()``."""

    def _backward(self, step: Step, first: LossWeights | None, call: Call) -> BalanceReport:
        """:meth:`backward` of the losses times the weights that ``first`` gives to them."""
        if call.groups is not None:
            self.check_groups()
        problem = (
            "memory='lean' cannot collect micro-batches, of whose gradients the sum is balanced; use memory='full'"
        )
        self.reject(not call.last and self.options.memory == "lean", problem)
        losses = step.losses
        means = losses.means if step.summed is None else step.summed + losses.means
        reused: Tensor | None = None
        known, active = None, self.active()
        if call.weights_of is not None or call.create_graph:
            known, active = known_weights(self, call, active, bool(step.parts))
        coming = () if step.waits else step.present  # who waits may come without a weight to take
        between = self.step % self.options.update_every != 0
        if known is None and between and not self.alone and self.cache.reusable(coming, step.summed is not None):
            known = self.cache.weights.clone()
        at_once = self._weighs_at_once(first, call.last and not step.parts, step.waits or bool(step.parts))
        if step.mixed() and not at_once and call.weights_of is None:
            active = None
        if self.alone and not self.options.max_norm:
            call = call._replace(shared=None)
        chosen = losses.differentiated(active)
        graph = LossGraph(self.name, self.objectives, losses, call, chosen, self.sharing, self.remembers)
        waits = bool(step.parts) or (self.head_rule == "unit" and step.summed is None and step.mixed())
        if known is not None and waits:
            self.reject(call.weights_of is not None, "weights_of= needs every objective in each micro-batch")
            reused, known = known, None  # what is contested is known with the last micro-batch alone
        weighs = known is not None or at_once or step.summed is not None
        tensors = find_place(graph, self._agreement, "shared" if self.alone else self.options.at, call, weighs)
        if weighs:
            if step.reached and call.shared is None:
                graph.reached_anywhere(united(self.name, step.reached, graph.masks()))
            return self._weigh(graph, means, first, known, call.last)
        self.reject(call.create_graph, "create_graph=True needs the whole batch in one call")

        out = self._out if call.last and not step.parts else None
        # a sum over micro-batches has no Gramian before it is known
        place = self.place if call.last and not step.parts else PLACES["shared"]
        rows = Gradients.none(len(losses.values)) if graph.active == () else place.rows(graph, tensors, out)
        part = Part(losses.means, rows, losses.present)
        self._check(part, graph)
        if self.measures and active is None and self.active() is not None and call.shared is None:
            self.sharing.learn(rows, self.objectives, complete=True)  # before the others' rows are dropped
        parts = self.micro_batches.join(step.parts, part)
        if not call.last:
            self.micro_batches.keep(part.leaves(), parts)
            return BalanceReport(self.objectives, torch.stack([p.losses for p in parts]).sum(0), skips=self.skips)
        if step.parts:
            prepare(parts, call.shared is None, self.active())
        return self._balance(graph, parts, first, reused)

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
            self.micro_batches.reached = dict(graph.masks()) if self.head_rule == "unit" else {}
            return BalanceReport(self.objectives, losses, skipped=not finite, skips=self.skips)
        return self.finish(losses, weights) if finite else self.skip(losses)

    def narrowed_to(self, indices: Sequence[int]) -> None:
        self.rescaling = Rescaling.of(self, self._shares)
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

    def _check(self, part: Part, graph: LossGraph) -> None:
        """Raise BalancingError for gradients that cannot be balanced."""

    def _balance(
        self, graph: LossGraph, parts: list[Part], first: LossWeights | None, reused: Tensor | None
    ) -> BalanceReport:
        """Add the balanced sum of all micro-batches to ``.grad``.

        ``reused`` are (K,) weights of an earlier step that this one takes; ``None``: they are to be found.
        """
        raise TypeError(f"{self.name}: derive from a kind, such as LossBalancer or GramianBalancer, not from Balancer")

    def _observe(self, means: Tensor, factors: Tensor | None) -> None:
        if self.observes and self.finite(means, "loss"):
            with torch.no_grad():
                self.update(means if factors is None else means * factors.to(means))
