"""Multi-gate mixture of experts: a pool of networks, and for each objective a gate that says how much to take of which.

All experts see the input, and so do the gates. A gate gives each sample its own proportions, so objectives that fit
together can lean on the same experts, and those that do not can part.

    x (B, in_features) -> [Linear -> SiLU -> dropout] x depth, by each expert -> features (B, experts, width)
      |                                                                            |
      |-> gate a: Linear -> softmax (B, experts) ------------------------> weighted mean -> tower a -> a
      |-> gate b: Linear -> softmax (B, experts) ------------------------> weighted mean -> tower b -> b

Shared parameters: the experts. Gates and towers belong to one objective each.
Features for ``at="features"``: the outputs of the experts. The input goes with them, for the gates are part of the heads.
Origin: J. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.

    model = create_model("mmoe", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    outputs = model(x)                          # {"cut": (B, 5), "price": (B, 1)}
    balancer.backward({"cut": cross_entropy(outputs["cut"], y), "price": mse_loss(outputs["price"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from zoo.registry import ModelInfo, register_model

__all__ = ["MMoE", "mmoe"]


def _mlp(inputs: int, width: int, depth: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(width if index else inputs, width), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class MMoE(nn.Module, PyTorchModelHubMixin):
    """MLP experts, with a gate and an MLP tower per objective.

    Args:
        in_features: Number of inputs.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        experts: Number of experts, at least 1.
        width: Units of every hidden layer of experts and towers.
        depth: Number of hidden layers of an expert, at least 1.
        tower_depth: Number of hidden layers between an objective's mixture and its linear output; may be 0.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.

    Raises:
        ValueError: No objectives, an objective named twice, or a value out of range.
    """

    def __init__(
        self,
        in_features: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        experts: int = 4,
        width: int = 96,
        depth: int = 3,
        tower_depth: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {**classifiers, **regressors}
        if not sizes or len(sizes) < len(classifiers) + len(regressors):
            raise ValueError("mmoe needs at least one objective, and a different name for each")
        if min(in_features, experts, width, depth, *sizes.values()) < 1 or tower_depth < 0:
            raise ValueError(
                "mmoe: in_features, experts, width, depth and the size of every head must be at least 1, tower_depth 0"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"mmoe: dropout must be in [0, 1), got {dropout}")
        self.objectives = tuple(sizes)
        self.experts = nn.ModuleList(_mlp(in_features, width, depth, dropout) for _ in range(experts))
        self.gate = nn.ModuleDict({name: nn.Linear(in_features, experts) for name in sizes})
        self.head = nn.ModuleDict(
            {
                name: nn.Sequential(*_mlp(width, width, tower_depth, dropout), nn.Linear(width, size))
                for name, size in sizes.items()
            }
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all objectives together."""
        return (Phase("train", self.objectives),)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_features) -> outputs of the experts (B, experts, width), and x itself for the gates."""
        return torch.stack([expert(x) for expert in self.experts], dim=1), x

    def heads(self, features: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """(B, experts, width) and (B, in_features) -> one output per objective."""
        experts, x = features
        return {name: head(self._mixture(name, experts, x)) for name, head in self.head.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, in_features) -> one output per objective."""
        return self.heads(self.features(x))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The experts, if more than one objective reaches them."""
        return list(self.experts.parameters()) if len(self.objectives) > 1 else []

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The gate and the tower of ``name``, and the experts if nothing else uses them."""
        own = [*self.gate[name].parameters(), *self.head[name].parameters()]
        return own if len(self.objectives) > 1 else [*self.experts.parameters(), *own]

    def networks(self) -> dict[str, nn.Module]:
        """The experts, the gates and the towers, for an optimizer each."""
        return {"experts": self.experts, "gates": self.gate, "heads": self.head}

    def _mixture(self, name: str, experts: Tensor, x: Tensor) -> Tensor:
        shares = self.gate[name](x).softmax(dim=1)
        return (shares[:, :, None] * experts).sum(dim=1)


@register_model(
    ModelInfo(
        summary="MLP experts, mixed by a gate per objective, for tables",
        inputs="x (B, in_features)",
        objectives="any number of classifiers and regressors",
        default_task="diamonds",
        origin="Ma et al., KDD 2018",
    )
)
def mmoe(
    in_features: int,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    experts: int = 4,
    width: int = 96,
    depth: int = 3,
    tower_depth: int = 1,
    dropout: float = 0.0,
) -> MMoE:
    """The experts of :class:`MMoE`."""
    return MMoE(in_features, classifiers, regressors, experts, width, depth, tower_depth, dropout)
