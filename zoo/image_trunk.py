"""Hard parameter sharing for images: one convolutional trunk, a linear head per objective.

The trunk is the small LeNet of the MultiMNIST experiments, the plain network of the CelebA experiments, or any backbone of timm.
It ends in one vector per image, and each objective has one linear layer on this vector.

    image (B, C, H, W) -> LeNet: [Conv -> ReLU -> halve] x N -> Linear -> ReLU -+-> features (B, width)
                          or a plain CNN, or any backbone of timm, pooled ------+      |-> Linear -> logits (B, classes)
                                                                                       |-> Linear -> values (B, dims)

Shared parameters: all of the trunk. Features for ``at="features"``: the trunk's output.
Origin: R. Caruana, "Multitask Learning", Machine Learning 1997; the LeNet: Y. LeCun et al., "Gradient-Based Learning Applied
to Document Recognition", Proc. IEEE 1998, in the size of X. Lin et al., "Pareto Multi-Task Learning", NeurIPS 2019; the plain
network: the code of B. Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023.

    model = create_model("shared_trunk_lenet", in_channels=1, image_size=36, classifiers={"a": 10, "b": 10}, regressors={})
    outputs = model(image)                      # {"a": (B, 10), "b": (B, 10)}
    balancer.backward({"a": cross_entropy(outputs["a"], y), "b": cross_entropy(outputs["b"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from zoo.base import TrunkModel
from zoo.checks import check_at_least, head_sizes, rotations_of
from zoo.registry import ModelInfo, register_model, register_variant
from zoo.timm_models import create_timm, timm_name


class _LeNet(nn.Module):
    """[Conv -> ReLU -> halve] per entry of ``channels``, then one hidden layer."""

    def __init__(
        self, in_channels: int, image_size: int, channels: Sequence[int], kernels: Sequence[int], width: int
    ) -> None:
        super().__init__()
        side = image_size
        for kernel in kernels:
            side = (side - kernel + 1) // 2
            if side < 1:
                raise ValueError(
                    f"shared_trunk_lenet: images of {image_size} pixels are too small for kernels {list(kernels)}"
                )
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, kernel), nn.ReLU(), nn.MaxPool2d(2))
            for (a, b), kernel in zip(pairwise([in_channels, *channels]), kernels, strict=True)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(channels[-1] * side**2, width), nn.ReLU())
        self.num_features = width

    def forward(self, image: Tensor) -> Tensor:
        return self.hidden(self.blocks(image))


class _PlainCNN(nn.Module):
    """[Conv -> BatchNorm -> ReLU] per entry of ``channels``, then two hidden layers.

    The image is halved before each convolution that is wider than the one before.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([in_channels, *channels]):
            if layers and after > before:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.blocks = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.hidden = nn.Sequential(*_hidden(channels[-1], width), *_hidden(width, width))
        self.num_features = width

    def forward(self, image: Tensor) -> Tensor:
        return self.hidden(self.blocks(image))


def _hidden(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)


def _backbone(
    name: str, in_channels: int, image_size: int | None, pretrained: bool = False, file: str | None = None
) -> nn.Module:
    """timm's backbone without its classifier. Raises ValueError if it cannot take this size."""
    options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
    owner = ("shared_trunk_timm", "backbone", name)
    if image_size is not None:
        try:  # transformers are made for one size; convolutions take any, and no such argument
            return create_timm(*owner, pretrained, file, img_size=image_size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        except (AssertionError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise ValueError(
                f"shared_trunk_timm: backbone {name!r} cannot take images of {image_size} pixels ({reason}); try 224 or 256"
            ) from error
    return create_timm(*owner, pretrained, file, **options)


def _info(summary: str) -> ModelInfo:
    return ModelInfo(
        summary=summary,
        inputs="image (B, in_channels, H, W)",
        objectives="any number of classifiers and regressors",
        default_task="multi_fashion",
        origin="Caruana, Machine Learning 1997; LeCun et al., Proc. IEEE 1998",
    )


class _ImageTrunk(TrunkModel):
    """A trunk for images with a linear head per objective."""

    def __init__(self, model: str, trunk: nn.Module, width: int, sizes: Mapping[str, int], rotate: int) -> None:
        rotations = rotations_of(model, sizes, rotate, width)
        super().__init__(trunk, {name: nn.Linear(width, size) for name, size in sizes.items()}, rotations)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> one output per objective."""
        return self.heads(self.features(image))


@register_model("shared_trunk_lenet", _info("LeNet with classifier and regressor heads, for small images"))
class LeNetTrunk(_ImageTrunk):
    """LeNet with one linear head per objective.

    Args:
        in_channels: Channels of the image.
        image_size: Side of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        channels: Of the convolutions, one or more.
        kernels: Side of the kernel of each convolution.
        width: Units of the hidden layer, which are the features.
        rotate: How many features, the first ones, a rotation per objective turns for the balancer ``rotograd``; 0: none.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        channels: Sequence[int] = (10, 20),
        kernels: Sequence[int] = (9, 5),
        width: int = 50,
        rotate: int = 0,
    ) -> None:
        sizes = head_sizes("shared_trunk_lenet", classifiers, regressors)
        check_at_least("shared_trunk_lenet", 1, in_channels=in_channels, image_size=image_size, width=width)
        if not channels or len(channels) != len(kernels):
            raise ValueError("shared_trunk_lenet needs at least one channel count, and a kernel for each")
        check_at_least("shared_trunk_lenet", 1, channels=min(channels), kernels=min(kernels))
        trunk = _LeNet(in_channels, image_size, channels, kernels, width)
        super().__init__("shared_trunk_lenet", trunk, width, sizes, rotate)


@register_model(
    "shared_trunk_cnn", _info("plain network of 3 x 3 convolutions with classifier and regressor heads, for images")
)
class CNNTrunk(_ImageTrunk):
    """Plain network of convolutions with one linear head per objective, for images of any size.

    Args:
        in_channels: Channels of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        channels: Of the convolutions, one or more; the image is halved before each that is wider.
        width: Units of the two hidden layers.
        rotate: How many features, the first ones, a rotation per objective turns for the balancer ``rotograd``; 0: none.
    """

    def __init__(
        self,
        in_channels: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        channels: Sequence[int] = (64, 128, 128, 256, 256, 512, 512),
        width: int = 512,
        rotate: int = 0,
    ) -> None:
        sizes = head_sizes("shared_trunk_cnn", classifiers, regressors)
        if not channels:
            raise ValueError("shared_trunk_cnn needs at least one channel count")
        check_at_least("shared_trunk_cnn", 1, in_channels=in_channels, channels=min(channels), width=width)
        super().__init__("shared_trunk_cnn", _PlainCNN(in_channels, channels, width), width, sizes, rotate)


@register_model("shared_trunk_timm", _info("any timm backbone with classifier and regressor heads, for images"))
class TimmTrunk(_ImageTrunk):
    """Backbone of timm with one linear head per objective.

    Args:
        in_channels: Channels of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        image_size: Side of the image; backbones that take any size need none.
        backbone: Any model of timm.
        pretrained: Start the backbone from the weights that timm has for it.
        hidden: Units of one more shared layer on top of the backbone, with dropout; 0 for none.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.
        rotate: How many features, the first ones, a rotation per objective turns for the balancer ``rotograd``; 0: none.
    """

    def __init__(
        self,
        in_channels: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        image_size: int | None = None,
        backbone: str = "resnet18",
        pretrained: bool = False,
        hidden: int = 0,
        pretrained_file: str | None = None,
        rotate: int = 0,
    ) -> None:
        sizes = head_sizes("shared_trunk_timm", classifiers, regressors)
        check_at_least("shared_trunk_timm", 1, in_channels=in_channels)
        if image_size is not None:
            check_at_least("shared_trunk_timm", 1, image_size=image_size)
        if hidden < 0:
            raise ValueError(f"shared_trunk_timm: hidden must not be negative, got {hidden}")
        backbone = timm_name("shared_trunk_timm", "backbone", backbone)
        trunk = inner = _backbone(backbone, in_channels, image_size)
        # some backbones widen their features once more after pooling
        width: Any = getattr(inner, "head_hidden_size", None) or inner.num_features
        if hidden > 0:
            layer = nn.Linear(width, hidden)
            nn.init.normal_(layer.weight, std=0.005)  # as in LibMTL, where Office is trained like this
            top = (layer, nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Dropout(0.5))
            trunk, width = nn.Sequential(inner, *top), hidden
        super().__init__("shared_trunk_timm", trunk, width, sizes, rotate)
        if pretrained:
            inner.load_state_dict(_backbone(backbone, in_channels, image_size, True, pretrained_file).state_dict())


@register_variant(
    "shared_trunk_resnet18", _info("ResNet-18 with classifier and regressor heads, for images"), TimmTrunk
)
def shared_trunk_resnet18() -> dict[str, Any]:
    """:class:`TimmTrunk` with a ResNet-18, for images of any size."""
    return {"image_size": None, "backbone": "resnet18", "hidden": 0}
