"""Hard parameter sharing for tables: one trunk, a linear head per objective.

The oldest multi-task architecture, and a strong baseline. Everything up to the features is shared; each objective has one linear
layer of its own. Conflicts between objectives are conflicts about the trunk, and a balancer resolves them there.

    x (B, in_features) -> [Linear -> norm -> SiLU -> dropout] x depth -> features (B, width)
                                                                              |-> Linear -> logits (B, classes)   per classifier
                                                                              |-> Linear -> values (B, dims)      per regressor

Shared parameters: all of the trunk. Features for ``at="features"``: the trunk's output.
Origin: R. Caruana, "Multitask Learning", Machine Learning 1997.

    model = create_model("shared_trunk", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    outputs = model(x)                          # {"cut": (B, 5), "price": (B, 1)}
    balancer.backward({"cut": cross_entropy(outputs["cut"], y), "price": mse_loss(outputs["price"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from zoo.base import TrunkModel
from zoo.checks import check_at_least, check_dropout, head_sizes, rotations_of
from zoo.registry import register_model
from zoo.tables import category_embedding, embed, embedding_network, table_info

_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


def _block(inputs: int, outputs: int, norm: str, dropout: float) -> nn.Sequential:
    # BatchNorm subtracts the mean, so a bias before it has no effect
    return nn.Sequential(
        nn.Linear(inputs, outputs, bias=norm != "batch"), _NORMS[norm](outputs), nn.SiLU(), nn.Dropout(dropout)
    )


@register_model(
    "shared_trunk",
    table_info("MLP trunk with classifier and regressor heads, for tables", "Caruana, Machine Learning 1997"),
)
class SharedTrunk(TrunkModel):
    """MLP trunk with one linear head per objective.

    Args:
        in_features: Number of inputs.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        width: Units of every hidden layer, and of the features.
        depth: Number of hidden layers, at least 1.
        norm: Normalization after each hidden layer.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.
        categories: For each column of codes, how many codes it has; empty: the model takes numbers alone.
        rotate: How many features, the first ones, a rotation per objective turns for the balancer ``rotograd``; 0: none.
    """

    def __init__(
        self,
        in_features: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        width: int = 192,
        depth: int = 4,
        norm: Literal["batch", "layer", "none"] = "none",
        dropout: float = 0.0,
        categories: Sequence[int] = (),
        rotate: int = 0,
    ) -> None:
        sizes = head_sizes("shared_trunk", classifiers, regressors)
        check_at_least("shared_trunk", 1, width=width, depth=depth)
        check_dropout("shared_trunk", dropout)
        embedding, inputs = category_embedding("shared_trunk", in_features, categories)
        widths = [inputs] + [width] * depth
        trunk = nn.Sequential(*(_block(a, b, norm, dropout) for a, b in pairwise(widths)))
        rotations = rotations_of("shared_trunk", sizes, rotate, width)
        super().__init__(trunk, {name: nn.Linear(width, size) for name, size in sizes.items()}, rotations)
        self.categories, self.embedding = tuple(categories), embedding

    def forward(self, x: Tensor, codes: Tensor | None = None) -> dict[str, Tensor]:
        """(B, in_features), and (B, columns) with categories -> one output per objective."""
        return self.heads(self.features(x, codes))

    def features(self, x: Tensor, codes: Tensor | None = None) -> Any:
        """Inputs -> output of the trunk, and the rotations if there are any."""
        return self.with_rotations(self.trunk(embed(self.embedding, x, codes)))

    def networks(self) -> dict[str, nn.Module]:
        """The trunk, the heads and the embedding, for an optimizer each."""
        return {**super().networks(), **embedding_network(self.embedding)}
