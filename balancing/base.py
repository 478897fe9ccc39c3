from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .compiled import checked_backwards
from .measuring.call import Call
from .measuring.step_losses import where
from .narrowing import for_some
from .objectives import ordered_losses
from .recomputation import buffers_unmoved
from .report import BalanceReport
from .step_method import StepMethod
from .surroundings import surroundings


class Balancer(StepMethod):
    """Turns K losses into gradients. ``backward`` stands in for ``sum(losses).backward()``.

    The kinds are :class:`LossBalancer` and :class:`Scalarization` (one backward), :class:`GramianBalancer` (weights from
    inner products of the gradients), :class:`JacobianBalancer` and :class:`RowBalancer` (whole gradients), and
    :class:`Composed`. A method is a subclass of one of them with its formula in one function.
    A balancer with parameters (``uncertainty``, ``gradnorm``) needs them in an optimizer, without weight decay.
    Gradient methods do their K x K arithmetic on the CPU in float64, loss methods theirs where their state lives.
    """

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
            scaler: A GradScaler whose ``step`` will follow: ``.grad`` is scaled, weights follow from true gradients. It scales the
                losses itself: give them unscaled.
            last: False only collects the gradients of a micro-batch; the weights follow from the sum with the last.
            groups: Name -> parameters, such as ``group_parameters(model, "layer")``: weights are found for each group from its
                part of the gradients. Contested parameters in no group form the group ``others``.
            retain_graph: Whether the graph of the losses is kept, as by ``Tensor.backward``.
            create_graph: Whether ``.grad`` gets a graph, of the sum with constant weights (loss methods only).
            advance: False leaves the state as it is: the gradients are those of the coming step, which is not counted.
            weights_of: A report of the same step, whose weights are used once more; the state stays as it is.

        Returns:
            Losses, weights and, if measured, the Gramian. Its tensors may still be on their way from the device.
            If it is ``skipped``, there is nothing to step with.

        Raises:
            ValueError: Missing or unknown objectives, missing ``features`` or ``subset``, an argument of the wrong type, or one
                that the method or an option of it excludes.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed; parameters that moved
                while micro-batches waited; a graph that cannot be differentiated per objective (a reentrant checkpoint,
                a compiled backward that runs once), or that differs between processes in an unknown way.
        """
        given = (shared, parameters, features, subset, scaler, last, groups)
        call = Call(*given, retain_graph, create_graph, advance, weights_of).checked(self.name)
        with surroundings(self, self.own_gradients, call), buffers_unmoved:
            if not self.measures:
                return self._over_present(losses, call)
            with checked_backwards(self.name, losses):
                return self._over_present(losses, call)

    def discard(self) -> None:
        """Forget the micro-batches of a step that was given up after ``last=False``.

        A method whose weights do not depend on the losses has added their gradients to ``.grad``, which ``zero_grad`` clears.
        """
        self.micro_batches.discard()
        self.sampling.forget()

    def _over_present(self, losses: Mapping[str, Tensor | None], call: Call) -> BalanceReport:
        """A step of the objectives that are present, by a copy for these if they are not all."""
        earlier = self.micro_batches.take(self.name)  # forgotten if this call fails
        now = self._agreement.losses(lambda: ordered_losses(self.name, self.objectives, losses))
        if self.options.sample is not None:
            self.reject(call.weights_of is not None, "weights_of= needs the same objectives, which sample= draws anew")
            now = self.sampling.of(self, now, call.last)
        step = earlier.step(now, call.last)
        self.micro_batches.seen = step.present
        if all(step.present):
            return self._backward(step, None, call)
        if not call.last:
            report = self._backward(step, None, call)
            self.micro_batches.present = step.present
            return report.masked(step.present)
        some = where(step.present)
        if not some:
            return BalanceReport.nothing(self.objectives, step.losses.means, self.skips)
        report = for_some(self, some, lambda method: method._backward(step.among(some), None, call))
        return report.among(self.objectives, step.present)

    def observe(self, losses: Mapping[str, Tensor | None]) -> None:
        """Give a method with ``observes`` the batch's losses after the optimizer's step.

        Other methods ignore the call. An objective that is absent here (``None``), or was from the step, rests.

        Args:
            losses: Name -> scalar tensor, which needs no graph.

        Raises:
            ValueError: Missing or unknown objectives, or a loss that is no scalar.
            BalancingError: A loss that is not finite.
        """
        if not self.observes:
            return
        now = self._agreement.losses(lambda: ordered_losses(self.name, self.objectives, losses, False))
        if some := where(map(min, now.present, self.micro_batches.seen or now.present)):
            means = now.means[some].to(self.cache.weights.device)
            with self.own_gradients.scaled_again(list(self.parameters())):
                for_some(self, some, lambda method: method._observe(means, None))
