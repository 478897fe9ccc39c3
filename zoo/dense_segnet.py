"""SegNet for several maps: encoder and decoder are shared, two convolutions per map are not.

The encoder stores the position of the maximum in each pooling window, and the decoder puts values back to these positions.
The literature on balancing compares methods on this trunk.

    image (B, C, H, W) -> 5 x [convolutions -> max pooling] -> 5 x [unpooling -> convolutions] -> features (B, width, H, W)
                                        '-- positions of the maxima -^                             |-> segmentation, logits
                                                                                                   |-> depth, positive
                                                                                                   |-> normals, unit vectors

Any size: poolings round up. Shared parameters: encoder and decoder. Features for ``at="features"``: the decoder's output.
Origin: V. Badrinarayanan et al., "SegNet", TPAMI 2017; a shared one for three maps ("Split"): S. Liu et al., "End-to-End
Multi-Task Learning with Attention", CVPR 2019.

    model = create_model("dense_segnet", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import check_at_least
from zoo.maps import MAPS, MapModel, Maps, conv_block, label_heads, map_info, map_sizes
from zoo.registry import register_model

_DEPTHS = (2, 2, 3, 3, 3)  # convolutions per stage, those of VGG-16


def map_output(width: int, outputs: int) -> nn.Sequential:
    """The last two convolutions of a map."""
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, outputs, 1))


def init_as_published(model: nn.Module) -> None:
    """Initialize convolutions by Xavier's rule with biases of 0, as in published code."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _unpool(values: Tensor, positions: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size): values at their positions, zeros elsewhere."""
    batch, channels = values.shape[:2]
    empty = values.new_zeros(batch, channels, size[0] * size[1])
    return empty.scatter(2, positions.flatten(2), values.flatten(2)).view(batch, channels, *size)


class SegNet(nn.Module):
    """Encoder and decoder of five stages each.

    Args:
        in_channels: Channels of the image.
        width: Channels of the first stage and of the output; the stages have 1, 2, 4, 8 and 8 times as many.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        finer = [in_channels, *self.widths[:-1]]
        self.encoder = nn.ModuleList(map(self._stage, finer, self.widths, _DEPTHS))
        finer[0] = width
        self.decoder = nn.ModuleList(map(self._stage, self.widths[::-1], finer[::-1], _DEPTHS[::-1]))

    @staticmethod
    def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
        return nn.Sequential(conv_block(inputs, outputs), *(conv_block(outputs, outputs) for _ in range(depth - 1)))

    def stages(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, C, H, W) -> early and last tensor of every stage, fine to coarse and back."""
        tensors, positions, values = [], [], image
        for stage in self.encoder:
            first, *rest = stage.children()
            early = last = first(values)
            for block in rest:
                last = block(last)
            values, maxima = F.max_pool2d(last, 2, ceil_mode=True, return_indices=True)
            tensors.append((early, last))
            positions.append((maxima, last.shape[-2:]))
        for stage, (maxima, size) in zip(self.decoder, reversed(positions), strict=True):
            early = _unpool(values, maxima, size)
            values = stage(early)
            tensors.append((early, values))
        return tensors

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H, W)."""
        return self.stages(image)[-1][1]


@register_model(
    "dense_segnet",
    map_info("SegNet with two convolutions per map", "Badrinarayanan et al., TPAMI 2017; Liu et al., CVPR 2019"),
)
class DenseSegNet(MapModel):
    """SegNet with two convolutions per map.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        width: Channels of the first stage; 64 in the papers.
        original: Depths may be negative and weights start by Xavier's rule, as in the code behind the published tables.
        labels: Label of the whole image -> number of outputs, from the mean of the decoder's output.
    """

    def __init__(
        self,
        in_channels: int = 3,
        maps: Maps = MAPS,
        segmentation_classes: int | None = 13,
        width: int = 64,
        original: bool = False,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        sizes, kinds = map_sizes("dense_segnet", maps, segmentation_classes)
        check_at_least("dense_segnet", 1, in_channels=in_channels, width=width)
        head: dict[str, nn.Module] = {name: map_output(width, size) for name, size in sizes.items()}
        head |= label_heads("dense_segnet", labels, sizes, width)
        super().__init__(SegNet(in_channels, width), head, kinds, positive_depth=not original)
        if original:
            init_as_published(self)
