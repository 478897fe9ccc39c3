"""What a model and a training loop agree on: phases, and which parameters are contested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Phase:
    """One turn of optimization. A cooperative model has one; a GAN has two.

    Args:
        name: Passed to the task, which computes the losses of this phase.
        objectives: The objectives minimized in this phase, in order.
        networks: Keys of ``model.networks()`` that are updated; ``None`` updates the whole model.
        steps: Updates that the phase takes on each batch, such as a critic's.
    """

    name: str
    objectives: tuple[str, ...]
    networks: tuple[str, ...] | None = None
    steps: int = 1


@runtime_checkable
class MultiObjectiveModel(Protocol):
    """The model contract: plain tensors in, one output per objective out."""

    objectives: tuple[str, ...]

    @property
    def phases(self) -> tuple[Phase, ...]: ...

    def features(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the heads read; gradients may be balanced here with ``at="features"``."""

    def heads(self, features: Tensor | tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """One output per objective."""

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """The parameters that more than one objective reaches."""

    def objective_parameters(self, name: str) -> Sequence[nn.Parameter]:
        """The parameters that only objective ``name`` reaches."""

    def networks(self) -> Mapping[str, nn.Module]:
        """The parts that may have an optimizer each; together they hold every parameter."""


@runtime_checkable
class PreferenceModel(Protocol):
    """A model that reads a preference besides its inputs, as those for a whole Pareto front do.

    A training loop gives it that of each step: ``model.set_preference(balancer.draw())``.
    """

    def set_preference(self, preference: Tensor | Mapping[str, float] | None = None) -> None:
        """Read this preference from now on, (K,) or by name; ``None``: equal for all objectives."""
