"""Cross-stitch networks: a tower per objective, and learned exchanges between the towers.

No part is shared by design. Every tower reads the whole input; after each hidden layer every unit of every tower becomes
a linear mix of the same unit in all towers. A mix starts near the identity, and training decides how much to share where.

    x (B, in_features) -> tower a: [Linear -> SiLU -> dropout] --+--> mix a --> and again, depth times --> Linear --> a
                       -> tower b: [Linear -> SiLU -> dropout] --+--> mix b --> and again, depth times --> Linear --> b
                                                                 |
                                                  the last time: features (B, objectives, width)

Shared parameters: all towers, and all mixes but the last, as the last mix lets every objective read every tower.
Features for ``at="features"``: the input of the last mix; an objective's row of this mix belongs to its head.
Origin: I. Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016. Differs in that the towers start with
random weights; there they are networks trained on one objective first.

    model = create_model("cross_stitch", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    outputs = model(x)                          # {"cut": (B, 5), "price": (B, 1)}
    balancer.backward({"cut": cross_entropy(outputs["cut"], y), "price": mse_loss(outputs["price"], z)})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least, check_dropout, head_sizes
from zoo.registry import register_model
from zoo.tables import category_embedding, embed, embedding_network, mlp, table_info


def mix(names: Sequence[str], width: int, own: float) -> nn.ParameterDict:
    """Objective -> share of each tower, unit by unit (towers, width)."""
    rest = (1 - own) / (len(names) - 1)
    shares = rest + (own - rest) * torch.eye(len(names))
    return nn.ParameterDict({name: row[:, None].repeat(1, width) for name, row in zip(names, shares, strict=True)})


def mean_shares(place: str, names: Sequence[str], mixes: nn.ModuleList) -> dict[str, dict[str, float]]:
    """``place``, number and objective -> share of each tower in its mix, mean over units."""
    return {
        f"{place} {index}, {name}": dict(zip(names, rows[name].mean(dim=1).tolist(), strict=True))
        for index, rows in enumerate(cast(Iterable[nn.ParameterDict], mixes), 1)
        for name in names  # a ParameterDict is sorted, the towers are not
    }


class _Layer(nn.Module):
    """One hidden layer of every tower."""

    def __init__(self, names: Sequence[str], inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tower = nn.ModuleDict({name: mlp(inputs, width, 1, dropout) for name in names})

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Objective -> (B, inputs), to (B, towers, width)."""
        return torch.stack([tower(inputs[name]) for name, tower in self.tower.items()], dim=1)


@register_model(
    "cross_stitch",
    table_info("MLP towers with a learned exchange after each layer, for tables", "Misra et al., CVPR 2016"),
)
class CrossStitch(BaseModel):
    """MLP towers that exchange their hidden units, and a linear head per objective.

    Args:
        in_features: Number of inputs.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        width: Units of every hidden layer of every tower.
        depth: Number of hidden layers, at least 1.
        own: Share in [0, 1] of an objective's own tower in its mix at the start; the others share the rest equally.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.
        categories: For each column of codes, how many codes it has; empty: the model takes numbers alone.
    """

    ordered_by_objective = ("mixes",)

    def __init__(
        self,
        in_features: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        width: int = 128,
        depth: int = 4,
        own: float = 0.9,
        dropout: float = 0.0,
        categories: Sequence[int] = (),
    ) -> None:
        super().__init__()
        sizes = head_sizes("cross_stitch", classifiers, regressors)
        check_at_least("cross_stitch", 1, width=width, depth=depth)
        check_dropout("cross_stitch", dropout)
        if not 0 <= own <= 1:
            raise ValueError(f"cross_stitch: own must be in [0, 1], got {own}")
        self.objectives = tuple(sizes)
        self.categories = tuple(categories)
        self.embedding, inputs = category_embedding("cross_stitch", in_features, categories)
        widths = [inputs] + [width] * depth
        self.layers = nn.ModuleList(_Layer(self.objectives, a, b, dropout) for a, b in pairwise(widths))
        # a single tower has nothing to exchange
        self.mixes = nn.ModuleList(mix(self.objectives, width, own) for _ in range(depth if len(sizes) > 1 else 0))
        self.head = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, x: Tensor, codes: Tensor | None = None) -> dict[str, Tensor]:
        """(B, in_features), and (B, columns) with categories -> one output per objective."""
        return self.heads(self.features(x, codes))

    def features(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        """(B, in_features) -> (B, objectives, width), before the last mix."""
        inputs = dict.fromkeys(self.objectives, embed(self.embedding, x, codes))
        for index, layer in enumerate(self.layers):
            towers = layer(inputs)
            if index + 1 < len(self.layers):
                inputs = {name: self._mixed(index, name, towers) for name in self.objectives}
        return towers

    def heads(self, features: Tensor) -> dict[str, Tensor]:
        """(B, objectives, width) -> one output per objective."""
        return {name: head(self._mixed(-1, name, features)) for name, head in self.head.items()}

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name`` and its row of the last mix."""
        return [self._row(-1, name), *self.head[name].parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The towers, the mixes (which may need a higher learning rate) and the heads."""
        own = {"towers": self.layers, "mixes": self.mixes, "heads": self.head}
        return {**own, **embedding_network(self.embedding)}

    def sharing(self, x: Tensor, codes: Tensor | None = None) -> dict[str, dict[str, float]]:
        """Layer and objective -> share of each tower, mean over units."""
        return mean_shares("layer", self.objectives, self.mixes)

    def _mixed(self, index: int, name: str, towers: Tensor) -> Tensor:
        return (self._row(index, name) * towers).sum(dim=1) if len(self.mixes) else towers[:, 0]

    def _row(self, index: int, name: str) -> nn.Parameter:
        return cast(nn.ParameterDict, self.mixes[index])[name]
