"""DeepLab for several maps: a shared dilated encoder, a spatial pyramid per map.

The encoder keeps its features at an eighth of the image's size, and dilates its convolutions instead of shrinking further. The head
of every map applies several more dilations to these features, and their mean over the image; its output is interpolated from
an eighth of the size. After SegNet, the literature compares methods on this network, with an encoder pretrained on ImageNet.

    image (B, C, H, W) -> encoder -> features (B, F, H / 8, W / 8) -> pyramid of dilations -> interpolation
                                                         |-> segmentation (B, classes, H, W), logits
                                                         |-> depth (B, 1, H, W), any number
                                                         |-> normals (B, 3, H, W), unit vectors

Any size. Shared parameters: the encoder. Features for ``at="features"``: its output.
Origin: L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017; for several maps: S. Vandenhende
et al., "Multi-Task Learning for Dense Prediction Tasks: A Survey", TPAMI 2022. Heads are torchvision's.

    model = create_model("dense_deeplab", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import check_at_least
from zoo.maps import MAPS, MapModel, Maps, label_heads, map_info, map_sizes
from zoo.registry import register_model
from zoo.timm_models import create_timm, timm_name

_STRIDE = 8


def _encoder(name: str, in_channels: int, pretrained: bool = False, file: str | None = None) -> nn.Module:
    """timm's model, dilated, without its classifier. Raises ValueError if there is none."""
    options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0, "global_pool": "", "output_stride": _STRIDE}
    try:
        return create_timm("dense_deeplab", "encoder", name, pretrained, file, **options)
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"dense_deeplab: encoder {name!r} cannot be dilated; resnet50 and its like can") from error


class _Trunk(nn.Module):
    """Image -> features of the encoder, and an empty slice of the image, which has its size."""

    def __init__(self, encoder: str, in_channels: int) -> None:
        super().__init__()
        self.encoder = _encoder(encoder, in_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.encoder(image), image[:, :0]


class _Head(nn.Module):
    """The pyramid of one map, interpolated to the size of the image."""

    def __init__(self, channels: int, outputs: int) -> None:
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        super().__init__()
        self.pyramid = DeepLabHead(channels, outputs)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        values, frame = features
        return F.interpolate(self.pyramid(values), size=frame.shape[-2:], mode="bilinear", align_corners=True)


@register_model(
    "dense_deeplab",
    map_info("dilated ResNet-50 with a DeepLabv3 head per map", "Chen et al., 2017; Vandenhende et al., TPAMI 2022"),
)
class DenseDeepLab(MapModel):
    """Dilated encoder of timm with a DeepLabv3 head per map.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        encoder: A model of timm that can be dilated, such as a ResNet.
        pretrained: Start the encoder from the weights that timm has for it.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.
        labels: Label of the whole image -> number of outputs, from the mean of the features.

    Raises:
        ValueError: No maps, unknown maps or encoder, one that cannot be dilated, or a size out of range.
    """

    def __init__(
        self,
        in_channels: int = 3,
        maps: Maps = MAPS,
        segmentation_classes: int | None = 13,
        encoder: str = "resnet50",
        pretrained: bool = False,
        pretrained_file: str | None = None,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        sizes, kinds = map_sizes("dense_deeplab", maps, segmentation_classes)
        check_at_least("dense_deeplab", 1, in_channels=in_channels)
        encoder = timm_name("dense_deeplab", "encoder", encoder)
        trunk = _Trunk(encoder, in_channels)
        channels = int(trunk.encoder.num_features)  # type: ignore[arg-type]
        head: dict[str, nn.Module] = {name: _Head(channels, size) for name, size in sizes.items()}
        head |= label_heads("dense_deeplab", labels, sizes, channels, 0)
        super().__init__(trunk, head, kinds, positive_depth=False)
        if pretrained:
            trunk.encoder.load_state_dict(_encoder(encoder, in_channels, True, pretrained_file).state_dict())
