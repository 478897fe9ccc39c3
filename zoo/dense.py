"""Dense prediction: one encoder, a decoder per map.

The encoder looks at the picture once. Each map - the class of every pixel, its depth, the direction its surface faces - has a
decoder of its own, which climbs from the coarsest stage to the finest and adds each on its way. Where it arrives, a position
speaks for a small square of pixels: one convolution gives the values of all of them, and the detail sharpens these.

    image (B, C, H, W) -> encoder -> stages at strides 2 ... 32 -+-> decoder -> segmentation (B, classes, H, W), logits
                 |                                               |-> decoder -> depth (B, 1, H, W), positive
                 +-----> stem ----> detail (B, 16, H, W) --------+-> decoder -> normals (B, 3, H, W), unit vectors

Any size: the encoder sees the picture padded to a multiple of its largest stride, and the maps are cut to the picture again.
Shared parameters: encoder and stem. Features for ``at="features"``: detail and stages.
Origin: E. Shelhamer et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015; decoders that add the stages:
T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

    model = create_model("dense_resnet18", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import timm
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from zoo.registry import ModelInfo, register_model

__all__ = ["Dense", "MapModel", "dense", "dense_resnet18", "map_sizes"]

_DETAIL = 16  # channels at the size of the picture
_FINISH: dict[str, Callable[[Tensor], Tensor]] = {
    "segmentation": lambda values: values,
    "depth": F.softplus,
    # half precision cannot hold the small number that keeps the length of a zero vector from dividing by zero
    "normals": lambda values: F.normalize(values.float(), dim=1),
}


def map_sizes(model: str, maps: Sequence[str], segmentation_classes: int | None) -> dict[str, int]:
    """Channels of each map. Raises ValueError, naming the ``model``, for maps that it cannot have."""
    sizes = {"segmentation": segmentation_classes or 0, "depth": 1, "normals": 3}
    if not maps or len(set(maps)) < len(maps) or not set(maps) <= set(sizes):
        raise ValueError(f"{model}: maps must be different ones of {', '.join(sizes)}, at least one, got {list(maps)}")
    if "segmentation" in maps and sizes["segmentation"] < 1:
        raise ValueError(f"{model}: segmentation needs segmentation_classes of at least 1, got {segmentation_classes}")
    return {name: sizes[name] for name in maps}


class MapModel(nn.Module):
    """What models for maps have in common: a trunk, and a head per map that reads nothing but what the trunk gives.

    Args:
        trunk: Image -> features.
        head: Map -> module from features to its channels (B, size, H, W).
        as_is: Maps that are what the head says; other depths are made positive, and normals are made unit vectors.
    """

    def __init__(self, trunk: nn.Module, head: Mapping[str, nn.Module], as_is: Collection[str] = ()) -> None:
        super().__init__()
        self.as_is = tuple(as_is)
        self.objectives = tuple(head)
        self.trunk = trunk
        self.head = nn.ModuleDict(head)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all maps together."""
        return (Phase("train", self.objectives),)

    def features(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, C, H, W) -> what the heads read."""
        return self.trunk(image)

    def heads(self, features: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Features -> logits, depths greater than 0, unit vectors."""
        found = {name: head(features) for name, head in self.head.items()}
        return {name: value if name in self.as_is else _FINISH[name](value) for name, value in found.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> one map (B, size, H, W) per objective."""
        return self.heads(self.features(image))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trunk, if more than one map is made from it."""
        return list(self.trunk.parameters()) if len(self.objectives) > 1 else []

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name``, and the trunk if nothing else uses it."""
        own = list(self.head[name].parameters())
        return own if len(self.objectives) > 1 else [*self.trunk.parameters(), *own]

    def networks(self) -> dict[str, nn.Module]:
        """The trunk and the heads, for an optimizer each."""
        return {"trunk": self.trunk, "heads": self.head}


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Trunk(nn.Module):
    """Detail at the size of the picture, then the stages of a timm encoder, from fine to coarse."""

    def __init__(self, encoder: str, in_channels: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(encoder, features_only=True, in_chans=in_channels)
        self.stem = _block(in_channels, _DETAIL)
        stages: Any = self.encoder.feature_info
        self.channels = [_DETAIL, *stages.channels()]
        self.strides = stages.reduction()
        self.channels_last = str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        down, right = (-size % max(self.strides) for size in image.shape[-2:])
        stages = self.encoder(F.pad(image, (0, right, 0, down)))
        if self.channels_last:
            stages = [stage.permute(0, 3, 1, 2) for stage in stages]
        # copies, as none of the features may be computed from another: gradients at them would count twice
        return (self.stem(image), *(stage.view_as(stage) for stage in stages))


class _Decoder(nn.Module):
    """From the coarsest stage to the finest, adding each on the way; the detail comes last."""

    def __init__(self, channels: Sequence[int], stride: int, width: int, outputs: int) -> None:
        super().__init__()
        detail, *stages = channels
        self.stride = stride
        self.inputs = nn.ModuleList(nn.Conv2d(size, width, 1) for size in stages)
        self.blocks = nn.ModuleList(_block(width, width) for _ in stages[1:])
        self.output = nn.Conv2d(width, outputs * stride**2, 3, padding=1)
        self.sharpen = nn.Conv2d(detail, outputs, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        detail, *stages = features
        *finer, values = [layer(stage) for layer, stage in zip(self.inputs, stages, strict=True)]
        for block, stage in zip(self.blocks, reversed(finer), strict=True):
            values = block(F.interpolate(values, size=stage.shape[-2:], mode="bilinear") + stage)
        height, width = detail.shape[-2:]
        return F.pixel_shuffle(self.output(values), self.stride)[..., :height, :width] + self.sharpen(detail)


class Dense(MapModel, PyTorchModelHubMixin):
    """Any timm encoder with a small decoder per map.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals.
        segmentation_classes: Number of classes, if there is a segmentation.
        encoder: Any model of timm that gives feature maps, with fresh weights. A few, such as swin, take one size of image only.
        width: Channels of every layer of the decoders, before the last.

    Raises:
        ValueError: No maps, unknown maps or encoder, or a size out of range.
    """

    def __init__(
        self,
        in_channels: int,
        maps: Sequence[str],
        segmentation_classes: int | None = None,
        encoder: str = "resnet18",
        width: int = 32,
    ) -> None:
        sizes = map_sizes("dense", maps, segmentation_classes)
        if min(in_channels, width) < 1:
            raise ValueError("dense: in_channels and width must be at least 1")
        if not timm.is_model(encoder):
            near = difflib.get_close_matches(encoder, timm.list_models(), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names them all"
            raise ValueError(f"dense: timm has no encoder {encoder!r}; {hint}")
        trunk = _Trunk(encoder, in_channels)
        head = {name: _Decoder(trunk.channels, trunk.strides[0], width, size) for name, size in sizes.items()}
        super().__init__(trunk, head)


_OBJECTIVES = "any of segmentation, depth and normals"
_ORIGIN = "Shelhamer et al., CVPR 2015; Lin et al., CVPR 2017"


@register_model(
    ModelInfo(
        summary="any timm encoder with a decoder per map",
        inputs="image (B, in_channels, H, W)",
        objectives=_OBJECTIVES,
        default_task="rooms",
        origin=_ORIGIN,
    )
)
def dense(
    in_channels: int = 3,
    maps: Sequence[str] = ("segmentation", "depth", "normals"),
    segmentation_classes: int | None = 13,
    encoder: str = "resnet18",
    width: int = 32,
    pretrained: bool = False,
) -> Dense:
    """The model of :class:`Dense`; with ``pretrained``, the encoder starts from the weights that timm has for it."""
    model = Dense(in_channels, maps, segmentation_classes, encoder, width)
    if pretrained:
        weights = timm.create_model(encoder, pretrained=True, features_only=True, in_chans=in_channels).state_dict()
        model.trunk.get_submodule("encoder").load_state_dict(weights)
    return model


@register_model(
    ModelInfo(
        summary="ResNet-18 with a decoder per map",
        inputs="image (B, in_channels, H, W)",
        objectives=_OBJECTIVES,
        default_task="rooms",
        origin=_ORIGIN,
    )
)
def dense_resnet18(
    in_channels: int = 3,
    maps: Sequence[str] = ("segmentation", "depth", "normals"),
    segmentation_classes: int | None = 13,
    width: int = 32,
    pretrained: bool = False,
) -> Dense:
    """:func:`dense` with a ResNet-18."""
    return dense(in_channels, maps, segmentation_classes, "resnet18", width, pretrained)
