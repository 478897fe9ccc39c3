"""Cross-stitch networks: a tower per objective, and after each layer a learned exchange between the towers.

Nothing is shared by decree. Every tower sees the whole input; after each hidden layer every unit of every tower becomes
a linear mix of the same unit in all towers. A mix starts near the identity, and training decides how much to share where.

    x (B, in_features) -> tower a: [Linear -> SiLU -> dropout] --+--> mix a --> and again, depth times --> Linear --> a
                       -> tower b: [Linear -> SiLU -> dropout] --+--> mix b --> and again, depth times --> Linear --> b
                                                                 |
                                                  the last time: features (B, objectives, width)

Shared parameters: all towers, and all mixes but the last, as the last mix lets every objective read every tower.
Features for ``at="features"``: what the towers give to the last mix; an objective's row of it belongs to its head.
Origin: I. Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016. Differs in that the towers start with
random weights; there they are networks trained on one objective first.

    model = create_model("cross_stitch", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    outputs = model(x)                          # {"cut": (B, 5), "price": (B, 1)}
    balancer.backward({"cut": cross_entropy(outputs["cut"], y), "price": mse_loss(outputs["price"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from zoo.registry import ModelInfo, register_model

__all__ = ["CrossStitch", "cross_stitch"]


def _mix(names: Sequence[str], width: int, own: float) -> nn.ParameterDict:
    """Objective -> how much it takes of each tower, unit by unit (towers, width); apart, as each has its own reader."""
    rest = (1 - own) / (len(names) - 1)
    shares = rest + (own - rest) * torch.eye(len(names))
    return nn.ParameterDict({name: row[:, None].repeat(1, width) for name, row in zip(names, shares, strict=True)})


class _Layer(nn.Module):
    """One hidden layer of every tower."""

    def __init__(self, names: Sequence[str], inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tower = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout)) for name in names}
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Objective -> (B, inputs), to (B, towers, width)."""
        return torch.stack([tower(inputs[name]) for name, tower in self.tower.items()], dim=1)


class CrossStitch(nn.Module, PyTorchModelHubMixin):
    """MLP towers that exchange what they compute, and a linear head per objective.

    Args:
        in_features: Number of inputs.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        width: Units of every hidden layer of every tower.
        depth: Number of hidden layers, at least 1.
        own: Share in [0, 1] of an objective's own tower in its mix at the start; the others share the rest equally.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.

    Raises:
        ValueError: No objectives, an objective named twice, or a value out of range.
    """

    def __init__(
        self,
        in_features: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        width: int = 128,
        depth: int = 4,
        own: float = 0.9,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {**classifiers, **regressors}
        if not sizes or len(sizes) < len(classifiers) + len(regressors):
            raise ValueError("cross_stitch needs at least one objective, and a different name for each")
        if min(in_features, width, depth, *sizes.values()) < 1:
            raise ValueError("cross_stitch: in_features, width, depth and the size of every head must be at least 1")
        if not 0 <= own <= 1:
            raise ValueError(f"cross_stitch: own must be in [0, 1], got {own}")
        if not 0 <= dropout < 1:
            raise ValueError(f"cross_stitch: dropout must be in [0, 1), got {dropout}")
        self.objectives = tuple(sizes)
        widths = [in_features] + [width] * depth
        self.layers = nn.ModuleList(_Layer(self.objectives, a, b, dropout) for a, b in pairwise(widths))
        # a single tower has nothing to exchange
        self.mixes = nn.ModuleList(_mix(self.objectives, width, own) for _ in range(depth if len(sizes) > 1 else 0))
        self.head = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all objectives together."""
        return (Phase("train", self.objectives),)

    def features(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, objectives, width), before the last mix."""
        inputs = dict.fromkeys(self.objectives, x)
        for index, layer in enumerate(self.layers):
            towers = layer(inputs)
            if index + 1 < len(self.layers):
                inputs = {name: self._mixed(index, name, towers) for name in self.objectives}
        return towers

    def heads(self, features: Tensor) -> dict[str, Tensor]:
        """(B, objectives, width) -> one output per objective."""
        return {name: head(self._mixed(-1, name, features)) for name, head in self.head.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, in_features) -> one output per objective."""
        return self.heads(self.features(x))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The towers and all mixes but the last, if more than one objective reaches them."""
        return self._common() if len(self.objectives) > 1 else []

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name`` and its row of the last mix, and everything else if no other objective uses it."""
        own = list(self.head[name].parameters())
        return [self._row(-1, name), *own] if len(self.objectives) > 1 else [*self._common(), *own]

    def networks(self) -> dict[str, nn.Module]:
        """The towers, the mixes and the heads, for an optimizer each; mixes may want a higher learning rate."""
        return {"towers": self.layers, "mixes": self.mixes, "heads": self.head}

    def _common(self) -> list[nn.Parameter]:
        return [*self.layers.parameters(), *self.mixes[:-1].parameters()]

    def _mixed(self, index: int, name: str, towers: Tensor) -> Tensor:
        return (self._row(index, name) * towers).sum(dim=1) if len(self.mixes) else towers[:, 0]

    def _row(self, index: int, name: str) -> nn.Parameter:
        return cast(nn.ParameterDict, self.mixes[index])[name]


@register_model(
    ModelInfo(
        summary="MLP towers with a learned exchange after each layer, for tables",
        inputs="x (B, in_features)",
        objectives="any number of classifiers and regressors",
        default_task="diamonds",
        origin="Misra et al., CVPR 2016",
    )
)
def cross_stitch(
    in_features: int,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    width: int = 128,
    depth: int = 4,
    own: float = 0.9,
    dropout: float = 0.0,
) -> CrossStitch:
    """The towers of :class:`CrossStitch`."""
    return CrossStitch(in_features, classifiers, regressors, width, depth, own, dropout)
