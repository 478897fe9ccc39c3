"""Message passing over all pairs of atoms of a molecule, with a head per property.

A message is what an atom makes of its neighbors' states, weighed by bumps of their distance. Bumps are linear in the states, so
that one batched product passes the messages of a layer, and no tensor holds a vector for each pair of atoms.

    numbers (B, N) -> embedding -> states h (B, N, width)
    positions (B, N, 3) -> distances (B, N, N) -> Gaussian bumps g (B, N, bumps, N), 0 for padding
    depth times:  m_ik = sum_j g_ikj (W h_j)          (B, N, bumps, channels)
                  h_i += MLP(m_i)                     (B, N, width)
    features = [sum_i MLP(h_i) / 18, MLP of that] (B, 4 width)  |-> Linear + MLP -> values (B, dims), per regressor
                                                               |-> Linear + MLP -> logits (B, classes), per classifier

The outputs do not change if the molecule moves, turns or is mirrored, or if its atoms change places. Padding is atomic number 0.

Shared parameters: everything below the heads. Features for ``at="features"``: the pooled vector.
Origin: J. Gilmer et al., "Neural Message Passing for Quantum Chemistry", ICML 2017 (messages and readout); K. Schuett et al.,
"SchNet: A Continuous-filter Convolutional Neural Network for Modeling Quantum Interactions", NeurIPS 2017 (bumps of the distance).

    model = create_model("molecules", regressors={"mu": 1, "U0": 1}, classifiers={})
    outputs = model(numbers, positions)         # {"mu": (B, 1), "U0": (B, 1)}
    balancer.backward({name: mse_loss(outputs[name], y[name]) for name in outputs})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base import TrunkModel
from zoo.checks import check_at_least, head_sizes, rotations_of
from zoo.registry import ModelInfo, register_model

_SHORTEST = 0.8  # angstrom: center of the first bump
_USUAL_SIZE = 18.0  # atoms, the mean of QM9, so that a sum over atoms is near 1


class DistanceBumps(nn.Module):
    """Positions -> Gaussian bumps of all distances, as matrices that pass messages.

    ``g_ikj = exp(-(d_ij - c_k)^2 / (2 s^2))`` with centers c_k from 0.8 angstrom to ``cutoff`` and their spacing s; 0 for i = j.

    Args:
        bumps: Number of bumps, at least 2.
        cutoff: Center of the last one in angstrom.
    """

    centers: Tensor

    def __init__(self, bumps: int, cutoff: float) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(_SHORTEST, cutoff, bumps), persistent=False)
        self.spacing = (cutoff - _SHORTEST) / (bumps - 1)

    def forward(self, there: Tensor, positions: Tensor) -> Tensor:
        """There (B, N), positions (B, N, 3) -> (B, N * bumps, N)."""
        alone = torch.eye(there.shape[1], device=there.device, dtype=torch.bool)
        pairs = there[:, :, None] & there[:, None] & ~alone
        squares = (positions[:, :, None] - positions[:, None]).square().sum(3)
        distances = torch.where(pairs, squares, 1.0).sqrt()  # whose derivative is infinite at 0
        bumps = (-0.5 * ((distances[:, :, None] - self.centers[:, None]) / self.spacing).square()).exp()
        return (bumps * pairs[:, :, None]).flatten(1, 2)


class MessageLayer(nn.Module):
    """States -> states plus what the messages of all other atoms change.

    Args:
        width: Of a state.
        channels: Of a message before the bumps.
        bumps: Number of bumps.
    """

    def __init__(self, width: int, channels: int, bumps: int) -> None:
        super().__init__()
        self.send = nn.Linear(width, channels, bias=False)
        self.receive = nn.Sequential(nn.Linear(bumps * channels, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, states: Tensor, bumps: Tensor) -> Tensor:
        """(B, N, width), (B, N * bumps, N) -> (B, N, width)."""
        sent = self.send(states)
        messages = torch.bmm(bumps.to(sent.dtype), sent)
        return states + self.receive(messages.unflatten(1, (states.shape[1], -1)).flatten(2))


class MessagePassing(nn.Module):
    """Numbers (B, N) and positions (B, N, 3) -> features of the molecules (B, 4 width).

    Arguments are those of :class:`Molecules`.
    """

    def __init__(self, width: int, depth: int, channels: int, bumps: int, cutoff: float, elements: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(elements + 1, width, padding_idx=0)
        self.bumps = DistanceBumps(bumps, cutoff)
        self.layers = nn.ModuleList(MessageLayer(width, channels, bumps) for _ in range(depth))
        self.atoms = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.molecule = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU())

    def forward(self, numbers: Tensor, positions: Tensor) -> Tensor:
        """(B, N) and (B, N, 3) -> (B, 4 width)."""
        there = numbers > 0
        bumps, states = self.bumps(there, positions), self.embedding(numbers)
        for layer in self.layers:
            states = layer(states, bumps)
        pooled = (self.atoms(states) * there[:, :, None]).sum(1) / _USUAL_SIZE
        return torch.cat([pooled, self.molecule(pooled)], dim=1)


class PropertyHead(nn.Module):
    """A linear layer plus an MLP: (B, inputs) -> (B, outputs)."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.mlp = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Their sum."""
        return self.linear(features) + self.mlp(features)


@register_model(
    "molecules",
    ModelInfo(
        summary="message passing over atoms and distances, with a head per property, for molecules",
        inputs="numbers (B, N), positions (B, N, 3) in angstrom; number 0 is padding",
        objectives="any number of classifiers and regressors",
        default_task="qm9",
        origin="Gilmer et al., ICML 2017; Schuett et al., NeurIPS 2017",
    ),
)
class Molecules(TrunkModel):
    """Message passing with linear combinations of distance bumps, and a head per objective.

    Args:
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        width: Of the states of atoms.
        depth: Number of rounds of messages, at least 1.
        channels: Of a message before it meets the bumps.
        bumps: Number of bumps of the distance, at least 2.
        cutoff: Center of the last bump in angstrom; atoms that are much farther do not notice each other.
        elements: Largest atomic number.
        rotate: How many features, the first ones, a rotation per objective turns for the balancer ``rotograd``; 0: none.
    """

    def __init__(
        self,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        width: int = 96,
        depth: int = 3,
        channels: int = 32,
        bumps: int = 16,
        cutoff: float = 6.0,
        elements: int = 9,
        rotate: int = 0,
    ) -> None:
        sizes = head_sizes("molecules", classifiers, regressors)
        check_at_least("molecules", 1, depth=depth, channels=channels, elements=elements)
        check_at_least("molecules", 2, width=width, bumps=bumps)
        if not cutoff > _SHORTEST:
            raise ValueError(f"molecules: cutoff must be above {_SHORTEST} angstrom, got {cutoff}")
        trunk = MessagePassing(width, depth, channels, bumps, cutoff, elements)
        head = {name: PropertyHead(4 * width, width // 2, size) for name, size in sizes.items()}
        super().__init__(trunk, head, rotations_of("molecules", sizes, rotate, 4 * width))

    def forward(self, numbers: Tensor, positions: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """(B, N) and (B, N, 3) -> one output per objective."""
        return self.heads(self.features(numbers, positions))

    def features(self, numbers: Tensor, positions: Tensor) -> Any:  # type: ignore[override]
        """(B, N) and (B, N, 3) -> pooled vector (B, 4 width), and the rotations if there are any."""
        return self.with_rotations(self.trunk(numbers, positions))
