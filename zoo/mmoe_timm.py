"""Multi-gate mixture of experts for images: a trunk's last stages as experts.

The first stages of any trunk of timm are shared by all. What follows them exists several times, with different weights: the
experts. A gate per objective reads the pooled output of the shared stages, and mixes the experts' pooled outputs for each image.

    image (B, C, H, W) -> stages 1 ... k -> map (B, C', h, w) -> stages k + 1 ..., by each expert -> pooled (B, experts, width)
                                             |-> pooled -> gate a: Linear -> softmax (B, experts) -> weighted mean -> Linear -> a
                                             |-> pooled -> gate b: Linear -> softmax (B, experts) -> weighted mean -> Linear -> b

An objective that is a map has a decoder on the shared stages, on mixtures of what the experts give in each of their stages, and on
a detail that all maps share.
Shared parameters: the first stages, the detail and the experts. Gates and heads belong to one objective each.
Features for ``at="features"``: the pooled outputs of the experts and of the shared stages, which the gates read; with maps the same
as maps, and the detail.
Origin: J. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018. Differs in
that experts begin behind shared stages, as the first stages of a trunk for images are alike and cost most.

    model = create_model("mmoe_resnet18", in_channels=1, classifiers={"a": 10, "b": 10}, regressors={})
    outputs = model(image)                      # {"a": (B, 10), "b": (B, 10)}
    balancer.backward({"a": cross_entropy(outputs["a"], y), "b": cross_entropy(outputs["b"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least
from zoo.maps import Maps
from zoo.mmoe import mean_gate, mixture
from zoo.registry import register_model, register_variant
from zoo.timm_heads import Detail, Heads, all_sizes, copies, in_turn
from zoo.timm_models import timm_name
from zoo.timm_stages import ImageSize, check_below, check_image, image_info, load_stages, pool, timm_stages

_ORIGIN = "Ma et al., KDD 2018"


@register_model(
    "mmoe_timm", image_info("last stages of any timm trunk as experts, mixed by a gate per objective", _ORIGIN)
)
class TimmMMoE(BaseModel):
    """Shared stages of a timm trunk, experts that continue them, gates, and heads.

    Args:
        in_channels: Channels of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        image_size: Side of the image, or height and width; backbones that take any size need none.
        backbone: Any model of timm that can be cut into stages.
        experts: Number of experts, at least 1.
        expert_stages: How many of the last stages an expert has; at least one is left to be shared.
        pretrained: Start stages and experts from the weights that timm has; then the experts are equal at first.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        decoder_width: Channels of every layer of the decoders of maps, before the last.

    Raises:
        ValueError: A backbone that cannot be cut, or not for this size, or weights that cannot be had.
    """

    def __init__(
        self,
        in_channels: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        image_size: ImageSize = None,
        backbone: str = "resnet18",
        experts: int = 3,
        expert_stages: int = 1,
        pretrained: bool = False,
        pretrained_file: str | None = None,
        maps: Maps = (),
        segmentation_classes: int | None = None,
        decoder_width: int = 32,
    ) -> None:
        super().__init__()
        owner = "mmoe_timm"
        sizes, kinds = all_sizes(owner, classifiers, regressors, maps, segmentation_classes, decoder_width)
        check_image(owner, in_channels, image_size)
        check_at_least(owner, 1, experts=experts)
        source = (owner, timm_name(owner, "backbone", backbone), in_channels, image_size)
        self.objectives = tuple(sizes)
        trunks = [timm_stages(*source) for _ in range(experts)]
        check_below(owner, "expert_stages", expert_stages, trunks[0])
        if pretrained:
            load_stages(trunks, timm_stages(*source, True, pretrained_file))
        cut = len(trunks[0]) - expert_stages
        self.stem = nn.Sequential(*[*trunks[0]][:cut])
        self.experts = nn.ModuleList(nn.Sequential(*[*trunk][cut:]) for trunk in trunks)
        self.gate = nn.ModuleDict({name: nn.Linear(trunks[0].widths[cut - 1], experts) for name in sizes})
        self.detail = Detail(in_channels, trunks[0].strides) if kinds else None
        self.head = Heads(sizes, kinds, trunks[0], decoder_width)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> one output per objective."""
        return self.heads(self.features(image))

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> experts (B, experts, width), and (B, C') for the gates.

        With maps: detail, shared stages, and stages of the experts (B, experts, C', h, w).
        """
        if self.detail is None:
            x = self.stem(image)
            return torch.stack([pool(expert(x)) for expert in self.experts], dim=1), pool(x)
        detail, image = self.detail(image)
        stem = in_turn(self.stem, image)
        experts = [in_turn(cast(nn.Sequential, expert), stem[-1]) for expert in self.experts]
        return (detail, *copies(stem), *(torch.stack(stage, dim=1) for stage in zip(*experts, strict=True)))

    def heads(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Features -> one output per objective."""
        if self.detail is None:
            experts, x = features
            return {name: head(mixture(self.gate[name], x, experts)) for name, head in self.head.items()}
        detail, *stages = features
        stem, mixed = stages[: len(self.stem)], stages[len(self.stem) :]
        x = pool(stem[-1])
        states = {name: [*stem, *(mixture(gate, x, each) for each in mixed)] for name, gate in self.gate.items()}
        return self.head.answer(detail, states)

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The gate and the head of ``name``."""
        return [*self.gate[name].parameters(), *self.head[name].parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The shared stages, the experts, the gates and the heads, for an optimizer each."""
        own = {"stem": self.stem, "experts": self.experts, "gates": self.gate, "heads": self.head}
        return own if self.detail is None else {**own, "detail": self.detail}

    def sharing(self, image: Tensor) -> dict[str, dict[str, float]]:
        """Objective -> share of each expert, mean over the images."""
        x = pool(self.stem(image if self.detail is None else self.detail.padded(image)))
        return {
            name: mean_gate(gate, x, [f"expert {k + 1}" for k in range(len(self.experts))])
            for name, gate in self.gate.items()
        }


@register_variant(
    "mmoe_resnet18",
    image_info("last stage of a ResNet-18 as experts, mixed by a gate per objective", _ORIGIN),
    TimmMMoE,
)
def mmoe_resnet18() -> dict[str, Any]:
    """:class:`TimmMMoE` with a ResNet-18, for images of any size."""
    return {"image_size": None, "backbone": "resnet18"}
