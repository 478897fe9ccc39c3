"""Task attention: every map masks the channels and pixels of one shared SegNet for itself.

Beside the SegNet, every map has a thin network. At every stage it reads an early tensor of the SegNet and its own previous
output, makes a mask between 0 and 1 for each channel and pixel, and continues with the masked output of the stage.

    image (B, C, H, W) -> SegNet: 10 stages, each with an early tensor u and an output p     (shared)
                                   |         |
    per map:  carried -> [mask(u, carried) * p -> convolution -> pooling]   x 5
                      -> [upsampling -> convolution -> mask(u, carried) * p] x 5 -> two convolutions -> map (B, size, H, W)

Shared parameters: the SegNet. Features for ``at="features"``: u and p of every stage.
Origin: S. Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019. Differs from the authors' code in that the
convolutions between the stages belong to a map each, not to all; so heads read nothing shared but the features.

    model = create_model("dense_mtan", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import check_at_least
from zoo.dense_segnet import SegNet, map_output
from zoo.maps import MAPS, MapModel, Maps, conv_block, label_heads, map_info, map_sizes
from zoo.registry import register_model


def attention_mask(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) -> two convolutions 1x1 -> (B, outputs, H, W) between 0 and 1."""
    return nn.Sequential(
        *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
        *(nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.Sigmoid()),
    )


def attend(
    stages: Sequence[tuple[Tensor, Tensor]],
    down_masks: Iterable[nn.Module],
    down: Iterable[nn.Module],
    up_masks: Iterable[nn.Module],
    up: Iterable[nn.Module],
) -> Tensor:
    """Stages of a SegNet -> (B, width, H, W), by masks and convolutions of an attention path."""
    half = len(stages) // 2
    carried = stages[0][0][:, :0]  # no channels yet
    for (early, last), mask, block in zip(stages[:half], down_masks, down, strict=True):
        carried = block(mask(torch.cat([early, carried], 1)) * last)
        carried = F.max_pool2d(carried, 2, ceil_mode=True)
    for (early, last), mask, block in zip(stages[half:], up_masks, up, strict=True):
        carried = block(F.interpolate(carried, size=early.shape[-2:], mode="bilinear", align_corners=True))
        carried = mask(torch.cat([early, carried], 1)) * last
    return carried


class _Trunk(SegNet):
    """The SegNet with the tensors of all its stages."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        # copies, as none of the features may be computed from another: gradients at them would count twice
        return tuple(tensor.view_as(tensor) for pair in self.stages(image) for tensor in pair)


class _Attention(nn.Module):
    """The network of one map beside the SegNet."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        coarser, finer = [*widths[1:], widths[-1]], [widths[0], *widths[:-1]]
        self.down_masks = nn.ModuleList(attention_mask(w if i == 0 else 2 * w, w) for i, w in enumerate(widths))
        self.down = nn.ModuleList(map(conv_block, widths, coarser))
        self.up = nn.ModuleList(map(conv_block, widths[::-1], finer[::-1]))
        self.up_masks = nn.ModuleList(attention_mask(w + f, f) for w, f in zip(widths[::-1], finer[::-1], strict=True))
        self.output = map_output(widths[0], outputs)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        stages = list(zip(features[::2], features[1::2], strict=True))
        return self.output(attend(stages, self.down_masks, self.down, self.up_masks, self.up))


@register_model("dense_mtan", map_info("SegNet with task attention (MTAN)", "Liu et al., CVPR 2019"))
class DenseMTAN(MapModel):
    """SegNet with task attention.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        width: Channels of the first stage; 64 in the paper.
        labels: Label of the whole image -> number of outputs, from the mean of the coarsest stage.
    """

    def __init__(
        self,
        in_channels: int = 3,
        maps: Maps = MAPS,
        segmentation_classes: int | None = 13,
        width: int = 64,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        sizes, kinds = map_sizes("dense_mtan", maps, segmentation_classes)
        check_at_least("dense_mtan", 1, in_channels=in_channels, width=width)
        trunk = _Trunk(in_channels, width)
        head: dict[str, nn.Module] = {name: _Attention(trunk.widths, size) for name, size in sizes.items()}
        coarsest = 2 * len(trunk.widths) - 1  # the last tensor of the encoder
        super().__init__(trunk, head | label_heads("dense_mtan", labels, sizes, trunk.widths[-1], coarsest), kinds)
