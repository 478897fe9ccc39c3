"""Chained networks: one makes an image, the other classifies this image.

A linear network turns measurements into an image, which is compared with the true one; a convolutional network classifies the
image that was made, not the true one. Its loss reaches back through the image, so the first network has two objectives:
an image that is close to the true one, and an image that can be classified.

    x (B, in_features) -> LinearNet -> image (B, C, S, S) ---------------------> image
                                             |-> ConvNet -> logits (B, classes)  class

Shared parameters: the LinearNet; none with ``detach``, where the class loss stops at the image. Features for ``at="features"``:
the image. With ``optimizer.per_network=true``, both networks have an optimizer of their own.
Origin: tradition; for measurements: K. Kulkarni et al., "ReconNet: Non-Iterative Reconstruction of Images from Compressively
Sensed Measurements", CVPR 2016.

    model = create_model("chained", in_features=64, in_channels=1, image_size=32, classes=10)
    outputs = model(x)                          # {"image": (B, 1, 32, 32), "class": (B, 10)}
    balancer.backward({"image": mse_loss(outputs["image"], y), "class": cross_entropy(outputs["class"], z)})
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least
from zoo.registry import ModelInfo, register_model


def linear_net(inputs: int, outputs: int, width: int, depth: int) -> nn.Sequential:
    """MLP with BatchNorm, a linear map if ``depth`` is 0.

    (B, inputs) -> [Linear -> BatchNorm -> ReLU] x depth -> Linear -> (B, outputs)
    """
    widths = [inputs] + [width] * depth
    blocks = [
        # BatchNorm subtracts the mean, so a bias before it has no effect
        nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*blocks, nn.Linear(widths[-1], outputs))


class ConvNet(nn.Module):
    """Convolutional classifier of images of any size.

    Image -> [Conv 3x3 -> BatchNorm -> ReLU -> halve] x depth -> mean over positions -> Linear -> logits

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        width: Channels of the first block, doubled at each further one.
        depth: Number of blocks, at least 1.
    """

    def __init__(self, in_channels: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [in_channels] + [width * 2**index for index in range(depth)]
        blocks = [
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),  # a side of one pixel stays
            )
            for a, b in pairwise(widths)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, classes)."""
        return self.output(self.blocks(image).mean((2, 3)))


@register_model(
    "chained",
    ModelInfo(
        summary="LinearNet that makes an image, and ConvNet that classifies what it made",
        inputs="x (B, in_features)",
        objectives="image and class",
        default_task="compressed_fashion",
        origin="tradition; Kulkarni et al., CVPR 2016",
    ),
)
class Chained(BaseModel):
    """LinearNet that makes an image, and ConvNet that classifies it.

    Args:
        in_features: Number of inputs.
        in_channels: Channels of the image.
        image_size: Side of the image.
        classes: Number of classes.
        linear_width: Units of every hidden layer of the LinearNet.
        linear_depth: Hidden layers of the LinearNet; 0 for a linear map.
        conv_width: Channels of the first block of the ConvNet, doubled at each further one.
        conv_depth: Blocks of the ConvNet, at least 1.
        detach: Stop the gradient of the class loss at the image.
    """

    objectives = ("image", "class")

    def __init__(
        self,
        in_features: int,
        in_channels: int,
        image_size: int,
        classes: int,
        linear_width: int = 512,
        linear_depth: int = 1,
        conv_width: int = 16,
        conv_depth: int = 3,
        detach: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("chained", 1, in_features=in_features, in_channels=in_channels, image_size=image_size)
        check_at_least("chained", 1, classes=classes, linear_width=linear_width)
        check_at_least("chained", 1, conv_width=conv_width, conv_depth=conv_depth)
        check_at_least("chained", 0, linear_depth=linear_depth)
        self.detach = detach
        pixels = in_channels * image_size**2
        self.linear = nn.Sequential(
            *linear_net(in_features, pixels, linear_width, linear_depth),
            nn.Unflatten(1, (in_channels, image_size, image_size)),
        )
        self.conv = ConvNet(in_channels, classes, conv_width, conv_depth)

    def features(self, x: Tensor) -> Tensor:
        """(B, in_features) -> image (B, in_channels, image_size, image_size)."""
        return self.linear(x)

    def heads(self, features: Tensor) -> dict[str, Tensor]:
        """Image -> the image itself, and logits (B, classes)."""
        return {"image": features, "class": self.conv(features.detach() if self.detach else features)}

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The ConvNet belongs to ``class``; with ``detach``, the LinearNet to ``image``."""
        if name == "class":
            return list(self.conv.parameters())
        return list(self.linear.parameters()) if self.detach else []

    def networks(self) -> dict[str, nn.Module]:
        """The two networks, for an optimizer each."""
        return {"linear": self.linear, "conv": self.conv}
