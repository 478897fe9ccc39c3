"""Trunks of timm, cut into the stages that follow each other.

A stage maps (B, C, ...) to (B, C', ...): of convolutional and hierarchical networks a feature map (B, C, H, W), of plain
transformers tokens (B, C, N). So whatever mixes, pools or gates channels needs to know nothing about the trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import check_at_least
from zoo.registry import ModelInfo
from zoo.timm_models import create_timm

ImageSize = int | Sequence[int] | None
_PARTS = 4  # of the blocks of a plain transformer


class Stage(nn.Module):
    """(B, C, ...) -> (B, C', ...), by consecutive layers of a trunk.

    Args:
        layers: The layers.
        last_in: They read channels in the last dimension.
        last_out: They give channels in the last dimension.
    """

    def __init__(self, layers: Sequence[nn.Module], last_in: bool, last_out: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.last_in, self.last_out = last_in, last_out

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last layer."""
        x = self.layers(x.movedim(1, -1) if self.last_in else x)
        return x.movedim(-1, 1) if self.last_out else x


class _Tokens(nn.Module):
    """Image -> tokens (B, N, C) of a plain transformer, with their positions.

    Images are padded to whole patches, as timm would not read what is left of them at the right and at the bottom.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        net.blocks, net.norm, net.fc_norm, net.attn_pool = nn.Identity(), nn.Identity(), nn.Identity(), None

    def forward(self, image: Tensor) -> Tensor:
        height, width = self.net.patch_embed.patch_size
        padded = F.pad(image, (0, -image.shape[-1] % width, 0, -image.shape[-2] % height))
        return self.net.forward_features(padded)


class Stages(nn.ModuleList):
    """The stages of a trunk.

    Attributes:
        widths: Channels that each gives.
        strides: Pixels, in each direction, that a place of its output stands for.
    """

    def __init__(self, stages: Sequence[Stage], widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(stages)
        self.widths, self.strides = list(widths), list(strides)


def timm_stages(
    owner: str,
    backbone: str,
    in_channels: int,
    image_size: ImageSize,
    pretrained: bool = False,
    pretrained_file: str | None = None,
) -> Stages:
    """A trunk in stages.

    Args:
        owner: Begins the messages.
        backbone: As :func:`zoo.timm_models.timm_name` gives it.
        in_channels: Channels of the image.
        image_size: Side of the image, or height and width, for trunks that are made for one size.
        pretrained: With the weights that timm has for it.
        pretrained_file: With those of this file instead.

    Raises:
        ValueError: The trunk cannot be cut, cannot take this size, or has no such weights.
    """
    options = _options(owner, backbone, in_channels, image_size)
    return _cut(create_timm(owner, "backbone", backbone, pretrained, pretrained_file, **options))


def load_stages(trunks: Iterable[Stages], source: Stages) -> None:
    """Give all trunks the weights of ``source``."""
    for trunk in trunks:
        trunk.load_state_dict(source.state_dict())


def check_below(owner: str, option: str, value: int, trunk: Stages) -> None:
    """Raise ValueError unless ``value`` stages leave at least one of the trunk."""
    if not 1 <= value < len(trunk):
        raise ValueError(
            f"{owner}: {option} must be in 1 ... {len(trunk) - 1}, as the backbone has {len(trunk)} stages, got {value}"
        )


def image_info(summary: str, origin: str) -> ModelInfo:
    """Description of a model for images."""
    objectives = "any number of classifiers and regressors; maps of any names and kinds"
    return ModelInfo(summary, "image (B, in_channels, H, W)", objectives, "multi_fashion", origin)


def pool(x: Tensor) -> Tensor:
    """(B, C, ...) -> (B, C): the mean over everything else."""
    return x.flatten(2).mean(2)


def check_image(owner: str, in_channels: int, image_size: ImageSize) -> None:
    """Raise ValueError for sizes that cannot be."""
    sides = [image_size or 1] if image_size is None or isinstance(image_size, int) else [*image_size]
    if isinstance(image_size, Sequence) and len(sides) != 2:
        raise ValueError(f"{owner}: image_size must be a side, or height and width, got {sides}")
    for side in sides:
        check_at_least(owner, 1, in_channels=in_channels, image_size=side)


def _options(owner: str, backbone: str, in_channels: int, image_size: ImageSize) -> dict[str, Any]:
    """Options for timm with which a trunk can be cut; no memory or random numbers are used."""
    import timm

    size = {} if image_size is None else {"img_size": image_size}
    shape = [*image_size] if isinstance(image_size, Sequence) else [image_size or 224] * 2
    listed = {"features_only": True}
    flat = {**listed, "feature_cfg": {"feature_cls": "list", "flatten_sequential": True}}
    reasons: dict[str, str] = {}
    for way in ({"num_classes": 0}, listed, {**listed, "feature_cls": "list"}, flat):
        for sized in (size, {}) if size else ({},):  # transformers are made for one size; others have no such argument
            options: dict[str, Any] = {"in_chans": in_channels, **way, **sized}
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                try:
                    x: Tensor = torch.empty(1, in_channels, *shape)
                    net = timm.create_model(backbone, **options).eval()
                    if sized and isinstance(net, timm.models.VisionTransformer):  # positions for whole patches
                        options["img_size"] = [x.shape[-1] + -x.shape[-1] % side for side in net.patch_embed.patch_size]
                        net = timm.create_model(backbone, **options).eval()
                    for stage in _cut(net):
                        x = stage(x)
                except Exception as error:  # each family has its own
                    reasons[str(way)] = " ".join(str(error).split())[:120] or type(error).__name__
                    if "img_size" not in str(error):
                        break
                    continue
            return options
    told = shape[0] if len({*shape}) == 1 else " x ".join(map(str, shape))
    raise ValueError(
        f"{owner}: backbone {backbone!r} cannot be cut into stages, or not for images of {told} pixels "
        f"({reasons[str(listed)]}); try resnet18, convnext_atto, mobilenetv3_small_050 or vit_tiny_patch16_224"
    )


def _cut(net: Any) -> Stages:
    """Stages, each up to and with the layer that gives a feature map.

    Raises TypeError if there are none.
    """
    import timm

    if isinstance(net, timm.models.VisionTransformer):
        return _plain(net)
    if not hasattr(net, "return_layers"):
        raise TypeError(f"{type(net).__name__} is no list of layers")
    last = str(net.output_fmt).endswith("NHWC")
    stages: list[Stage] = []
    layers: list[nn.Module] = []
    for name, layer in net.items():
        layers.append(layer)
        if name in net.return_layers:
            stages.append(Stage(layers, last and bool(stages), last))
            layers = []
    return Stages(stages, net.feature_info.channels(), net.feature_info.reduction())


def _plain(net: Any) -> Stages:
    """Stages of a plain transformer: its blocks in equal parts, patches before, norm after."""
    blocks, norms, width = list(net.blocks), [net.norm, net.fc_norm], net.embed_dim
    count = min(_PARTS, len(blocks))
    cuts = [len(blocks) * part // count for part in range(count + 1)]
    parts: list[list[nn.Module]] = [blocks[start:end] for start, end in pairwise(cuts)]
    strides = [max(net.patch_embed.patch_size)] * count
    parts[0] = [_Tokens(net), *parts[0]]
    parts[-1] = [*parts[-1], *norms]
    return Stages([Stage(part, index > 0, True) for index, part in enumerate(parts)], [width] * count, strides)
