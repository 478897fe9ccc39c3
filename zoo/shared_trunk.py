"""Hard parameter sharing: one trunk, a linear head per objective.

The oldest multi-task design, and still the one to beat. Everything up to the features is shared; each objective owns one
linear layer. Where objectives disagree, they disagree about the trunk, and that is where a balancer acts.

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

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from zoo.registry import ModelInfo, register_model

__all__ = ["SharedTrunk", "shared_trunk"]

_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


def _block(inputs: int, outputs: int, norm: str, dropout: float) -> nn.Sequential:
    # BatchNorm subtracts the mean, so a bias before it would never matter
    return nn.Sequential(
        nn.Linear(inputs, outputs, bias=norm != "batch"), _NORMS[norm](outputs), nn.SiLU(), nn.Dropout(dropout)
    )


class SharedTrunk(nn.Module, PyTorchModelHubMixin):
    """MLP trunk with one linear head per objective.

    Args:
        in_features: Number of inputs.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        width: Units of every hidden layer, and of the features.
        depth: Number of hidden layers, at least 1.
        norm: Normalisation after each hidden layer.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.

    Raises:
        ValueError: No objectives, an objective named twice, or a size out of range.
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
    ) -> None:
        super().__init__()
        sizes = {**classifiers, **regressors}
        if not sizes or len(sizes) < len(classifiers) + len(regressors):
            raise ValueError("shared_trunk needs at least one objective, and a different name for each")
        if min(in_features, width, depth, *sizes.values()) < 1:
            raise ValueError("shared_trunk: in_features, width, depth and the size of every head must be at least 1")
        if norm not in _NORMS:
            raise ValueError(f"shared_trunk: norm must be one of {', '.join(_NORMS)}, got {norm!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"shared_trunk: dropout must be in [0, 1), got {dropout}")
        self.objectives = tuple(sizes)
        widths = [in_features] + [width] * depth
        self.trunk = nn.Sequential(*(_block(a, b, norm, dropout) for a, b in pairwise(widths)))
        self.head = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all objectives together."""
        return (Phase("train", self.objectives),)

    def features(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, width)."""
        return self.trunk(x)

    def heads(self, features: Tensor) -> dict[str, Tensor]:
        """(B, width) -> one output per objective."""
        return {name: head(features) for name, head in self.head.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, in_features) -> one output per objective."""
        return self.heads(self.features(x))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trunk, if more than one objective reaches it."""
        return list(self.trunk.parameters()) if len(self.objectives) > 1 else []

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name``, and the trunk if nothing else uses it."""
        own = list(self.head[name].parameters())
        return own if len(self.objectives) > 1 else [*self.trunk.parameters(), *own]

    def networks(self) -> dict[str, nn.Module]:
        """The trunk and the heads, for an optimizer each."""
        return {"trunk": self.trunk, "heads": self.head}


@register_model(
    ModelInfo(
        summary="MLP trunk with classifier and regressor heads, for tables",
        inputs="x (B, in_features)",
        objectives="any number of classifiers and regressors",
        default_task="diamonds",
        origin="Caruana, Machine Learning 1997",
    )
)
def shared_trunk(
    in_features: int,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    width: int = 192,
    depth: int = 4,
    norm: Literal["batch", "layer", "none"] = "none",
    dropout: float = 0.0,
) -> SharedTrunk:
    """The MLP of :class:`SharedTrunk`."""
    return SharedTrunk(in_features, classifiers, regressors, width, depth, norm, dropout)
