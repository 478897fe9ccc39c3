"""DeepLab for several maps: a dilated encoder is shared, spatial pyramids on top of it are not.

The encoder stops making its features smaller at an eighth of the picture, and widens its convolutions instead. The head of
every map looks at these features with several more dilations at once, and at their mean over the picture; what it says at an
eighth of the size is interpolated. The literature after SegNet compares methods on this one, from weights for ImageNet.

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

import difflib
from collections.abc import Sequence

import timm
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from zoo.dense import MapModel, map_sizes
from zoo.registry import ModelInfo, register_model

__all__ = ["DenseDeepLab", "dense_deeplab"]

_STRIDE = 8


def _encoder(name: str, in_channels: int, pretrained: bool = False) -> nn.Module:
    """timm's model without its classifier, dilated. Raises ValueError if timm has none of that name, or it has no dilations."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names them all"
        raise ValueError(f"dense_deeplab: timm has no encoder {name!r}; {hint}")
    try:
        return timm.create_model(
            name, pretrained, in_chans=in_channels, num_classes=0, global_pool="", output_stride=_STRIDE
        )
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"dense_deeplab: encoder {name!r} cannot be dilated; resnet50 and its like can") from error


class _Trunk(nn.Module):
    """The encoder. Gives its features, and of the image nothing but the size, which the heads need."""

    def __init__(self, encoder: str, in_channels: int) -> None:
        super().__init__()
        self.encoder = _encoder(encoder, in_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.encoder(image), image[:, :0]


class _Head(nn.Module):
    """The pyramid of one map, brought to the size of the image."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.pyramid = DeepLabHead(channels, outputs)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        values, frame = features
        return F.interpolate(self.pyramid(values), size=frame.shape[-2:], mode="bilinear", align_corners=True)


class DenseDeepLab(MapModel, PyTorchModelHubMixin):
    """Dilated encoder of timm with a DeepLabv3 head per map.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals.
        segmentation_classes: Number of classes, if there is a segmentation.
        encoder: A model of timm that can be dilated, such as a ResNet, with fresh weights.

    Raises:
        ValueError: No maps, unknown maps or encoder, an encoder that cannot be dilated, or a size out of range.
    """

    def __init__(
        self,
        in_channels: int,
        maps: Sequence[str],
        segmentation_classes: int | None = None,
        encoder: str = "resnet50",
    ) -> None:
        sizes = map_sizes("dense_deeplab", maps, segmentation_classes)
        if in_channels < 1:
            raise ValueError("dense_deeplab: in_channels must be at least 1")
        trunk = _Trunk(encoder, in_channels)
        channels = int(trunk.encoder.num_features)  # type: ignore[arg-type]
        super().__init__(trunk, {name: _Head(channels, size) for name, size in sizes.items()})

    def heads(self, features: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Features -> logits, depths, unit vectors."""
        maps = {name: head(features) for name, head in self.head.items()}
        if "normals" in maps:
            # half precision cannot hold the small number that keeps the length of a zero vector from dividing by zero
            maps["normals"] = F.normalize(maps["normals"].float(), dim=1)
        return maps


@register_model(
    ModelInfo(
        summary="dilated ResNet-50 with a DeepLabv3 head per map",
        inputs="image (B, in_channels, H, W)",
        objectives="any of segmentation, depth and normals",
        default_task="rooms",
        origin="Chen et al., 2017; Vandenhende et al., TPAMI 2022",
    )
)
def dense_deeplab(
    in_channels: int = 3,
    maps: Sequence[str] = ("segmentation", "depth", "normals"),
    segmentation_classes: int | None = 13,
    encoder: str = "resnet50",
    pretrained: bool = False,
) -> DenseDeepLab:
    """The model of :class:`DenseDeepLab`; with ``pretrained``, the encoder starts from the weights that timm has for it."""
    model = DenseDeepLab(in_channels, maps, segmentation_classes, encoder)
    if pretrained:
        model.trunk.get_submodule("encoder").load_state_dict(_encoder(encoder, in_channels, True).state_dict())
    return model
