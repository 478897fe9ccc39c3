"""Multi-gate mixture of experts: a pool of networks, and a gate per objective.

The gate of an objective mixes the outputs of the networks. Experts and gates read the input. A gate gives every sample its own
proportions, so objectives that agree can use the same experts, and objectives that conflict can use different ones.

    x (B, in_features) -> [Linear -> SiLU -> dropout] x depth, by each expert -> features (B, experts, width)
      |                                                                            |
      |-> gate a: Linear -> softmax (B, experts) ------------------------> weighted mean -> tower a -> a
      |-> gate b: Linear -> softmax (B, experts) ------------------------> weighted mean -> tower b -> b

Shared parameters: the experts. Gates and towers belong to one objective each.
Features for ``at="features"``: the outputs of the experts, and the input, which the gates read: they are part of the heads.
Origin: J. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.

    model = create_model("mmoe", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    outputs = model(x)                          # {"cut": (B, 5), "price": (B, 1)}
    balancer.backward({"cut": cross_entropy(outputs["cut"], y), "price": mse_loss(outputs["price"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least, check_dropout, head_sizes
from zoo.registry import register_model
from zoo.tables import category_embedding, embed, embedding_network, mlp, table_info, towers


class Experts(nn.ModuleList):
    """Networks with the same input."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, experts, width)."""
        return torch.stack([expert(x) for expert in self], dim=1)


def mixture(gate: nn.Module, x: Tensor, experts: Tensor) -> Tensor:
    """(B, width, ...): mean of experts (B, experts, width, ...), weighted by the gate of x."""
    shares = gate(x).softmax(dim=1)
    return (shares.view(*shares.shape, *[1] * (experts.dim() - 2)) * experts).sum(dim=1)


def mean_gate(gate: nn.Module, x: Tensor, experts: Sequence[str]) -> dict[str, float]:
    """Expert -> its share by a gate that reads x (B, inputs), mean over the samples."""
    return dict(zip(experts, gate(x).softmax(dim=1).mean(dim=0).tolist(), strict=True))


@register_model("mmoe", table_info("MLP experts, mixed by a gate per objective, for tables", "Ma et al., KDD 2018"))
class MMoE(BaseModel):
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
        categories: For each column of codes, how many codes it has; empty: the model takes numbers alone.
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
        categories: Sequence[int] = (),
    ) -> None:
        super().__init__()
        sizes = head_sizes("mmoe", classifiers, regressors)
        check_at_least("mmoe", 1, experts=experts, width=width, depth=depth)
        check_at_least("mmoe", 0, tower_depth=tower_depth)
        check_dropout("mmoe", dropout)
        self.objectives = tuple(sizes)
        self.categories = tuple(categories)
        self.embedding, inputs = category_embedding("mmoe", in_features, categories)
        self.experts = Experts(mlp(inputs, width, depth, dropout) for _ in range(experts))
        self.gate = nn.ModuleDict({name: nn.Linear(inputs, experts) for name in sizes})
        self.head = towers(sizes, width, tower_depth, dropout)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> dict[str, Tensor]:
        """(B, in_features), and (B, columns) with categories -> one output per objective."""
        return self.heads(self.features(x, codes))

    def features(self, x: Tensor, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, in_features) -> outputs of the experts (B, experts, width), and x for the gates."""
        x = embed(self.embedding, x, codes)
        return self.experts(x), x.view_as(x)  # a copy: no feature may be computed from another

    def heads(self, features: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """(B, experts, width) and (B, in_features) -> one output per objective."""
        experts, x = features
        return {name: head(mixture(self.gate[name], x, experts)) for name, head in self.head.items()}

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The gate and the tower of ``name``."""
        return [*self.gate[name].parameters(), *self.head[name].parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The experts, the gates and the towers, for an optimizer each."""
        own = {"experts": self.experts, "gates": self.gate, "heads": self.head}
        return {**own, **embedding_network(self.embedding)}

    def sharing(self, x: Tensor, codes: Tensor | None = None) -> dict[str, dict[str, float]]:
        """Objective -> share of each expert, mean over the samples."""
        x = embed(self.embedding, x, codes)
        names = [f"expert {k + 1}" for k in range(len(self.experts))]
        return {name: mean_gate(gate, x, names) for name, gate in self.gate.items()}
