"""One network for a whole Pareto front: a preference modulates the trunk.

The model reads, besides its inputs, the preference r: how much each objective counts, with sum 1. A small network turns r into
a factor and a shift for every unit or channel of the trunk (FiLM), so that the same weights give a different trade-off for
each r. Training draws r anew at each step and minimizes r'L, by ``preference_sampling`` or ``cosmos``.

    preference r (K,) -> Linear -> SiLU -> Linear -> factor, shift per block
                                                       |
    x -> [block of shared_trunk or of the LeNet -> (1 + factor) h + shift] x depth -> features (B, width)
                                                                                          |-> Linear -> a
                                                                                          |-> Linear -> b

Shared parameters: all of the trunk. Features for ``at="features"``: the trunk's output.
Origin: A. Dosovitskiy and J. Djolonga, "You Only Train Once: Loss-Conditional Training of Deep Networks", ICLR 2020; E. Perez
et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018 (arXiv:1709.07871).

    model = create_model("conditioned", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    balancer = create_balancer("preference_sampling", model.objectives)
    model.set_preference(balancer.draw())       # before the forward pass of every step
    outputs = model(x)                          # {"cut": (B, 5), "price": (B, 1)}
    balancer.backward({"cut": cross_entropy(outputs["cut"], y), "price": mse_loss(outputs["price"], z)})
    model.set_preference({"cut": 3, "price": 1})     # afterwards: any point of the front
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.base import TrunkModel
from zoo.checks import check_at_least
from zoo.image_trunk import LeNetTrunk
from zoo.registry import ModelInfo, register_model
from zoo.shared_trunk import SharedTrunk
from zoo.tables import embed, embedding_network, table_info

_ORIGIN = "Dosovitskiy and Djolonga, ICLR 2020; Perez et al., AAAI 2018"


class ModulatedTrunk(nn.Module):
    """Blocks in sequence; a preference scales and shifts the output of each.

    Factors start at 1 and shifts at 0, whatever the preference, and differ from that by ``reach`` times what a small network says.

    Args:
        blocks: Modules.
        widths: Units or channels of the output of each block.
        objectives: Numbers in a preference.
        hidden: Units of the network that reads it.
        reach: Factor of its outputs.
    """

    def __init__(
        self, blocks: Iterable[nn.Module], widths: Sequence[int], objectives: int, hidden: int, reach: float
    ) -> None:
        super().__init__()
        self.blocks, self.widths, self.reach = nn.ModuleList(blocks), list(widths), reach
        last = nn.Linear(hidden, 2 * sum(widths))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.modulation = nn.Sequential(nn.Linear(objectives, hidden), nn.SiLU(), last)

    def forward(self, x: Tensor, preference: Tensor) -> Tensor:
        """Inputs (B, ...) and preference (K,) -> output of the last block."""
        scales, shifts = (self.reach * self.modulation(len(preference) * preference - 1)).chunk(2)
        for block, scale, shift in zip(self.blocks, scales.split(self.widths), shifts.split(self.widths), strict=True):
            x = block(x)
            shape = (-1, *[1] * (x.dim() - 2))
            x = x * (1 + scale.view(shape)) + shift.view(shape)
        return x


class _Conditioned(TrunkModel):
    """A modulated trunk, and a head per objective on its output.

    Attributes:
        preference: (K,) preference of sum 1 that the model reads; equal for all objectives at first, and not in ``state_dict``.
    """

    preference: Tensor
    ordered_by_objective = ("modulation",)

    def __init__(
        self,
        name: str,
        base: TrunkModel,
        blocks: Iterable[nn.Module],
        widths: Sequence[int],
        hidden: int,
        reach: float,
    ) -> None:
        check_at_least(name, 1, hidden=hidden)
        if not 0 < reach < float("inf"):
            raise ValueError(f"{name}: reach must be positive, got {reach}")
        objectives = len(base.objectives)
        super().__init__(ModulatedTrunk(blocks, widths, objectives, hidden, reach), dict(base.head.items()))
        self._name = name
        self.register_buffer("preference", torch.full((objectives,), 1 / objectives), persistent=False)

    def set_preference(self, preference: Tensor | Mapping[str, float] | None = None) -> None:
        """Read this preference from now on; only ratios matter.

        Args:
            preference: Number of each objective, (K,) in their order, or by name, 1 where not named. ``None``: equal.

        Raises:
            ValueError: An unknown name, another number of numbers, one that is negative or not finite, or all are zero.
        """
        if preference is None:
            preference = torch.ones(len(self.objectives))
        elif isinstance(preference, Mapping):
            for name in preference:
                if name not in self.objectives:
                    known = ", ".join(self.objectives)
                    raise ValueError(f"{self._name}: the preference names {name!r}, but the objectives are {known}")
            preference = torch.tensor([float(preference.get(name, 1.0)) for name in self.objectives])
        if preference.shape != self.preference.shape:
            shape = tuple(preference.shape)
            raise ValueError(f"{self._name}: a preference has {len(self.objectives)} numbers, got the shape {shape}")
        values = preference.detach().to(self.preference)
        total = values.sum()
        if not (bool((values >= 0).all()) and 0 < float(total) < torch.inf):
            raise ValueError(
                f"{self._name}: the numbers of a preference must be finite and at least 0, with a positive sum, got {values.tolist()}"
            )
        self.preference.copy_(values / total)


@register_model(
    "conditioned", table_info("MLP trunk that a preference modulates: a front in one model, for tables", _ORIGIN)
)
class Conditioned(_Conditioned):
    """Blocks of ``shared_trunk``, modulated by a preference, with a head per objective.

    Args:
        in_features: Number of inputs.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        width: Units of every hidden layer, and of the features.
        depth: Number of hidden layers, at least 1.
        norm: Normalization after each hidden layer.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.
        hidden: Units of the network that reads the preference.
        reach: Factor of what that network adds to scales and shifts; with more the front is wider, and the training less calm.
        categories: For each column of codes, how many codes it has; empty: the model takes numbers alone.
    """

    def __init__(
        self,
        in_features: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        width: int = 192,
        depth: int = 4,
        norm: Literal["batch", "layer", "none"] = "none",
        dropout: float = 0.0,
        hidden: int = 64,
        reach: float = 0.1,
        categories: Sequence[int] = (),
    ) -> None:
        base = SharedTrunk(in_features, classifiers, regressors, width, depth, norm, dropout, categories)
        super().__init__("conditioned", base, base.trunk.children(), [width] * depth, hidden, reach)
        self.categories, self.embedding = base.categories, base.embedding

    def forward(self, x: Tensor, codes: Tensor | None = None) -> dict[str, Tensor]:
        """(B, in_features), and (B, columns) with categories -> one output per objective."""
        return self.heads(self.features(x, codes))

    def features(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        """Inputs -> output of the trunk, for the preference of now."""
        return self.trunk(embed(self.embedding, x, codes), self.preference)

    def networks(self) -> dict[str, nn.Module]:
        """The trunk, the heads and the embedding, for an optimizer each."""
        return {**super().networks(), **embedding_network(self.embedding)}


@register_model(
    "conditioned_lenet",
    ModelInfo(
        summary="LeNet that a preference modulates: a front in one model, for small images",
        inputs="image (B, in_channels, H, W)",
        objectives="any number of classifiers and regressors",
        default_task="multi_fashion",
        origin=_ORIGIN,
    ),
)
class ConditionedLeNet(_Conditioned):
    """Blocks of ``shared_trunk_lenet``, modulated by a preference, with a head per objective.

    Args:
        in_channels: Channels of the image.
        image_size: Side of the image.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        channels: Of the convolutions, one or more.
        kernels: Side of the kernel of each convolution.
        width: Units of the hidden layer, which are the features.
        hidden: Units of the network that reads the preference.
        reach: Factor of what that network adds to scales and shifts; with more the front is wider, and the training less calm.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        channels: Sequence[int] = (10, 20),
        kernels: Sequence[int] = (9, 5),
        width: int = 50,
        hidden: int = 64,
        reach: float = 1.0,
    ) -> None:
        base = LeNetTrunk(in_channels, image_size, classifiers, regressors, channels, kernels, width)
        lenet: Any = base.trunk
        blocks = [*lenet.blocks, lenet.hidden]
        super().__init__("conditioned_lenet", base, blocks, [*channels, width], hidden, reach)

    def features(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> output of the trunk, for the preference of now."""
        return self.trunk(image, self.preference)
