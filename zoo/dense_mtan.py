"""Task attention: every map picks, with masks of its own, what it needs from one shared SegNet.

Next to the SegNet runs a thin network per map. At every stage it looks at an early tensor of the SegNet and at what it carries
along, makes a mask between 0 and 1 for each channel and pixel, and takes the masked output of the stage with it.

    image (B, C, H, W) -> SegNet: 10 stages, each with an early tensor u and an output p     (shared)
                                   |         |
    per map:  carried -> [mask(u, carried) * p -> convolution -> pooling]   x 5
                      -> [upsampling -> convolution -> mask(u, carried) * p] x 5 -> two convolutions -> map (B, size, H, W)

Shared parameters: the SegNet. Features for ``at="features"``: u and p of every stage.
Origin: S. Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019. Differs from the authors' code in that the
convolutions that carry values on belong to a map each, not to all; so heads read nothing shared but the features.

    model = create_model("dense_mtan", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from zoo.dense import MapModel, map_sizes
from zoo.dense_segnet import SegNet, prediction
from zoo.registry import ModelInfo, register_model

__all__ = ["DenseMTAN", "dense_mtan"]


class _Trunk(SegNet):
    """The SegNet, giving all its stages."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        # copies, as none of the features may be computed from another: gradients at them would count twice
        return tuple(tensor.view_as(tensor) for pair in self.stages(image) for tensor in pair)


def _mask(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
        *(nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.Sigmoid()),
    )


def _carry(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Attention(nn.Module):
    """The network of one map beside the SegNet."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        coarser, finer = [*widths[1:], widths[-1]], [widths[0], *widths[:-1]]
        self.down_masks = nn.ModuleList(_mask(w if i == 0 else 2 * w, w) for i, w in enumerate(widths))
        self.down = nn.ModuleList(map(_carry, widths, coarser))
        self.up = nn.ModuleList(map(_carry, widths[::-1], finer[::-1]))
        self.up_masks = nn.ModuleList(_mask(w + f, f) for w, f in zip(widths[::-1], finer[::-1], strict=True))
        self.output = prediction(widths[0], outputs)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        stages = list(zip(features[::2], features[1::2], strict=True))
        half = len(stages) // 2
        carried = features[0][:, :0]  # nothing yet
        for (early, last), mask, carry in zip(stages[:half], self.down_masks, self.down, strict=True):
            carried = mask(torch.cat([early, carried], 1)) * last
            carried = F.max_pool2d(carry(carried), 2, ceil_mode=True)
        for (early, last), mask, carry in zip(stages[half:], self.up_masks, self.up, strict=True):
            carried = carry(F.interpolate(carried, size=early.shape[-2:], mode="bilinear", align_corners=True))
            carried = mask(torch.cat([early, carried], 1)) * last
        return self.output(carried)


class DenseMTAN(MapModel, PyTorchModelHubMixin):
    """SegNet with task attention.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals.
        segmentation_classes: Number of classes, if there is a segmentation.
        width: Channels of the first stage; 64 in the paper.

    Raises:
        ValueError: No maps, unknown maps, or a size out of range.
    """

    def __init__(
        self, in_channels: int, maps: Sequence[str], segmentation_classes: int | None = None, width: int = 64
    ) -> None:
        sizes = map_sizes("dense_mtan", maps, segmentation_classes)
        if min(in_channels, width) < 1:
            raise ValueError("dense_mtan: in_channels and width must be at least 1")
        trunk = _Trunk(in_channels, width)
        super().__init__(trunk, {name: _Attention(trunk.widths, size) for name, size in sizes.items()})


@register_model(
    ModelInfo(
        summary="SegNet with task attention (MTAN)",
        inputs="image (B, in_channels, H, W)",
        objectives="any of segmentation, depth and normals",
        default_task="rooms",
        origin="Liu et al., CVPR 2019",
    )
)
def dense_mtan(
    in_channels: int = 3,
    maps: Sequence[str] = ("segmentation", "depth", "normals"),
    segmentation_classes: int | None = 13,
    width: int = 64,
) -> DenseMTAN:
    """The model of :class:`DenseMTAN`."""
    return DenseMTAN(in_channels, maps, segmentation_classes, width)
