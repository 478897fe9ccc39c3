"""Defaults of the model contract, :class:`balancing.MultiObjectiveModel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase


class BaseModel(nn.Module, PyTorchModelHubMixin):
    """One phase, outputs by way of the features, and parameters by objective.

    A subclass sets ``objectives`` and defines ``features``, ``heads``, ``networks`` and :meth:`head_parameters`. Weights and
    arguments are stored by ``save_pretrained`` and restored by ``from_pretrained``. All models raise ValueError, naming the
    argument, for a size or an option out of range, for no objectives and for an objective named twice.
    """

    objectives: tuple[str, ...]
    features: Callable[..., Any]  # inputs -> what the heads read
    heads: Callable[[Any], dict[str, Tensor]]  # features -> one output per objective
    networks: Callable[[], dict[str, nn.Module]]  # the parts that may have an optimizer each

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all objectives together."""
        return (Phase("train", self.objectives),)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Inputs -> one output per objective."""
        return self.heads(self.features(x))

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that no objective but ``name`` can reach."""
        raise NotImplementedError

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that only ``name`` reaches; all parameters if it is the only objective."""
        return self.head_parameters(name) if len(self.objectives) > 1 else list(self.parameters())

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that are of no single objective."""
        own = {parameter for name in self.objectives for parameter in self.objective_parameters(name)}
        return [parameter for parameter in self.parameters() if parameter not in own]

    @classmethod
    def _from_pretrained(cls, **arguments: Any) -> Self:
        if "pretrained" in arguments:
            arguments["pretrained"] = False  # those weights would be downloaded, only to be replaced
        return super()._from_pretrained(**arguments)


class TrunkModel(BaseModel):
    """A trunk that is shared by all objectives, and a head per objective on its output.

    Args:
        trunk: Module from inputs to features.
        head: Objective -> module from features to its output.
    """

    def __init__(self, trunk: nn.Module, head: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.objectives = tuple(head)
        self.trunk = trunk
        self.head = nn.ModuleDict(head)

    def features(self, x: Tensor) -> Any:
        """Inputs -> output of the trunk."""
        return self.trunk(x)

    def heads(self, features: Any) -> dict[str, Tensor]:
        """Features -> one output per objective."""
        return {name: head(features) for name, head in self.head.items()}

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name``."""
        return list(self.head[name].parameters())

    def networks(self) -> dict[str, nn.Module]:
        """The trunk and the heads, for an optimizer each."""
        return {"trunk": self.trunk, "heads": self.head}
