"""Hard parameter sharing for images: one convolutional trunk, a linear head per objective.

The shared trunk for pictures. The trunk is the small LeNet of the MultiMNIST experiments, the plain network of the CelebA
experiments, or any backbone of timm; whatever it is, it ends in one vector per image, and each objective owns one linear
layer that reads it.

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

import difflib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import timm
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from zoo.registry import ModelInfo, register_model

__all__ = ["ImageTrunk", "shared_trunk_cnn", "shared_trunk_lenet", "shared_trunk_resnet18", "shared_trunk_timm"]


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
    """[Conv -> BatchNorm -> ReLU] per entry of ``channels``, halved before each that is wider, then two hidden layers."""

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


def _backbone(name: str, in_channels: int, image_size: int | None, pretrained: bool = False) -> nn.Module:
    """timm's backbone without its classifier. Raises ValueError if timm has none of that name."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names them all"
        raise ValueError(f"shared_trunk_timm: timm has no backbone {name!r}; {hint}")
    if image_size is not None:
        try:  # transformers are made for one size; convolutions take any, and no such argument
            return timm.create_model(name, pretrained, in_chans=in_channels, num_classes=0, img_size=image_size)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
    return timm.create_model(name, pretrained, in_chans=in_channels, num_classes=0)


class ImageTrunk(nn.Module, PyTorchModelHubMixin):
    """LeNet, plain network or timm backbone with one linear head per objective.

    Args:
        in_channels: Channels of the image.
        image_size: Side of the image; backbones that take any size need none.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        backbone: ``lenet``, ``cnn``, or any model of timm, with fresh weights.
        channels: Of the convolutions of LeNet or plain network, as many as there shall be.
        kernels: Side of each of the LeNet's kernels.
        width: Units of the last layer of LeNet or plain network.
        hidden: Units of one more shared layer on top of a timm backbone, with dropout; 0 for none.

    Raises:
        ValueError: No objectives, one named twice, an unknown backbone, or a size out of range.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int | None,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        backbone: str = "lenet",
        channels: Sequence[int] = (10, 20),
        kernels: Sequence[int] = (9, 5),
        width: int = 50,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        sizes = {**classifiers, **regressors}
        entry = f"shared_trunk_{backbone if backbone in ('lenet', 'cnn') else 'timm'}"
        if not sizes or len(sizes) < len(classifiers) + len(regressors):
            raise ValueError(f"{entry} needs at least one objective, and a different name for each")
        if min(in_channels, image_size or 1, width, *sizes.values(), *channels, *kernels) < 1:
            raise ValueError(
                f"{entry}: in_channels, image_size and the size of every layer and head must be at least 1"
            )
        if hidden < 0:
            raise ValueError(f"{entry}: hidden must not be negative, got {hidden}")
        self.objectives = tuple(sizes)
        if backbone == "lenet":
            if not channels or len(channels) != len(kernels) or image_size is None:
                raise ValueError(f"{entry} needs image_size, at least one channel count, and a kernel for each")
            self.trunk: nn.Module = _LeNet(in_channels, image_size, channels, kernels, width)
        elif backbone == "cnn":
            if not channels:
                raise ValueError(f"{entry} needs at least one channel count")
            self.trunk = _PlainCNN(in_channels, channels, width)
        else:
            self.trunk = _backbone(backbone, in_channels, image_size)
        # some backbones widen their features once more after pooling
        features: Any = getattr(self.trunk, "head_hidden_size", None) or self.trunk.num_features
        if hidden > 0:
            layer = nn.Linear(features, hidden)
            nn.init.normal_(layer.weight, std=0.005)  # as in LibMTL, where Office is trained like this
            top = (layer, nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Dropout(0.5))
            self.trunk, features = nn.Sequential(self.trunk, *top), hidden
        self.head = nn.ModuleDict({name: nn.Linear(features, size) for name, size in sizes.items()})

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: all objectives together."""
        return (Phase("train", self.objectives),)

    def features(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width)."""
        return self.trunk(image)

    def heads(self, features: Tensor) -> dict[str, Tensor]:
        """(B, width) -> one output per objective."""
        return {name: head(features) for name, head in self.head.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> one output per objective."""
        return self.heads(self.features(image))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trunk, if more than one objective reaches it."""
        return list(self.trunk.parameters()) if len(self.objectives) > 1 else []

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name``, and the trunk if nothing else uses it."""
        own = list(self.head[name].parameters())
        return own if len(self.objectives) > 1 else [*self.trunk.parameters(), *own]

    def networks(self) -> dict[str, nn.Module]:
        """The trunk and the heads, for an optimizer each."""
        return {"trunk": self.trunk, "heads": self.head}


def _info(summary: str) -> ModelInfo:
    return ModelInfo(
        summary=summary,
        inputs="image (B, in_channels, H, W)",
        objectives="any number of classifiers and regressors",
        default_task="multi_fashion",
        origin="Caruana, Machine Learning 1997; LeCun et al., Proc. IEEE 1998",
    )


@register_model(_info("LeNet with classifier and regressor heads, for small images"))
def shared_trunk_lenet(
    in_channels: int,
    image_size: int,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    channels: Sequence[int] = (10, 20),
    kernels: Sequence[int] = (9, 5),
    width: int = 50,
) -> ImageTrunk:
    """The LeNet of :class:`ImageTrunk`."""
    return ImageTrunk(in_channels, image_size, classifiers, regressors, "lenet", channels, kernels, width)


@register_model(_info("plain network of 3 x 3 convolutions with classifier and regressor heads, for images"))
def shared_trunk_cnn(
    in_channels: int,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    channels: Sequence[int] = (64, 128, 128, 256, 256, 512, 512),
    width: int = 512,
) -> ImageTrunk:
    """The plain network of :class:`ImageTrunk`, for images of any size."""
    return ImageTrunk(in_channels, None, classifiers, regressors, "cnn", channels, width=width)


@register_model(_info("any timm backbone with classifier and regressor heads, for images"))
def shared_trunk_timm(
    in_channels: int,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    image_size: int | None = None,
    backbone: str = "resnet18",
    pretrained: bool = False,
    hidden: int = 0,
) -> ImageTrunk:
    """A timm backbone in :class:`ImageTrunk`; with ``pretrained``, it starts from the weights that timm has for it."""
    model = ImageTrunk(in_channels, image_size, classifiers, regressors, backbone, hidden=hidden)
    if pretrained:
        inner = model.trunk.get_submodule("0") if hidden > 0 else model.trunk
        inner.load_state_dict(_backbone(backbone, in_channels, image_size, pretrained=True).state_dict())
    return model


@register_model(_info("ResNet-18 with classifier and regressor heads, for images"))
def shared_trunk_resnet18(
    in_channels: int,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    pretrained: bool = False,
) -> ImageTrunk:
    """:func:`shared_trunk_timm` with a ResNet-18, for images of any size."""
    return shared_trunk_timm(in_channels, classifiers, regressors, None, "resnet18", pretrained)
