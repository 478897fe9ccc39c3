"""Common parts of models for tables: description, MLPs and towers of objectives."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from zoo.registry import ModelInfo


def table_info(summary: str, origin: str) -> ModelInfo:
    """Description of a model for tables."""
    return ModelInfo(summary, "x (B, in_features)", "any number of classifiers and regressors", "diamonds", origin)


def mlp(inputs: int, width: int, depth: int, dropout: float) -> nn.Sequential:
    """(B, inputs) -> [Linear -> SiLU -> dropout] x depth -> (B, width)."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(width if index else inputs, width), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def towers(sizes: Mapping[str, int], width: int, depth: int, dropout: float) -> nn.ModuleDict:
    """Objective -> MLP of ``depth`` hidden layers and a linear output: (B, width) -> (B, size)."""
    return nn.ModuleDict(
        {
            name: nn.Sequential(*mlp(width, width, depth, dropout), nn.Linear(width, size))
            for name, size in sizes.items()
        }
    )
