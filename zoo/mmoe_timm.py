"""Multi-gate mixture of experts for images: a trunk's last stages as experts.

The first stages of any trunk of timm are shared by all. What follows them exists several times, with different weights: the
experts. A gate per objective reads the pooled output of the shared stages, and mixes the experts' pooled outputs for each image.

    image (B, C, H, W) -> stages 1 ... k -> map (B, C', h, w) -> stages k + 1 ..., by each expert -> pooled (B, experts, width)
                                             |-> pooled -> gate a: Linear -> softmax (B, experts) -> weighted mean -> Linear -> a
                                             |-> pooled -> gate b: Linear -> softmax (B, experts) -> weighted mean -> Linear -> b

Shared parameters: the first stages and the experts. Gates and heads belong to one objective each.
Features for ``at="features"``: the pooled outputs of the experts and of the shared stages, which the gates read.
Origin: J. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018. Differs in
that experts begin behind shared stages, as the first stages of a trunk for images are alike and cost most.

    model = create_model("mmoe_resnet18", in_channels=1, classifiers={"a": 10, "b": 10}, regressors={})
    outputs = model(image)                      # {"a": (B, 10), "b": (B, 10)}
    balancer.backward({"a": cross_entropy(outputs["a"], y), "b": cross_entropy(outputs["b"], z)})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least, head_sizes
from zoo.mmoe import mean_gate, mixture
from zoo.registry import register_model, register_variant
from zoo.timm_models import timm_name
from zoo.timm_stages import check_below, image_info, load_stages, pool, timm_stages

_ORIGIN = "Ma et al., KDD 2018"


@register_model(
    "mmoe_timm", image_info("last stages of any timm trunk as experts, mixed by a gate per objective", _ORIGIN)
)
class TimmMMoE(BaseModel):
    """Shared stages of a timm trunk, experts that continue them, gates and linear heads.

    Args:
        in_channels: Channels of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        image_size: Side of the image; backbones that take any size need none.
        backbone: Any model of timm that can be cut into stages.
        experts: Number of experts, at least 1.
        expert_stages: How many of the last stages an expert has; at least one is left to be shared.
        pretrained: Start stages and experts from the weights that timm has; then the experts are equal at first.
        pretrained_file: File with such weights, with ``pretrained``; otherwise they are downloaded.

    Raises:
        ValueError: A backbone that cannot be cut, or not for this size, or weights that cannot be had.
    """

    def __init__(
        self,
        in_channels: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        image_size: int | None = None,
        backbone: str = "resnet18",
        experts: int = 3,
        expert_stages: int = 1,
        pretrained: bool = False,
        pretrained_file: str | None = None,
    ) -> None:
        super().__init__()
        owner = "mmoe_timm"
        sizes = head_sizes(owner, classifiers, regressors)
        check_at_least(owner, 1, in_channels=in_channels, image_size=image_size or 1, experts=experts)
        source = (owner, timm_name(owner, "backbone", backbone), in_channels, image_size)
        self.objectives = tuple(sizes)
        trunks = [timm_stages(*source) for _ in range(experts)]
        check_below(owner, "expert_stages", expert_stages, trunks[0])
        if pretrained:
            load_stages(trunks, timm_stages(*source, True, pretrained_file))
        cut = len(trunks[0]) - expert_stages
        self.stem = nn.Sequential(*[*trunks[0]][:cut])
        self.experts = nn.ModuleList(nn.Sequential(*[*trunk][cut:]) for trunk in trunks)
        inputs, width = trunks[0].widths[cut - 1], trunks[0].widths[-1]
        self.gate = nn.ModuleDict({name: nn.Linear(inputs, experts) for name in sizes})
        self.head = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> one output per objective."""
        return self.heads(self.features(image))

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> experts (B, experts, width), and (B, C') for the gates."""
        x = self.stem(image)
        return torch.stack([pool(expert(x)) for expert in self.experts], dim=1), pool(x)

    def heads(self, features: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """(B, experts, width) and (B, C') -> one output per objective."""
        experts, x = features
        return {name: head(mixture(self.gate[name], x, experts)) for name, head in self.head.items()}

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The gate and the head of ``name``."""
        return [*self.gate[name].parameters(), *self.head[name].parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The shared stages, the experts, the gates and the heads, for an optimizer each."""
        return {"stem": self.stem, "experts": self.experts, "gates": self.gate, "heads": self.head}

    def sharing(self, image: Tensor) -> dict[str, dict[str, float]]:
        """Objective -> share of each expert, mean over the images."""
        x = pool(self.stem(image))
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
