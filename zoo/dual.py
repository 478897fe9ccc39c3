"""Dual networks: one for each view of a sample, whose answers are added.

A linear network reads a vector, a convolutional network reads an image; both give logits for the same classes, and their sum
is the answer. In ``dual_sum`` the sum has a loss, which makes the networks work together, and each network has an auxiliary
loss of its own, which keeps it from leaning on the other. In ``dual_separate`` each network has its own loss and nothing
else; the sum is only looked at.

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

from typing import Literal

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from balancing.protocol import Phase
from zoo.chained import ConvNet, linear_net
from zoo.registry import ModelInfo, register_model

__all__ = ["Dual", "dual_separate", "dual_sum"]


class Dual(nn.Module, PyTorchModelHubMixin):
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

    Raises:
        ValueError: Unknown ``losses``, or a size out of range.
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
        trained = {"all": self.objectives, "fused": ("fused",), "branches": ("left", "right")}
        if losses not in trained:
            raise ValueError(f"dual: losses must be one of {', '.join(trained)}, got {losses!r}")
        if min(in_features, in_channels, classes, linear_width, conv_width, conv_depth) < 1:
            raise ValueError("dual: every size, and conv_depth, must be at least 1")
        if linear_depth < 0:
            raise ValueError(f"dual: linear_depth must be at least 0, got {linear_depth}")
        self.trained = trained[losses]
        self.linear = linear_net(in_features, classes, linear_width, linear_depth)
        self.conv = ConvNet(in_channels, classes, conv_width, conv_depth)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase with the objectives that are trained; the model is judged on all three."""
        return (Phase("train", self.trained),)

    def features(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_features) and (B, in_channels, H, W) -> logits of both networks, (B, classes) each."""
        return self.linear(left), self.conv(right)

    def heads(self, features: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Logits -> their sum, and each of them. No gradient leaves an output that is not trained."""
        left, right = features
        outputs = {"fused": left + right, "left": left, "right": right}
        return {name: value if name in self.trained else value.detach() for name, value in outputs.items()}

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Both views -> (B, classes) per objective."""
        return self.heads(self.features(left, right))

    def shared_parameters(self) -> list[nn.Parameter]:
        """All, if both the sum and the branches are trained."""
        return list(self.parameters()) if len(self.trained) == 3 else []

    def objective_parameters(self, name: str) -> list[nn.Parameter]:
        """The network of a branch that trains alone; all for a sum that trains alone."""
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


@register_model(_info("LinearNet and ConvNet on two views, trained on their sum and on each"))
def dual_sum(
    in_features: int,
    in_channels: int,
    classes: int,
    auxiliary: bool = True,
    linear_width: int = 256,
    linear_depth: int = 1,
    conv_width: int = 16,
    conv_depth: int = 3,
) -> Dual:
    """The pair of :class:`Dual` with a loss of the sum; without ``auxiliary``, that is the only one."""
    losses: Literal["all", "fused"] = "all" if auxiliary else "fused"
    return Dual(in_features, in_channels, classes, losses, linear_width, linear_depth, conv_width, conv_depth)


@register_model(_info("LinearNet and ConvNet on two views, each trained by itself"))
def dual_separate(
    in_features: int,
    in_channels: int,
    classes: int,
    linear_width: int = 256,
    linear_depth: int = 1,
    conv_width: int = 16,
    conv_depth: int = 3,
) -> Dual:
    """The pair of :class:`Dual` with a loss for each network and none for their sum."""
    return Dual(in_features, in_channels, classes, "branches", linear_width, linear_depth, conv_width, conv_depth)
