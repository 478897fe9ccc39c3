"""Task attention as its authors wrote it: masks of each map, convolutions of all maps.

Published comparisons of balancing methods were run on this form. It is :mod:`zoo.dense_mtan` but for two things: the convolutions
between the stages of the attention paths are shared, so that objectives conflict in them too, and depths may be any number, so
that the gradient of a small depth is not small.

    image (B, C, H, W) -> SegNet: 10 stages, each with an early tensor u and an output p                         (shared)
    per map:  carried -> [mask(u, carried) * p -> convolution (shared) -> pooling] x 5                           (the masks)
                      -> [upsampling -> convolution (shared) -> mask(u, carried) * p] x 5 -> features of the map (the masks)
              features of the map (B, width, H, W) -> two convolutions -> map (B, size, H, W)                    (the head)

Any size: poolings round up. Shared parameters: the SegNet and the convolutions between the stages. Features for
``at="features"``: those of every map, which no other map reads.
Origin: S. Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019, and the code of A. Navon et al., "Multi-Task
Learning as a Bargaining Game", ICML 2022. Differs from that code in that masks count as parameters of their map.

    model = create_model("dense_mtan_original", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least
from zoo.dense_mtan import attend, attention_mask
from zoo.dense_segnet import SegNet, init_as_published, map_output
from zoo.maps import MAPS, Maps, conv_block, finish_maps, label_heads, map_info, map_sizes
from zoo.registry import register_model


class _Masks(nn.Module):
    """The masks of one map, from fine to coarse and back."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        finer = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(attention_mask(w if i == 0 else 2 * w, w) for i, w in enumerate(widths))
        self.up = nn.ModuleList(attention_mask(w + f, f) for w, f in zip(widths[::-1], finer[::-1], strict=True))


class _Shared(nn.Module):
    """The SegNet, and the convolutions between the stages of the attention paths."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.segnet = SegNet(in_channels, width)
        widths = self.segnet.widths
        coarser, finer = [*widths[1:], widths[-1]], [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(map(conv_block, widths, coarser))
        self.up = nn.ModuleList(map(conv_block, widths[::-1], finer[::-1]))


@register_model(
    "dense_mtan_original",
    map_info(
        "SegNet with task attention (MTAN) as its authors wrote it", "Liu et al., CVPR 2019; Navon et al., ICML 2022"
    ),
)
class DenseMTANOriginal(BaseModel):
    """SegNet with task attention and shared convolutions between its stages.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        width: Channels of the first stage; 64 in the papers.
        labels: Label of the whole image -> number of outputs, from the mean of the SegNet's coarsest stage.
    """

    def __init__(
        self,
        in_channels: int = 3,
        maps: Maps = MAPS,
        segmentation_classes: int | None = 13,
        width: int = 64,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        sizes, kinds = map_sizes("dense_mtan_original", maps, segmentation_classes)
        check_at_least("dense_mtan_original", 1, in_channels=in_channels, width=width)
        self.kinds = kinds
        self.shared = _Shared(in_channels, width)
        self.masks = nn.ModuleDict({name: _Masks(self.shared.segnet.widths) for name in sizes})
        self.head = nn.ModuleDict({name: map_output(width, size) for name, size in sizes.items()})
        init_as_published(self)
        self.head.update(label_heads("dense_mtan_original", labels, sizes, self.shared.segnet.widths[-1]))
        self.objectives = tuple(self.head)

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> (B, width, H, W) for each map; with labels, the coarsest stage too."""
        shared, stages = self.shared, self.shared.segnet.stages(image)
        every_masks = cast(Sequence[_Masks], self.masks.values())
        paths = [attend(stages, masks.down, shared.down, masks.up, shared.up) for masks in every_masks]
        coarsest = stages[len(stages) // 2 - 1][1]
        # a copy, as no feature may be computed from another: gradients at them would count twice
        return (*paths, coarsest.view_as(coarsest)) if len(self.head) > len(paths) else tuple(paths)

    def heads(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Features -> logits, depths, unit vectors; labels (B, size)."""
        places = {name: place for place, name in enumerate(self.masks)}
        outputs = {name: head(features[places.get(name, -1)]) for name, head in self.head.items()}
        return finish_maps(outputs, self.kinds, positive_depth=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> a map (B, size, H, W) or a label (B, size) per objective."""
        return self.heads(self.features(image))

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """Head of ``name``, and masks if it is a map."""
        masks = self.masks[name].parameters() if name in self.masks else ()
        return [*masks, *self.head[name].parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The shared part, the masks and the heads, for an optimizer each."""
        return {"shared": self.shared, "masks": self.masks, "heads": self.head}
