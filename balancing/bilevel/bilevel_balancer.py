from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import BalancingError, NonFiniteError, SolverError
from ..hints import warn_if_idle
from ..measuring.agreement import require_one_method
from ..measuring.call import tensor_list
from ..measuring.processes import several_processes
from ..measuring.writing import add_grad
from ..method import Method
from ..narrowing import for_some
from ..options import ABOUT_GRADIENTS, ABOUT_WEIGHTS, Refused
from ..recomputation import buffers_unmoved
from ..report import BalanceReport
from .lookahead import Closure, Lookahead


class BilevelBalancer(Method):
    """A method that learns weights by their effect on other data, in ``meta_backward``.

    A method overrides :meth:`look_ahead`. What it learns is ``alpha``, one number per objective: give
    ``balancer.parameters()`` to an optimizer of its own. Both gradients are found before either optimizer steps, so the
    model moves with the weights that were learned up to the step before. A virtual step is plain gradient descent whatever
    the model's optimizer is, so it is of little use for losses so large that a step of this size overshoots: scale them
    first, or by ``preference``. Most options have no meaning.

    >>> report = balancer.meta_backward(
    ...     model, lambda net: task.losses(net, batch), lambda net: task.losses(net, other_batch), lr=optimizer_lr
    ... )
    """

    needs = "validation"
    preference_on = "method"
    refused = (
        *ABOUT_GRADIENTS,
        *ABOUT_WEIGHTS,
        Refused("log_losses", "compares losses on two batches as they are, so log_losses= has no meaning"),
    )
    alpha: nn.Parameter
    _met = False  # whether the other processes are known to use the same method

    @abstractmethod
    def look_ahead(self, ahead: Lookahead) -> tuple[Tensor, list[Tensor], Tensor]:
        """(K,) weights, a gradient per tensor of ``ahead.parameters``, and (K,) that of alpha."""

    def meta_backward(
        self,
        model: nn.Module,
        train: Closure,
        validation: Closure,
        *,
        lr: float,
        parameters: Sequence[Tensor] | None = None,
    ) -> BalanceReport:
        """Add the gradients of the model's parameters and of the balancer's own to ``.grad``.

        ``train`` is called once with the model as it is: that call alone moves buffers (BatchNorm) and the random state.
        All other calls see the model with virtual parameters, copies of its buffers and the same random numbers, so the
        model's values stay as they are, and no copy of the model is made. In several processes gradients and losses
        are averaged before each virtual step, so all take the same. A preference multiplies the losses on both batches.

        Args:
            model: Its trainable parameters that the training losses reach receive gradients.
            train: The losses of a training batch. ``None``: absent from this step, so that its alpha rests.
            validation: The same losses on data that the step does not train on; ``None`` where there are no data.
            lr: Step size of the virtual gradient step: the current learning rate of the model's optimizer.
            parameters: Only these receive gradients and take part in the virtual step; all if not given.

        Raises:
            ValueError: Missing or unknown objectives, parameters that are no list of tensors, or a learning rate that is not a
                finite number of at least 0.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed.
        """
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"{self.name}: lr must be finite and not negative, got {lr}")
        if parameters is not None:
            parameters = tensor_list(self.name, "parameters=", parameters)
        if several_processes() and not self._met:
            require_one_method(self.name, self.objectives, self.options)
            self._met = True
        ahead = Lookahead(self.name, self.objectives, self.preference, model, train, validation, float(lr), parameters)
        if all(ahead.present):
            return self._step(ahead)
        if not ahead.indices:
            return BalanceReport.nothing(self.objectives, ahead.means, self.skips)
        report = for_some(self, ahead.indices, lambda method: method._step(ahead))
        return report.among(self.objectives, ahead.present)

    def __getattr__(self, name: str) -> Any:
        if name == "backward":
            raise AttributeError(
                f"{self.name}: call meta_backward(model, train, validation, lr=...) instead of backward"
            )
        return super().__getattr__(name)

    def _step(self, ahead: Lookahead) -> BalanceReport:
        if not self.finite(ahead.means, "loss"):
            return self.skip(ahead.means)
        try:
            with buffers_unmoved:
                weights, gradients, slope = self.look_ahead(ahead)
            if not bool(slope.isfinite().all()):
                raise NonFiniteError(f"{self.name}: the gradient of its weights is not finite; is lr too large?")
        except NonFiniteError:
            if self.options.on_nonfinite == "raise":
                raise
            return self.skip(ahead.means)
        except SolverError as error:
            raise BalancingError(f"{self.name}: {error}") from error
        warn_if_idle(self)
        for leaf, gradient in zip([*ahead.parameters, self.alpha], [*gradients, slope.to(self.alpha)], strict=True):
            add_grad(leaf, gradient)
        return self.finish(ahead.means, weights * self.preference.to(weights))
