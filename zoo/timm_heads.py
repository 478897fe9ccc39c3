"""Heads on the stages of a timm trunk: linear layers, and decoders for maps.

    image (B, C, H, W) -> detail (B, 16, H, W) -----------+-> decoder -> segmentation (B, classes, H, W), logits
      |-> padded to whole strides -> stages, which a -----+-> decoder -> depth (B, 1, H, W), positive
          model shares between objectives in its own way -+-> last stage, pooled -> Linear -> values (B, dims)

A model without maps has no detail, and its features are pooled before its heads see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import check_at_least, head_sizes
from zoo.maps import DETAIL, MapDecoder, Maps, check_map_name, conv_block, finish_maps, map_sizes
from zoo.timm_stages import Stages, pool


class Detail(nn.Module):
    """What maps read at the size of the image, and the image as the trunk takes it.

    Args:
        in_channels: Channels of the image.
        strides: Of the trunk's stages.
    """

    def __init__(self, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.multiple = max(strides)
        self.block = conv_block(in_channels, DETAIL)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> (B, DETAIL, H, W), and the padded image."""
        return self.block(image), self.padded(image)

    def padded(self, image: Tensor) -> Tensor:
        """The image with zeros at the right and at the bottom, to whole strides."""
        return F.pad(image, (0, -image.shape[-1] % self.multiple, 0, -image.shape[-2] % self.multiple))


class Heads(nn.ModuleDict):
    """Objective -> decoder of its map, or linear layer.

    Args:
        sizes: Objective -> channels of its map, or number of outputs.
        kinds: Map -> kind.
        trunk: Whose stages the heads read.
        width: Channels of the decoders.
    """

    def __init__(self, sizes: Mapping[str, int], kinds: Mapping[str, str], trunk: Stages, width: int) -> None:
        channels = [DETAIL, *trunk.widths]
        super().__init__(
            {
                name: MapDecoder(channels, trunk.strides[0], width, size)
                if name in kinds
                else nn.Linear(trunk.widths[-1], size)
                for name, size in sizes.items()
            }
        )
        self.kinds, self.strides = dict(kinds), trunk.strides

    def answer(self, detail: Tensor, states: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Detail, and the stages as each objective has them -> maps, logits and values."""
        outputs = {}
        for name, head in self.items():
            own = states[name]
            outputs[name] = head([detail, *self._grids(detail, own)]) if name in self.kinds else head(pool(own[-1]))
        return finish_maps(outputs, self.kinds, True)

    def _grids(self, detail: Tensor, stages: Iterable[Tensor]) -> Iterable[Tensor]:
        """Feature maps; tokens (B, C, N) are laid out in rows, without those of no place."""
        for stage, stride in zip(stages, self.strides, strict=True):
            rows, columns = (-(-side // stride) for side in detail.shape[-2:])
            yield stage if stage.dim() == 4 else stage[..., -rows * columns :].unflatten(-1, (rows, columns))


def all_sizes(
    owner: str,
    classifiers: Mapping[str, int],
    regressors: Mapping[str, int],
    maps: Maps,
    segmentation_classes: int | None,
    width: int,
) -> tuple[dict[str, int], dict[str, str]]:
    """Outputs of each objective, maps first, and the kind of each map.

    Args:
        owner: Begins the messages.
        classifiers: Objective -> number of classes.
        regressors: Objective -> number of values.
        maps: As :func:`zoo.maps.map_sizes` takes them; none if empty.
        segmentation_classes: Likewise.
        width: Channels of the decoders.

    Raises:
        ValueError: No objective, one named twice, or a size that cannot be.
    """
    check_at_least(owner, 1, decoder_width=width)
    if not maps:
        return head_sizes(owner, classifiers, regressors), {}
    sizes, kinds = map_sizes(owner, maps, segmentation_classes)
    others = head_sizes(owner, classifiers, regressors) if classifiers or regressors else {}
    for name in others:
        check_map_name(owner, name)
        if name in sizes:
            raise ValueError(f"{owner}: a map and another objective are both called {name!r}; rename one")
    return sizes | others, kinds


def in_turn(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each stage gives."""
    outputs = []
    for stage in stages:
        x = stage(x)
        outputs.append(x)
    return outputs


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors as features.

    None of these may be computed from another: gradients at them would count twice.
    """
    return [tensor.view_as(tensor) for tensor in tensors]
