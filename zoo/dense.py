"""Dense prediction: one encoder, a decoder per map.

All maps share the encoder. Each map - the class of every pixel, its depth, the direction of its surface - has a decoder of its
own, which goes from the coarsest stage to the finest and adds each stage on the way. At the finest, a position stands for a
small square of pixels: one convolution gives the values of all of them, and the detail sharpens these.

    image (B, C, H, W) -> encoder -> stages at strides 2 ... 32 -+-> decoder -> segmentation (B, classes, H, W), logits
                 |                                               |-> decoder -> depth (B, 1, H, W), positive
                 +-----> stem ----> detail (B, 16, H, W) --------+-> decoder -> normals (B, 3, H, W), unit vectors

Any size: the encoder reads the image padded to a multiple of its largest stride, and the maps are cut to the image's size.
Shared parameters: encoder and stem. Features for ``at="features"``: detail and stages.
Origin: E. Shelhamer et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015; decoders that add the stages:
T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

    model = create_model("dense_resnet18", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import check_at_least
from zoo.maps import DETAIL, MAPS, MapDecoder, MapModel, Maps, conv_block, label_heads, map_info, map_sizes
from zoo.registry import register_model, register_variant
from zoo.timm_models import create_timm, fitting_size, timm_name

_ORIGIN = "Shelhamer et al., CVPR 2015; Lin et al., CVPR 2017"


class _Trunk(nn.Module):
    """Detail at the size of the image, then the stages of a timm encoder, from fine to coarse."""

    def __init__(self, encoder: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder = create_timm("dense", "encoder", encoder, **options)
        in_channels = options["in_chans"]
        self.stem = conv_block(in_channels, DETAIL)
        stages: Any = self.encoder.feature_info
        self.channels = [DETAIL, *stages.channels()]
        self.strides = stages.reduction()
        self.channels_last = str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        down, right = (-size % max(self.strides) for size in image.shape[-2:])
        stages = self.encoder(F.pad(image, (0, right, 0, down)))
        if self.channels_last:
            stages = [stage.permute(0, 3, 1, 2) for stage in stages]
        # copies, as none of the features may be computed from another: gradients at them would count twice
        return (self.stem(image), *(stage.view_as(stage) for stage in stages))


@register_model("dense", map_info("any timm encoder with a decoder per map", _ORIGIN))
class Dense(MapModel):
    """Any timm encoder with a small decoder per map.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        encoder: Any model of timm that gives feature maps.
        width: Channels of every layer of the decoders, before the last.
        pretrained: Start the encoder from the weights that timm has for it.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.
        image_size: Height and width of the image, for encoders that are made for one size, such as transformers.
        labels: Label of the whole image -> number of outputs, from the mean of the coarsest stage.

    Raises:
        ValueError: Maps, a size or an encoder that cannot be, or weights that cannot be had.
    """

    def __init__(
        self,
        in_channels: int = 3,
        maps: Maps = MAPS,
        segmentation_classes: int | None = 13,
        encoder: str = "resnet18",
        width: int = 32,
        pretrained: bool = False,
        pretrained_file: str | None = None,
        image_size: Sequence[int] | None = None,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        sizes, kinds = map_sizes("dense", maps, segmentation_classes)
        check_at_least("dense", 1, in_channels=in_channels, width=width)
        encoder = timm_name("dense", "encoder", encoder)
        options: dict[str, Any] = {"features_only": True, "in_chans": in_channels}
        if image_size is not None:
            if len(image_size) != 2 or min(image_size) < 1:
                raise ValueError(f"dense: image_size must be height and width, at least 1, got {list(image_size)}")
            fitting = fitting_size("dense", encoder, in_channels, image_size)
            options |= {} if fitting is None else {"img_size": fitting}
        trunk = _Trunk(encoder, options)
        head: dict[str, nn.Module] = {
            name: MapDecoder(trunk.channels, trunk.strides[0], width, size) for name, size in sizes.items()
        }
        super().__init__(trunk, head | label_heads("dense", labels, sizes, trunk.channels[-1], -1), kinds)
        if pretrained:
            source = create_timm("dense", "encoder", encoder, True, pretrained_file, **options)
            trunk.encoder.load_state_dict(source.state_dict())


@register_variant("dense_resnet18", map_info("ResNet-18 with a decoder per map", _ORIGIN), Dense)
def dense_resnet18() -> dict[str, Any]:
    """:class:`Dense` with a ResNet-18."""
    return {"encoder": "resnet18", "image_size": None}
