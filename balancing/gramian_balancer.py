from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from .gradient_balancer import GradientBalancer, Measured
from .measuring.gradients import Direction


class GramianBalancer(GradientBalancer):
    """Weights from the Gramian of the gradients, the (K, K) matrix of their inner products."""

    needs = "gramian"

    @abstractmethod
    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        """(K,) losses and (K, K) Gramian -> (K,) weights, without options.

        Called under ``torch.no_grad()``, with float64 tensors on the CPU.
        A call advances the state of methods that have one (running means, draws), as a step does.
        """

    def effective_weights(self, losses: Tensor, gramian: Tensor, loss_weights: Tensor | None = None) -> Tensor:
        """(K,) weights with every option applied.

        Args:
            losses: (K,) losses, float64 on the CPU.
            gramian: (K, K) inner products of the gradients.
            loss_weights: (K,) weights that a method before this one gives to the losses.
        """
        rescaled = self.rescaling.before(losses, loss_weights, gramian)
        raw = self._call(self.compute_weights, rescaled.losses, rescaled.of(gramian))
        self.warn_if_idle(stacklevel=6)
        return self.cache.store(self.rescaling.after(raw, rescaled), self.step)

    def _direction(self, measured: Measured, loss_weights: Tensor | None) -> tuple[Tensor | None, Direction]:
        weights = self.effective_weights(measured.losses, measured.samples, loss_weights)
        return weights, measured.combination(weights, self.options.max_norm)
