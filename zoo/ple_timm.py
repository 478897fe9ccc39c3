"""Progressive layered extraction for images: a trunk's last stages as levels of experts.

The first stages of any trunk of timm are shared by all. Each further stage is a level: it exists several times, with different
weights, as shared experts and as experts of one objective each. Gates read the pooled states, and mix feature maps.

    image (B, C, H, W) -> first stages -> map (B, C', h, w) = state a = common state = state b
      state a -> stage, by own experts a --> mixture by gate a (own a, shared)                 -> state a      levels - 1 times
      common  -> stage, by shared experts -> mixture by the shared gate (own a, shared, own b) -> common
      state b -> stage, by own experts b --> mixture by gate b (own b, shared)                 -> state b
    last level, the last stage of the trunk; outputs of experts are pooled:
      common  -> shared experts -> features (B, shared_experts, width), with each objective's state
      state a -> own experts a --> mixture by gate a (own a, shared) -> Linear -> a
      state b -> own experts b --> mixture by gate b (own b, shared) -> Linear -> b

An objective that is a map has a decoder on the shared stages, on its state after each level, and on a detail that all maps share.
Shared parameters: the first stages, all experts and shared gates below the last level, and its shared experts; with three levels or
more also the gates below the last two. The other gates, the own experts of the last level and the heads have one objective each.
Features for ``at="features"``: the pooled outputs of the last shared experts, and the state of each objective; with maps the
same as maps, with the shared stages and the detail.
Origin: H. Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
Recommendations", RecSys 2020. Differs in that levels begin behind shared stages.

    model = create_model("ple_resnet18", in_channels=1, classifiers={"a": 10, "b": 10}, regressors={})
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
from zoo.mmoe import mixture
from zoo.ple import Level, level_shares
from zoo.registry import register_model, register_variant
from zoo.timm_heads import Detail, Heads, all_sizes, copies, in_turn
from zoo.timm_models import timm_name
from zoo.timm_stages import ImageSize, check_below, check_image, image_info, load_stages, pool, timm_stages

_ORIGIN = "Tang et al., RecSys 2020"


@register_model(
    "ple_timm", image_info("last stages of any timm trunk as shared and own experts, mixed by gates", _ORIGIN)
)
class TimmPLE(BaseModel):
    """Shared stages of a timm trunk, levels of shared and own experts, and heads.

    Args:
        in_channels: Channels of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        image_size: Side of the image, or height and width; backbones that take any size need none.
        backbone: Any model of timm that can be cut into stages.
        levels: How many of the last stages are levels; at least one is left to be shared.
        shared_experts: Number of shared experts in each level, at least 1.
        own_experts: Number of experts of each objective in each level, at least 1.
        pretrained: Start stages and experts from the weights that timm has; then the experts of a level are equal at first.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.
        maps: Which of segmentation, depth and normals; or any names with what they are, see :func:`zoo.maps.map_sizes`.
        segmentation_classes: Number of classes, if there is a segmentation.
        decoder_width: Channels of every layer of the decoders of maps, before the last.

    Raises:
        ValueError: A backbone that cannot be cut, or not for this size, or weights that cannot be had.
    """

    ordered_by_objective = ("shared_gate",)

    def __init__(
        self,
        in_channels: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        image_size: ImageSize = None,
        backbone: str = "resnet18",
        levels: int = 2,
        shared_experts: int = 1,
        own_experts: int = 1,
        pretrained: bool = False,
        pretrained_file: str | None = None,
        maps: Maps = (),
        segmentation_classes: int | None = None,
        decoder_width: int = 32,
    ) -> None:
        super().__init__()
        owner = "ple_timm"
        sizes, kinds = all_sizes(owner, classifiers, regressors, maps, segmentation_classes, decoder_width)
        check_image(owner, in_channels, image_size)
        check_at_least(owner, 1, shared_experts=shared_experts, own_experts=own_experts)
        source = (owner, timm_name(owner, "backbone", backbone), in_channels, image_size)
        self.objectives = names = tuple(sizes)
        trunks = [timm_stages(*source) for _ in range(shared_experts + own_experts * len(names))]
        check_below(owner, "levels", levels, trunks[0])
        if pretrained:
            load_stages(trunks, timm_stages(*source, True, pretrained_file))
        cut, widths = len(trunks[0]) - levels, trunks[0].widths
        self.stem = nn.Sequential(*[*trunks[0]][:cut])
        self.levels = nn.ModuleList()
        for place in range(cut, len(widths)):
            expert = iter([trunk[place] for trunk in trunks]).__next__
            last = place + 1 == len(widths)
            self.levels.append(Level(names, widths[place - 1], expert, own_experts, shared_experts, last, pool))
        self.detail = Detail(in_channels, trunks[0].strides) if kinds else None
        self.head = Heads(sizes, kinds, trunks[0], decoder_width)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> one output per objective."""
        return self.heads(self.features(image))

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image -> last shared experts (B, shared_experts, width), states of objectives.

        With maps: detail, shared stages, states of objectives after each level but the last, last shared experts.
        """
        if self.detail is not None:
            return self._map_features(*self.detail(image))
        common = self.stem(image)
        # copies, as none of the features may be computed from another: gradients at them would count twice
        states = [common.view_as(common) for _ in self.objectives]
        for level in self.levels[:-1]:
            common, states = level(common, states)
        return _pooled(self._last.shared, common), *states

    def heads(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Features -> one output per objective."""
        if self.detail is not None:
            return self._map_heads(*features)
        shared, *states = features
        last, outputs = self._last, {}
        for name, state in zip(self.objectives, states, strict=True):
            experts = torch.cat([_pooled(last.own[name], state), shared], dim=1)
            outputs[name] = self.head[name](mixture(last.gate[name], pool(state), experts))
        return outputs

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """Own experts and gate of the last level, the gate below that leads to them, and the head."""
        gates = [cast(Level, level).gate[name] for level in self.levels[-2:]]
        parts = [*gates, self._last.own[name], self.head[name]]
        return [parameter for part in parts for parameter in part.parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The shared stages, the levels and the heads, for an optimizer each."""
        own = {"stem": self.stem, "levels": self.levels, "heads": self.head}
        return own if self.detail is None else {**own, "detail": self.detail}

    def sharing(self, image: Tensor) -> dict[str, dict[str, float]]:
        """Level and objective -> share of each expert, mean over the images."""
        image = image if self.detail is None else self.detail.padded(image)
        return level_shares(self.levels, self.stem(image), len(self.objectives))

    def _map_features(self, detail: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        stem = in_turn(self.stem, image)
        common, states = stem[-1], [stem[-1]] * len(self.objectives)
        between: list[Tensor] = []  # apart, as a gate below the last level has one objective
        for level in self.levels[:-1]:
            common, states = level(common, states)
            between += copies(states)
        return (detail, *copies(stem), *between, self._last.shared(common))

    def _map_heads(self, detail: Tensor, *features: Tensor) -> dict[str, Tensor]:
        *stages, shared = features
        stem, between = stages[: len(self.stem)], stages[len(self.stem) :]
        last, states = self._last, {}
        for place, name in enumerate(self.objectives):
            own = [*stem, *between[place :: len(self.objectives)]]
            experts = torch.cat([last.own[name](own[-1]), shared], dim=1)
            states[name] = [*own, mixture(last.gate[name], pool(own[-1]), experts)]
        return self.head.answer(detail, states)

    @property
    def _last(self) -> Level:
        return cast(Level, self.levels[-1])


def _pooled(experts: nn.Module, state: Tensor) -> Tensor:
    """(B, C, ...) -> pooled outputs of the experts (B, experts, width)."""
    return experts(state).flatten(3).mean(3)


@register_variant(
    "ple_resnet18", image_info("last stages of a ResNet-18 as shared and own experts, mixed by gates", _ORIGIN), TimmPLE
)
def ple_resnet18() -> dict[str, Any]:
    """:class:`TimmPLE` with a ResNet-18, for images of any size."""
    return {"image_size": None, "backbone": "resnet18"}
