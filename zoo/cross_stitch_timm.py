"""Cross-stitch networks for images: a trunk per objective, with learned exchanges.

Every objective has a trunk of its own, any of timm that can be cut into stages. After each stage every channel of every trunk
becomes a linear mix of the same channel in all trunks, as the units of ``cross_stitch`` do.

    image (B, C, H, W) -> trunk a: stage 1 --+--> mix a --> stage 2 --+--> mix a --> ... pooled --+--> mix a --> Linear --> a
                       -> trunk b: stage 1 --+--> mix b --> stage 2 --+--> mix b --> ... pooled --+--> mix b --> Linear --> b
                                                                                                  |
                                                                                    features (B, objectives, width)

An objective that is a map has a decoder on the stages of its trunk, after their mixes, and on a detail that all maps share.
Shared parameters: all trunks, and all mixes but the last, as the last mix lets every objective read every trunk.
Features for ``at="features"``: the pooled outputs of the trunks, before the last mix; a row of this mix belongs to its head. With maps:
detail, mixed stages, and the last stage before its mix.
Origin: I. Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016 (arXiv:1604.03539). Differs in that the trunks
start with random weights, or equal ones; there they are networks trained on one objective first.

    model = create_model("cross_stitch_resnet18", in_channels=1, classifiers={"a": 10, "b": 10}, regressors={})
    outputs = model(image)                      # {"a": (B, 10), "b": (B, 10)}
    balancer.backward({"a": cross_entropy(outputs["a"], y), "b": cross_entropy(outputs["b"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.cross_stitch import mean_shares, mix
from zoo.maps import Maps
from zoo.registry import register_model, register_variant
from zoo.timm_heads import Detail, Heads, all_sizes
from zoo.timm_models import timm_name
from zoo.timm_stages import ImageSize, check_image, image_info, load_stages, pool, timm_stages

_ORIGIN = "Misra et al., CVPR 2016"


@register_model(
    "cross_stitch_timm", image_info("any timm trunk per objective, with a learned exchange after each stage", _ORIGIN)
)
class TimmCrossStitch(BaseModel):
    """Trunks of timm that exchange their channels, and a head per objective.

    Args:
        in_channels: Channels of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        image_size: Side of the image, or height and width; backbones that take any size need none.
        backbone: Any model of timm that can be cut into stages.
        own: Share in [0, 1] of an objective's own trunk in its mix at the start; the others share the rest equally.
        pretrained: Start every trunk from the weights that timm has for it.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        decoder_width: Channels of every layer of the decoders of maps, before the last.

    Raises:
        ValueError: A backbone that cannot be cut, or not for this size, or weights that cannot be had.
    """

    ordered_by_objective = ("mixes",)

    def __init__(
        self,
        in_channels: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        image_size: ImageSize = None,
        backbone: str = "resnet18",
        own: float = 0.9,
        pretrained: bool = False,
        pretrained_file: str | None = None,
        maps: Maps = (),
        segmentation_classes: int | None = None,
        decoder_width: int = 32,
    ) -> None:
        super().__init__()
        owner = "cross_stitch_timm"
        sizes, kinds = all_sizes(owner, classifiers, regressors, maps, segmentation_classes, decoder_width)
        check_image(owner, in_channels, image_size)
        if not 0 <= own <= 1:
            raise ValueError(f"{owner}: own must be in [0, 1], got {own}")
        source = (owner, timm_name(owner, "backbone", backbone), in_channels, image_size)
        self.objectives = names = tuple(sizes)
        trunks = {name: timm_stages(*source) for name in names}
        widths = trunks[names[0]].widths
        if pretrained:
            load_stages(trunks.values(), timm_stages(*source, True, pretrained_file))
        self.towers = nn.ModuleDict(trunks)
        # a single trunk has nothing to exchange
        self.mixes = nn.ModuleList(mix(names, width, own) for width in widths if len(names) > 1)
        self.detail = Detail(in_channels, trunks[names[0]].strides) if kinds else None
        self.head = Heads(sizes, kinds, trunks[names[0]], decoder_width)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> one output per objective."""
        return self.heads(self.features(image))

    def features(self, image: Tensor) -> Any:
        """(B, in_channels, H, W) -> (B, objectives, width), before the last mix.

        With maps: detail, each stage after its mix (B, objectives, C', h, w), and the last stage before it.
        """
        detail, image = (None, image) if self.detail is None else self.detail(image)
        mixed: list[Tensor] = []
        inputs = dict.fromkeys(self.objectives, image)
        towers = [cast(nn.ModuleList, tower) for tower in self.towers.values()]
        count = len(towers[0])
        for index in range(count):
            outputs = [tower[index](x) for tower, x in zip(towers, inputs.values(), strict=True)]
            if index + 1 < count:
                stacked = torch.stack(outputs, dim=1)
                inputs = {name: self._mixed(index, name, stacked) for name in self.objectives}
                if detail is not None:
                    mixed.append(torch.stack([*inputs.values()], dim=1))
        if detail is None:
            return torch.stack([pool(output) for output in outputs], dim=1)
        return (detail, *mixed, torch.stack(outputs, dim=1))

    def heads(self, features: Any) -> dict[str, Tensor]:
        """Features -> one output per objective."""
        if self.detail is None:
            return {name: head(self._mixed(-1, name, features)) for name, head in self.head.items()}
        detail, *mixed, last = features
        states = {
            name: [*(stage[:, place] for stage in mixed), self._mixed(-1, name, last)]
            for place, name in enumerate(self.objectives)
        }
        return self.head.answer(detail, states)

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The head of ``name`` and its row of the last mix."""
        return [self._row(-1, name), *self.head[name].parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The trunks, the mixes (which may need a higher learning rate) and the heads."""
        own = {"towers": self.towers, "mixes": self.mixes, "heads": self.head}
        return own if self.detail is None else {**own, "detail": self.detail}

    def sharing(self, image: Tensor) -> dict[str, dict[str, float]]:
        """Stage and objective -> share of each trunk, mean over channels."""
        return mean_shares("stage", self.objectives, self.mixes)

    def _mixed(self, index: int, name: str, towers: Tensor) -> Tensor:
        if not len(self.mixes):
            return towers[:, 0]
        row = self._row(index, name)
        return (row.view(*row.shape, *[1] * (towers.dim() - 3)) * towers).sum(dim=1)

    def _row(self, index: int, name: str) -> nn.Parameter:
        return cast(nn.ParameterDict, self.mixes[index])[name]


@register_variant(
    "cross_stitch_resnet18",
    image_info("ResNet-18 per objective, with a learned exchange after each stage", _ORIGIN),
    TimmCrossStitch,
)
def cross_stitch_resnet18() -> dict[str, Any]:
    """:class:`TimmCrossStitch` with a ResNet-18 per objective, for images of any size."""
    return {"image_size": None, "backbone": "resnet18"}
