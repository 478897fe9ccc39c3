"""Dense prediction by a transformer: tokens of every map, which attend to those of all maps.

The encoder is any transformer of timm, whose stages are added up at one working stride. There every map gets tokens of its own, one per
position. In blocks of attention each token reads the tokens of all maps, so that an edge of the depth can sharpen the segmentation.
The last block belongs to a map; after it the tokens are up-sampled, and finer stages and a stem of convolutions are added.

    image (B, C, H, W) -> encoder -> stages, added at stride 8 or 16 -> tokens (B, maps, D, h, w) -> [attention over all maps] x depth
             |               |                                            |-> own attention -> up-sampling -> segmentation, logits
             |               +-----> finer stages, if there are any ------|-> own attention -> up-sampling -> depth (B, 1, H, W)
             +-----> stem at strides 1, 2, ... (B, 16 ..., H, W) ---------+-> own attention -> up-sampling -> normals (B, 3, H, W)

Keys and values are averages of 2 x 2 tokens. Any size: the image is padded to a multiple of the largest stride, and the maps are
cut to the image's size.
Shared parameters: encoder, stem, tokens and the shared blocks. Features for ``at="features"``: stem, finer stages and the tokens
before the last block, which every map reads.
Origin: H. Ye and D. Xu, "Inverted Pyramid Multi-task Transformer for Dense Scene Understanding", ECCV 2022 (arXiv:2203.07997);
tokens of tasks: H. Ye and D. Xu, "TaskPrompter: Spatial-Channel Multi-Task Prompting for Dense Scene Understanding", ICLR 2023.
Differs from InvPT in that attention stays at one stride, convolutions do the rest of the up-sampling, and no preliminary maps are
predicted.

    model = create_model("dense_vit", in_channels=3, maps=("segmentation", "depth"), segmentation_classes=13)
    outputs = model(image)                      # {"segmentation": (B, 13, H, W), "depth": (B, 1, H, W)}
    balancer.backward({"segmentation": cross_entropy(outputs["segmentation"], y), "depth": l1_loss(outputs["depth"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import check_at_least
from zoo.maps import (
    DETAIL,
    MAPS,
    MapModel,
    Maps,
    conv_block,
    label_heads,
    map_info,
    map_sizes,
    to_finest,
    to_pixels,
)
from zoo.registry import register_model
from zoo.timm_models import check_patch_size, create_timm, fitting_size, timm_name

_STAGES = 4  # of a plain transformer
_ORIGIN = "Ye and Xu, ECCV 2022 and ICLR 2023"


class _Attention(nn.Module):
    """Tokens of some maps read the tokens of all maps; then a feed-forward network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_queries, self.norm_keys, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, every: Tensor) -> Tensor:
        """Tokens (B, maps, D, h, w) of some maps and of all -> the former after the block."""
        x = _sequence(tokens)
        pooled = F.avg_pool2d(every.flatten(0, 1), 2, ceil_mode=True).unflatten(0, every.shape[:2])
        queries = self._split(self.queries(self.norm_queries(x)))
        keys, values = map(self._split, self.keys(self.norm_keys(_sequence(pooled))).chunk(2, dim=-1))
        read = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.output(read.transpose(1, 2).flatten(2))
        x = x + self.hidden(self.norm(x))
        return x.unflatten(1, (tokens.shape[1], *tokens.shape[-2:])).permute(0, 1, 4, 2, 3)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, heads, N, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _sequence(tokens: Tensor) -> Tensor:
    """(B, maps, D, h, w) -> (B, maps h w, D)."""
    return tokens.permute(0, 1, 3, 4, 2).flatten(1, 3)


class _Trunk(nn.Module):
    """Stem from fine to coarse, stages finer than the tokens, tokens of all maps."""

    def __init__(
        self, encoder: str, options: Mapping[str, Any], names: Sequence[str], dim: int, heads: int, depth: int
    ) -> None:
        super().__init__()
        self.encoder = create_timm("dense_vit", "encoder", encoder, **options)
        info: Any = self.encoder.feature_info
        strides, channels = list(info.reduction()), list(info.channels())
        self.pad = max(strides)
        self.size = _only_size(self.encoder)
        self.channels_last = str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC")
        coarse = [stride for stride in strides if stride >= 8]
        stride = min(coarse) if coarse else max(strides)
        self.fine = sum(s < stride for s in strides)
        widths, step = [DETAIL], 1
        blocks = [conv_block(options["in_chans"], DETAIL)]
        while step * 2 < min(strides):
            step *= 2
            widths.append(min(2 * widths[-1], 64))
            blocks.append(_halve(widths[-2], widths[-1]))
        self.stem = nn.ModuleList(blocks)
        self.channels = [*widths, *channels[: self.fine]]
        self.strides = [2**k for k in range(len(widths))] + strides[: self.fine]
        self.stride = stride
        self.inputs = nn.ModuleList(nn.Conv2d(size, dim, 1) for size in channels[self.fine :])
        self.tokens = nn.ModuleDict({name: conv_block(dim, dim) for name in names})
        self.blocks = nn.ModuleList(_Attention(dim, heads) for _ in range(depth))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        down, right = (-size % self.pad for size in image.shape[-2:])
        padded = F.pad(image, (0, right, 0, down))
        if self.size is not None and tuple(padded.shape[-2:]) != self.size:
            height, width = image.shape[-2:]
            raise ValueError(
                f"dense_vit: the encoder is made for images of {self.size[0]} x {self.size[1]} pixels, and got {height} x {width}; "
                f"build the model with image_size=({height}, {width})"
            )
        stages = self.encoder(padded)
        if self.channels_last:
            stages = [stage.permute(0, 3, 1, 2) for stage in stages]
        finer, x = [], padded
        for block in self.stem:
            x = block(x)
            finer.append(x)
        finer[0] = finer[0][..., : image.shape[-2], : image.shape[-1]]
        size = stages[self.fine].shape[-2:]
        together = sum(
            F.interpolate(layer(stage), size=size, mode="bilinear")
            for layer, stage in zip(self.inputs, stages[self.fine :], strict=True)
        )
        tokens = torch.stack([block(together) for block in self.tokens.values()], dim=1)
        for block in self.blocks:
            tokens = block(tokens, tokens)
        # copies, as none of the features may be computed from another: gradients at them would count twice
        return (*(feature.view_as(feature) for feature in [*finer, *stages[: self.fine]]), tokens)


def _evenly_spaced(encoder: str) -> dict[str, Any]:
    """Option for four evenly spaced blocks of a plain transformer; timm takes the last ones."""
    import timm  # takes most of a second, and models for tables need none

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        net: Any = timm.create_model(encoder, features_only=True)
    blocks = len(getattr(getattr(net, "model", None), "blocks", ()))
    if blocks < _STAGES or len(set(net.feature_info.reduction())) > 1:
        return {}
    return {"out_indices": [blocks * (k + 1) // _STAGES - 1 for k in range(_STAGES)]}


def _only_size(encoder: Any) -> tuple[int, int] | None:
    """Height and width that a transformer is made for; ``None`` if it takes any."""
    patches = getattr(getattr(encoder, "model", encoder), "patch_embed", None)
    size = getattr(patches, "img_size", None)
    return tuple(size) if size is not None and getattr(patches, "strict_img_size", False) else None


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Decoder(nn.Module):
    """Own attention of a map, then from the tokens to the finest stage, adding each on the way."""

    def __init__(self, place: int, trunk: _Trunk, dim: int, heads: int, width: int, outputs: int) -> None:
        super().__init__()
        detail, *finer = trunk.channels
        self.place = place
        self.stride = trunk.strides[1] if finer else trunk.stride
        self.block = _Attention(dim, heads)
        self.reduce = nn.Conv2d(dim, width, 1)
        self.inputs = nn.ModuleList(nn.Conv2d(size, width, 1) for size in finer)
        self.blocks = nn.ModuleList(conv_block(width, width) for _ in finer)
        self.output = nn.Conv2d(width, outputs * self.stride**2, 3, padding=1)
        self.sharpen = nn.Conv2d(detail, outputs, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        detail, *finer, tokens = features
        values = self.reduce(self.block(tokens[:, self.place : self.place + 1], tokens)[:, 0])
        lateral = [layer(stage) for layer, stage in zip(self.inputs, finer, strict=True)]
        values = to_finest(values, lateral, self.blocks)
        return to_pixels(values, detail, self.output, self.stride) + self.sharpen(detail)


@register_model("dense_vit", map_info("any timm transformer with attention over the tokens of all maps", _ORIGIN))
class DenseViT(MapModel):
    """Any timm transformer with tokens per map that attend to those of all maps.

    Args:
        in_channels: Channels of the image.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        encoder: Any model of timm that gives feature maps.
        patch_size: Side of a patch, for plain transformers; by default the encoder's own.
        dim: Numbers of a token.
        attention_heads: Of each attention; they share the numbers of a token.
        depth: Blocks of attention before the one that belongs to a map.
        width: Channels of every layer of the decoders, before the last.
        pretrained: Start the encoder from the weights that timm has for it.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.
        image_size: Height and width of the image, for encoders that are made for one size.
        labels: Label of the whole image -> number of outputs, from the means of the tokens of all maps.

    Raises:
        ValueError: Maps, a size or an encoder that cannot be, or weights that cannot be had.
    """

    def __init__(
        self,
        in_channels: int = 3,
        maps: Maps = MAPS,
        segmentation_classes: int | None = 13,
        encoder: str = "mobilevitv2_050",
        patch_size: int | None = None,
        dim: int = 64,
        attention_heads: int = 4,
        depth: int = 1,
        width: int = 32,
        pretrained: bool = False,
        pretrained_file: str | None = None,
        image_size: Sequence[int] | None = None,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        sizes, kinds = map_sizes("dense_vit", maps, segmentation_classes)
        check_at_least("dense_vit", 1, in_channels=in_channels, dim=dim, attention_heads=attention_heads, width=width)
        check_at_least("dense_vit", 0, depth=depth)
        if dim % attention_heads:
            raise ValueError(f"dense_vit: dim must be a multiple of attention_heads, got {dim} and {attention_heads}")
        encoder = timm_name("dense_vit", "encoder", encoder)
        own: dict[str, Any] = {} if patch_size is None else {"patch_size": patch_size}
        if patch_size is not None:
            check_patch_size("dense_vit", encoder, patch_size)
        own |= _evenly_spaced(encoder)
        options: dict[str, Any] = {"features_only": True, "in_chans": in_channels, **own}
        if image_size is not None:
            if len(image_size) != 2 or min(image_size) < 1:
                raise ValueError(f"dense_vit: image_size must be height and width, at least 1, got {list(image_size)}")
            if patch_size is not None and patch_size > min(image_size):
                height, width = image_size
                raise ValueError(
                    f"dense_vit: patch_size={patch_size} is larger than an image of {height} x {width} pixels; take a smaller one"
                )
            fitting = fitting_size("dense_vit", encoder, in_channels, image_size, own)
            options |= {} if fitting is None else {"img_size": fitting}
        trunk = _Trunk(encoder, options, tuple(sizes), dim, attention_heads, depth)
        head: dict[str, nn.Module] = {
            name: _Decoder(place, trunk, dim, attention_heads, width, size)
            for place, (name, size) in enumerate(sizes.items())
        }
        super().__init__(trunk, head | label_heads("dense_vit", labels, sizes, len(sizes) * dim, -1), kinds)
        self.ordered_by_objective = tuple(labels or ())  # they read the means of all maps in a row
        if pretrained:
            source = create_timm("dense_vit", "encoder", encoder, True, pretrained_file, **options)
            trunk.encoder.load_state_dict(source.state_dict())
