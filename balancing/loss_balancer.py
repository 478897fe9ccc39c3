"""Balancers that take one backward: weights from the losses or from the step alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from .base import Balancer
from .hints import warn_if_idle
from .measuring.gradients import Gradients
from .measuring.graph import LossGraph
from .measuring.processes import several_processes
from .micro_batches import Part
from .options import ABOUT_GRADIENTS, ABOUT_WEIGHTS, Refused
from .report import BalanceReport
from .step_method import LossWeights


class LossBalancer(Balancer):
    """Weights from the values of the losses: one ordinary backward of the weighted sum.

    A method overrides :meth:`compute_weights`. Options about gradients have no meaning.
    """

    needs = "losses"
    refused: ClassVar[tuple[Refused, ...]] = ABOUT_GRADIENTS
    #: Whether the weights are the same at every step, so that they are computed once.
    constant: ClassVar[bool] = False
    _known: Tensor | None = None  # weights that never change

    @abstractmethod
    def compute_weights(self, losses: Tensor) -> Tensor:
        """(K,) losses -> (K,) weights, without options. Called under ``torch.no_grad()``.

        A call advances the state of methods that have one (running means, draws), as a step does.
        """

    def effective_weights(self, losses: Tensor, loss_weights: Tensor | None = None) -> Tensor:
        """(K,) weights with every option applied.

        ``loss_weights`` are the (K,) weights that a method before this one gives to the losses.
        """
        known = self._known if loss_weights is None else None
        if known is not None and known.dtype == losses.dtype and known.device == losses.device:
            return known
        losses = losses.to(self.cache.weights.device)
        rescaled = self.rescaling.before(losses, loss_weights)
        raw = self._raw_weights(rescaled.losses)
        warn_if_idle(self)
        weights = self.cache.store(self.rescaling.after(raw, rescaled), self.step)
        if self.constant and loss_weights is None and not self.options.log_losses:
            self._known = weights
        return weights

    def current_weights(self, losses: Tensor, first: LossWeights | None = None) -> Tensor:
        """:meth:`effective_weights`, or the last ones, between updates of ``update_every``."""
        if self.step % self.options.update_every != 0 and self.cache.reusable():
            return self.cache.weights
        return self.effective_weights(losses, None if first is None else first(losses))

    def _raw_weights(self, losses: Tensor) -> Tensor:
        return self._call(self.compute_weights, losses)

    def _weighs_at_once(self, first: LossWeights | None, whole: bool, waits: bool) -> bool:
        return whole

    def narrowed_to(self, indices: Sequence[int]) -> None:
        super().narrowed_to(indices)
        self._known = None

    def _loss_weights(self, losses: Tensor, first: LossWeights | None) -> Tensor:
        return self.effective_weights(losses, None if first is None else first(losses))

    def _balance(
        self, graph: LossGraph, parts: list[Part], first: LossWeights | None, reused: Tensor | None
    ) -> BalanceReport:
        (total,) = parts
        total.gradients.synchronize()
        if not self.finite(total.losses, "loss"):
            return self.skip(total.losses)
        weights = self._loss_weights(total.losses, first) if reused is None else reused
        gradients = total.gradients if several_processes() else _reached(total.gradients)
        self.place.write(graph, gradients, weights, None, lambda: gradients.combine(weights.tolist()))
        return self.finish(total.losses, weights)


class Scalarization(LossBalancer):
    """A scalar function of the losses, maybe with parameters, whose derivatives are weights."""

    @abstractmethod
    def loss(self, losses: Tensor) -> Tensor:
        """(K,) losses -> the scalar to minimize, differentiable in them and in own parameters."""

    def compute_weights(self, losses: Tensor) -> Tensor:
        """(K,) derivatives of :meth:`loss`. A call adds to ``.grad`` of the method's parameters."""
        leaf = losses.detach().requires_grad_()
        own = [parameter for parameter in self.parameters(recurse=False) if parameter.requires_grad]
        with torch.enable_grad():
            weights, *gradients = torch.autograd.grad(self.loss(leaf), [leaf, *own])
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return weights

    def _raw_weights(self, losses: Tensor) -> Tensor:
        return self.compute_weights(losses)


class ScheduleBalancer(LossBalancer):
    """Weights from the step, the epoch or chance alone, not from the values of the losses.

    Each micro-batch takes its backward at once, and there are no weights to keep or smooth.
    """

    needs = "nothing"
    refused = (*ABOUT_GRADIENTS, *ABOUT_WEIGHTS)

    def _weighs_at_once(self, first: LossWeights | None, whole: bool, waits: bool) -> bool:
        # the priorities of those that are present have mean 1, so that they depend on which these are
        certain = not waits or (self.constant and self.options.preference is None)
        return whole or (first is None and not self.options.log_losses and certain)


def _reached(gradients: Gradients) -> Gradients:
    """The gradients without inputs that no objective whose turn it is reaches."""
    kept = [p for p in range(len(gradients.inputs)) if any(row[p] is not None for row in gradients.rows)]
    rows = [[row[p] for p in kept] for row in gradients.rows]
    return replace(gradients, inputs=[gradients.inputs[p] for p in kept], rows=rows, matrix=None, vectors=None)
