"""Task attention as its authors wrote it: masks are of a map, what carries the masked values on is of all maps.

Published comparisons of balancing methods were run on this form. It is :mod:`zoo.dense_mtan` but for two things: the convolutions
between the stages of the attention paths are shared, so that maps meet in them too, and depths may be any number, so that
the gradient of a small depth is not small.

    image (B, C, H, W) -> SegNet: 10 stages, each with an early tensor u and an output p                         (shared)
    per map:  carried -> [mask(u, carried) * p -> convolution (shared) -> pooling] x 5                           (the masks)
                      -> [upsampling -> convolution (shared) -> mask(u, carried) * p] x 5 -> features of the map (the masks)
              features of the map (B, width, H, W) -> two convolutions -> map (B, size, H, W)                    (the head)

Any size: poolings round up. Shared parameters: the SegNet and what carries on. Features for ``at="features"``: those of every map,
which no other map reads.
Origin: S. Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019, and the code of A. Navon et al., "Multi-Task
Learning as a Bargaining Game", ICML 2022. Differs from that code in that masks count as parameters of their map.

    model = create_model("dense_mtan_original", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from zoo.dense import map_sizes
from zoo.dense_segnet import SegNet, prediction, start_as_published
from zoo.registry import ModelInfo, register_model

__all__ = ["DenseMTANOriginal", "dense_mtan_original"]


def _mask(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
        *(nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.Sigmoid()),
    )


def _carry(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Masks(nn.Module):
    """Those of one map, from fine to coarse and back."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        finer = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(_mask(w if i == 0 else 2 * w, w) for i, w in enumerate(widths))
        self.up = nn.ModuleList(_mask(w + f, f) for w, f in zip(widths[::-1], finer[::-1], strict=True))


class _Shared(nn.Module):
    """The SegNet, and the convolutions that carry masked values from stage to stage."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.segnet = SegNet(in_channels, width)
        widths = self.segnet.widths
        coarser, finer = [*widths[1:], widths[-1]], [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(map(_carry, widths, coarser))
        self.up = nn.ModuleList(map(_carry, widths[::-1], finer[::-1]))

    def path(self, stages: Sequence[tuple[Tensor, Tensor]], masks: _Masks) -> Tensor:
        """Stages of the SegNet -> (B, width, H, W), what the masks of a map choose from them."""
        half = len(stages) // 2
        carried = stages[0][0][:, :0]  # nothing yet
        for (early, last), mask, carry in zip(stages[:half], masks.down, self.down, strict=True):
            carried = carry(mask(torch.cat([early, carried], 1)) * last)
            carried = F.max_pool2d(carried, 2, ceil_mode=True)
        for (early, last), mask, carry in zip(stages[half:], masks.up, self.up, strict=True):
            carried = carry(F.interpolate(carried, size=early.shape[-2:], mode="bilinear", align_corners=True))
            carried = mask(torch.cat([early, carried], 1)) * last
        return carried


class DenseMTANOriginal(nn.Module, PyTorchModelHubMixin):
    """SegNet with task attention whose carrying convolutions are shared.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals.
        segmentation_classes: Number of classes, if there is a segmentation.
        width: Channels of the first stage; 64 in the papers.

    Raises:
        ValueError: No maps, unknown maps, or a size out of range.
    """

    def __init__(
        self, in_channels: int, maps: Sequence[str], segmentation_classes: int | None = None, width: int = 64
    ) -> None:
        super().__init__()
        sizes = map_sizes("dense_mtan_original", maps, segmentation_classes)
        if min(in_channels, width) < 1:
            raise ValueError("dense_mtan_original: in_channels and width must be at least 1")
        self.objectives = tuple(sizes)
        self.shared = _Shared(in_channels, width)
        self.masks = nn.ModuleDict({name: _Masks(self.shared.segnet.widths) for name in sizes})
        self.head = nn.ModuleDict({name: prediction(width, size) for name, size in sizes.items()})
        start_as_published(self)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all maps together."""
        return (Phase("train", self.objectives),)

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> (B, width, H, W) for each map."""
        stages = self.shared.segnet.stages(image)
        return tuple(self.shared.path(stages, masks) for masks in self.masks.values())  # type: ignore[arg-type]

    def heads(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Features -> logits, depths, unit vectors."""
        maps = {name: head(part) for (name, head), part in zip(self.head.items(), features, strict=True)}
        if "normals" in maps:
            # half precision cannot hold the small number that keeps the length of a zero vector from dividing by zero
            maps["normals"] = F.normalize(maps["normals"].float(), dim=1)
        return maps

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> one map (B, size, H, W) per objective."""
        return self.heads(self.features(image))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The SegNet and what carries on, if more than one map is made from it."""
        return list(self.shared.parameters()) if len(self.objectives) > 1 else []

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """Masks and head of ``name``, and the rest if nothing else uses it."""
        own = [*self.masks[name].parameters(), *self.head[name].parameters()]
        return own if len(self.objectives) > 1 else [*self.shared.parameters(), *own]

    def networks(self) -> dict[str, nn.Module]:
        """What is shared, the masks and the heads, for an optimizer each."""
        return {"shared": self.shared, "masks": self.masks, "heads": self.head}


@register_model(
    ModelInfo(
        summary="SegNet with task attention (MTAN) as its authors wrote it",
        inputs="image (B, in_channels, H, W)",
        objectives="any of segmentation, depth and normals",
        default_task="rooms",
        origin="Liu et al., CVPR 2019; Navon et al., ICML 2022",
    )
)
def dense_mtan_original(
    in_channels: int = 3,
    maps: Sequence[str] = ("segmentation", "depth", "normals"),
    segmentation_classes: int | None = 13,
    width: int = 64,
) -> DenseMTANOriginal:
    """The model of :class:`DenseMTANOriginal`."""
    return DenseMTANOriginal(in_channels, maps, segmentation_classes, width)
