"""Common parts of models for maps: kinds of maps, outputs as maps, heads for labels.

kind                channels   output
classes             classes    logits
binary, share       1          a logit, of a yes or of a number in [0, 1]
depth, disparity    1          positive numbers, or any number where a model says so
normals             3          unit vectors

A label of the whole image is a linear layer on the mean of some features of the trunk over all places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from balancing.registry import suggestion
from zoo.base import TrunkModel
from zoo.checks import check_at_least
from zoo.registry import ModelInfo

MAPS = ("segmentation", "depth", "normals")
DETAIL = 16  # channels at the size of the image
Maps = Sequence[str] | Mapping[str, Mapping[str, str | int]]
_CHANNELS = {"classes": 0, "binary": 1, "share": 1, "depth": 1, "disparity": 1, "normals": 3}


def map_info(summary: str, origin: str) -> ModelInfo:
    """Description of a model for maps."""
    objectives = "maps of any names: classes, binary, share, depth, disparity, normals; labels of the whole image"
    return ModelInfo(summary, "image (B, in_channels, H, W)", objectives, "rooms", origin)


def map_sizes(model: str, maps: Maps, segmentation_classes: int | None) -> tuple[dict[str, int], dict[str, str]]:
    """Channels of each map, and its kind.

    Args:
        model: Begins the messages.
        maps: Names among ``segmentation``, ``depth`` and ``normals``; or name -> ``kind``, and ``classes`` if that is the kind.
        segmentation_classes: Number of classes of ``segmentation``, for a sequence of names.

    Raises:
        ValueError: No maps, maps that are not known, or a number of classes below 1.
    """
    named = _described(model, maps) if isinstance(maps, Mapping) else _standard(model, maps, segmentation_classes)
    return {name: size for name, (_, size) in named.items()}, {name: kind for name, (kind, _) in named.items()}


def _standard(model: str, maps: Sequence[str], classes: int | None) -> dict[str, tuple[str, int]]:
    known = {"segmentation": ("classes", classes or 0), "depth": ("depth", 1), "normals": ("normals", 3)}
    if not maps or len(set(maps)) < len(maps) or not set(maps) <= set(known):
        raise ValueError(
            f"{model}: maps must be different ones of {', '.join(known)}, at least one, got {list(maps)}; for other names say "
            "what they are: maps={ground: {kind: classes, classes: 7}, height: {kind: depth}}"
        )
    if "segmentation" in maps and (classes or 0) < 1:
        raise ValueError(f"{model}: segmentation needs segmentation_classes of at least 1, got {classes}")
    return {name: known[name] for name in maps}


def _described(model: str, maps: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    if not maps:
        raise ValueError(f"{model}: maps must have at least one map, got none")
    described = {}
    for name, options in maps.items():
        check_map_name(model, name)
        kind, classes = options.get("kind"), options.get("classes")
        if kind not in _CHANNELS:
            raise ValueError(f"{model}: maps.{name}.kind: {suggestion(str(kind), list(_CHANNELS), 'one of {}')}")
        unknown = set(options) - {"kind", "classes"}
        if unknown or (classes is not None and kind != "classes"):
            raise ValueError(f"{model}: maps.{name} has kind {kind} and cannot have {min(unknown or {'classes'})}")
        if kind == "classes" and (not isinstance(classes, int) or classes < 1):
            raise ValueError(f"{model}: maps.{name} needs classes, how many there are, at least 1; got {classes}")
        described[name] = (str(kind), int(classes or 0) if kind == "classes" else _CHANNELS[kind])
    return described


def check_map_name(owner: str, name: str) -> None:
    """Raise ValueError unless a map, and with it an objective and a head, can have this name."""
    if not re.fullmatch(r"\w+", name) or hasattr(nn.ModuleDict(), name) or name == "image":
        raise ValueError(f"{owner}: a map cannot be called {name!r}; take another name, of letters, digits and _")


class LabelHead(nn.Module):
    """Linear layer on the mean of a tensor over its places.

    Args:
        channels: Of the tensor (B, channels, H, W), or the product of several axes in their place.
        outputs: Of the layer.
        place: Of the tensor among the features; ``None``: it is all of them.
    """

    def __init__(self, channels: int, outputs: int, place: int | None = None) -> None:
        super().__init__()
        self.place = place
        self.output = nn.Linear(channels, outputs)

    def forward(self, features: Any) -> Tensor:
        values = features if self.place is None else features[self.place]
        return self.output(values.mean((-2, -1)).flatten(1))


def label_heads(
    model: str, labels: Mapping[str, int] | None, maps: Mapping[str, int], channels: int, place: int | None = None
) -> dict[str, LabelHead]:
    """A head for each label of the whole image.

    Args:
        model: Begins the messages.
        labels: Name -> number of outputs.
        maps: Names that are taken.
        channels: See :class:`LabelHead`.
        place: Likewise.

    Raises:
        ValueError: A name that is taken or cannot be, or a size below 1.
    """
    heads = {}
    for name, size in (labels or {}).items():
        check_map_name(model, name)
        check_at_least(model, 1, **{f"the size of label {name!r}": size})
        if name in maps:
            raise ValueError(f"{model}: a map and a label are both called {name!r}; rename one")
        heads[name] = LabelHead(channels, size, place)
    return heads


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) -> Conv 3x3 -> BatchNorm -> ReLU -> (B, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def to_finest(values: Tensor, stages: Sequence[Tensor], blocks: nn.ModuleList) -> Tensor:
    """Up from the coarsest values through ``stages``, fine to coarse: enlarge, add, a block."""
    for block, stage in zip(blocks, reversed(stages), strict=True):
        values = block(F.interpolate(values, size=stage.shape[-2:], mode="bilinear") + stage)
    return values


def to_pixels(values: Tensor, detail: Tensor, output: nn.Module, stride: int) -> Tensor:
    """``output`` of (B, width, h, w), its channels as pixels, in the size of ``detail``."""
    height, width = detail.shape[-2:]
    rows, columns = -(-height // stride), -(-width // stride)
    if values.shape[-2] < rows or values.shape[-1] < columns:  # an encoder that does not pad its convolutions
        values = F.interpolate(values, size=(rows, columns), mode="bilinear")
    return F.pixel_shuffle(output(values), stride)[..., :height, :width]


class MapDecoder(nn.Module):
    """From the coarsest stage to the finest, adding each on the way; the detail comes last.

    Args:
        channels: Of the detail, then of the stages, from fine to coarse.
        stride: Of the finest stage.
        width: Channels of every layer before the last.
        outputs: Channels of the map.
    """

    def __init__(self, channels: Sequence[int], stride: int, width: int, outputs: int) -> None:
        super().__init__()
        detail, *stages = channels
        self.stride = stride
        self.inputs = nn.ModuleList(nn.Conv2d(size, width, 1) for size in stages)
        self.blocks = nn.ModuleList(conv_block(width, width) for _ in stages[1:])
        self.output = nn.Conv2d(width, outputs * stride**2, 3, padding=1)
        self.sharpen = nn.Conv2d(detail, outputs, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Detail (B, DETAIL, H, W) and stages -> (B, outputs, H, W)."""
        detail, *stages = features
        *finer, values = [layer(stage) for layer, stage in zip(self.inputs, stages, strict=True)]
        values = to_finest(values, finer, self.blocks)
        return to_pixels(values, detail, self.output, self.stride) + self.sharpen(detail)


def finish_maps(maps: Mapping[str, Tensor], kinds: Mapping[str, str], positive_depth: bool) -> dict[str, Tensor]:
    """Outputs of the heads -> logits, depths (``positive_depth``: greater than 0), unit vectors.

    Outputs without a kind, those of labels, stay as they are.
    """
    finished = dict(maps)
    for name, values in maps.items():
        kind = kinds.get(name)
        if positive_depth and kind in ("depth", "disparity"):
            finished[name] = F.softplus(values)
        if kind == "normals":
            # half precision cannot hold the small number that keeps the length of a zero vector from dividing by zero
            finished[name] = F.normalize(values.float(), dim=1)
    return finished


class MapModel(TrunkModel):
    """A trunk, and a head per map or label that reads nothing but the trunk's output.

    Args:
        trunk: Image -> features.
        head: Map -> module from features to its channels (B, size, H, W); label -> :class:`LabelHead`.
        kinds: Map -> kind.
        positive_depth: Make depths greater than 0; otherwise they may be any number.
    """

    def __init__(
        self, trunk: nn.Module, head: Mapping[str, nn.Module], kinds: Mapping[str, str], positive_depth: bool = True
    ) -> None:
        super().__init__(trunk, head)
        self.kinds, self.positive_depth = dict(kinds), positive_depth

    def heads(self, features: Any) -> dict[str, Tensor]:
        """Features -> logits, depths, unit vectors; labels (B, size)."""
        return finish_maps(super().heads(features), self.kinds, self.positive_depth)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> a map (B, size, H, W) or a label (B, size) per objective."""
        return self.heads(self.features(image))
