from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from .gradient_balancer import GradientBalancer, Measured
from .hints import warn_if_idle
from .measuring.gradients import Direction
from .measuring.lean import Lean
from .measuring.looped import AtShared
from .measuring.small import SmallRows
from .options import BalancerOptions


class GramianBalancer(GradientBalancer):
    """Weights from the Gramian of the gradients, the (K, K) matrix of their inner products."""

    needs = "gramian"
    per_group = True

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self._out = SmallRows().out
        if self.options.at == "shared" and self.options.memory != "full":
            self.place = AtShared(Lean(self.name, asked=self.options.memory == "lean"))

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
        warn_if_idle(self)
        return self.cache.store(self.rescaling.after(raw, rescaled), self.step)

    def check_groups(self) -> None:
        """Raise ValueError if weights cannot be found per group."""
        options = self.options
        rules = [
            (not self.per_group, "keeps state of the whole gradients from step to step, so groups= has no meaning"),
            (options.at != "shared", f"groups= needs at='shared', not at={options.at!r}"),
            (
                self.cache.keeps,
                "keeps one weight per objective for update_every= and weight_ema=, so groups= excludes them",
            ),
        ]
        for excluded, reason in rules:
            if excluded:
                raise ValueError(f"{self.name}: {reason}")

    def _direction(self, measured: Measured, loss_weights: Tensor | None) -> tuple[Tensor | None, Direction]:
        if measured.groups:
            return self._per_group(measured, loss_weights)
        weights = self.effective_weights(measured.losses, measured.samples, loss_weights)
        return weights, measured.combination(weights, self.options.max_norm)

    def _per_group(self, measured: Measured, loss_weights: Tensor | None) -> tuple[Tensor, Direction]:
        """The mean of the groups' weights, by their numbers of coordinates, and the combination."""
        square = torch.zeros((), dtype=torch.float64)
        mean = torch.zeros(len(self.objectives), dtype=torch.float64)
        size = sum(tensor.numel() for tensor in measured.gradients.inputs)
        for group in measured.groups:
            group.weights = self.effective_weights(measured.losses, group.gramian, loss_weights)
            mean += group.weights * (sum(tensor.numel() for tensor in group.gradients.inputs) / size)
            square += (group.weights @ group.gramian @ group.weights).clamp(min=0)
        limit = self.options.max_norm
        factor = 1.0 if limit == 0 else float((limit / square.sqrt()).clamp(max=1.0))

        def combination() -> list[Tensor]:
            combined: dict[Tensor, Tensor] = {}
            for group in measured.groups:
                if group.weights is not None:
                    parts = group.gradients.combine((group.weights * factor).tolist())
                    combined |= zip(group.gradients.inputs, parts, strict=True)
            return [combined[leaf] for leaf in measured.gradients.inputs]

        return mean, combination
