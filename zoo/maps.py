"""Common parts of models for maps: segmentation, depth and normals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.base import TrunkModel
from zoo.registry import ModelInfo

MAPS = ("segmentation", "depth", "normals")


def map_info(summary: str, origin: str) -> ModelInfo:
    """Description of a model for maps."""
    return ModelInfo(summary, "image (B, in_channels, H, W)", "any of segmentation, depth and normals", "rooms", origin)


def map_sizes(model: str, maps: Sequence[str], segmentation_classes: int | None) -> dict[str, int]:
    """Map -> channels. Raises ValueError, naming the ``model``, for maps that it cannot have."""
    sizes = {"segmentation": segmentation_classes or 0, "depth": 1, "normals": 3}
    if not maps or len(set(maps)) < len(maps) or not set(maps) <= set(sizes):
        raise ValueError(f"{model}: maps must be different ones of {', '.join(sizes)}, at least one, got {list(maps)}")
    if "segmentation" in maps and sizes["segmentation"] < 1:
        raise ValueError(f"{model}: segmentation needs segmentation_classes of at least 1, got {segmentation_classes}")
    return {name: sizes[name] for name in maps}


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) -> Conv 3x3 -> BatchNorm -> ReLU -> (B, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def finish_maps(maps: dict[str, Tensor], positive_depth: bool) -> dict[str, Tensor]:
    """Outputs of the heads -> logits, depths (``positive_depth``: greater than 0), unit vectors."""
    maps = dict(maps)
    if positive_depth and "depth" in maps:
        maps["depth"] = F.softplus(maps["depth"])
    if "normals" in maps:
        # half precision cannot hold the small number that keeps the length of a zero vector from dividing by zero
        maps["normals"] = F.normalize(maps["normals"].float(), dim=1)
    return maps


class MapModel(TrunkModel):
    """A trunk, and a head per map that reads nothing but the trunk's output.

    Args:
        trunk: Image -> features.
        head: Map -> module from features to its channels (B, size, H, W).
        positive_depth: Make depths greater than 0; otherwise they may be any number.
    """

    def __init__(self, trunk: nn.Module, head: Mapping[str, nn.Module], positive_depth: bool = True) -> None:
        super().__init__(trunk, head)
        self.positive_depth = positive_depth

    def heads(self, features: Any) -> dict[str, Tensor]:
        """Features -> logits, depths, unit vectors."""
        return finish_maps(super().heads(features), self.positive_depth)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> one map (B, size, H, W) per objective."""
        return self.heads(self.features(image))
