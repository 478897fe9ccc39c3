"""Dual networks: one for each view of a sample, with summed logits.

A linear network reads a vector, a convolutional network reads an image; both give logits of the same classes, and their sum
is the prediction. In ``dual_sum`` the sum has a loss, which trains the networks together, and each network has an auxiliary
loss of its own, which keeps it from relying on the other. In ``dual_separate`` each network has its own loss only; the sum is
evaluated, but not trained.

    left (B, in_features) -> LinearNet -> logits (B, classes) -+------------> left
                                                               + -> fused
    right (B, C, H, W) ----> ConvNet ---> logits (B, classes) -+------------> right

Shared parameters: ``dual_sum``: all, as fused and one other loss reach each of them (none without auxiliary losses);
``dual_separate``: none. Features for ``at="features"``: both logits.
Origin: tradition; auxiliary losses per view: W. Wang et al., "What Makes Training Multi-Modal Classification Networks Hard?",
CVPR 2020.

    model = create_model("dual_sum", in_features=392, in_channels=1, classes=10)
    outputs = model(left, right)                # {"fused": (B, 10), "left": (B, 10), "right": (B, 10)}
    balancer.backward({name: cross_entropy(outputs[name], y) for name in model.objectives})
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from balancing.choices import check_choices
from balancing.protocol import Phase
from zoo.base import BaseModel
from zoo.chained import ConvNet, linear_net
from zoo.checks import check_at_least
from zoo.registry import ModelInfo, register_variant


@check_choices("dual")
class Dual(BaseModel):
    """LinearNet and ConvNet with summed logits.

    Args:
        in_features: Numbers in the left view.
        in_channels: Channels of the right view, an image of any size.
        classes: Number of classes.
        losses: What is trained: ``all`` three, ``fused`` alone, or the two ``branches``.
        linear_width: Units of every hidden layer of the LinearNet.
        linear_depth: Hidden layers of the LinearNet; 0 for a linear map.
        conv_width: Channels of the first block of the ConvNet, doubled at each further one.
        conv_depth: Blocks of the ConvNet, at least 1.
    """

    objectives = ("fused", "left", "right")

    def __init__(
        self,
        in_features: int,
        in_channels: int,
        classes: int,
        losses: Literal["all", "fused", "branches"] = "all",
        linear_width: int = 256,
        linear_depth: int = 1,
        conv_width: int = 16,
        conv_depth: int = 3,
    ) -> None:
        super().__init__()
        check_at_least("dual", 1, in_features=in_features, in_channels=in_channels, classes=classes)
        check_at_least("dual", 1, linear_width=linear_width, conv_width=conv_width, conv_depth=conv_depth)
        check_at_least("dual", 0, linear_depth=linear_depth)
        self.trained = {"all": self.objectives, "fused": ("fused",), "branches": ("left", "right")}[losses]
        self.linear = linear_net(in_features, classes, linear_width, linear_depth)
        self.conv = ConvNet(in_channels, classes, conv_width, conv_depth)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase with the objectives that are trained; all three are evaluated."""
        return (Phase("train", self.trained),)

    def features(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_features) and (B, in_channels, H, W) -> logits of both networks, (B, classes) each."""
        return self.linear(left), self.conv(right)

    def heads(self, features: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Logits -> their sum, and each of them. No gradient leaves an output that is not trained."""
        left, right = features
        outputs = {"fused": left + right, "left": left, "right": right}
        return {name: value if name in self.trained else value.detach() for name, value in outputs.items()}

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Both views -> (B, classes) per objective."""
        return self.heads(self.features(left, right))

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The network of a branch without the sum; all parameters of the sum without branches."""
        if len(self.trained) == 3 or name not in self.trained:
            return []
        return list({"fused": self, "left": self.linear, "right": self.conv}[name].parameters())

    def networks(self) -> dict[str, nn.Module]:
        """The two networks, for an optimizer each."""
        return {"linear": self.linear, "conv": self.conv}


def _info(summary: str) -> ModelInfo:
    return ModelInfo(
        summary=summary,
        inputs="left (B, in_features), right (B, in_channels, H, W)",
        objectives="fused, left and right, the same classes for each",
        default_task="two_view_fashion",
        origin="tradition; Wang et al., CVPR 2020",
    )


@register_variant("dual_sum", _info("LinearNet and ConvNet on two views, trained on their sum and on each"), Dual)
def dual_sum(auxiliary: bool = True) -> dict[str, Any]:
    """:class:`Dual` with a loss of the sum, and optionally of each network.

    Args:
        auxiliary: Whether each network has a loss of its own, too.
    """
    return {"losses": "all" if auxiliary else "fused"}


@register_variant("dual_separate", _info("LinearNet and ConvNet on two views, each trained by itself"), Dual)
def dual_separate() -> dict[str, Any]:
    """:class:`Dual` with a loss of each network and none of their sum."""
    return {"losses": "branches"}
