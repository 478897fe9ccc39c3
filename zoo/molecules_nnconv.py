"""The network of the published QM9 tables, on layers of torch_geometric.

Edge-conditioned convolutions and a GRU, with the same weights in each round, then Set2Set.

    atoms (A, 11): which of H, C, N, O, F; atomic number; 4 that are 0 in these data; number of hydrogens bonded to it
    edges (E, 5), between all atoms of a molecule: single, double, triple, aromatic; distance in angstrom
    Linear 11 -> width, ReLU -> state (A, width)
    rounds times:  ReLU NNConv(width, MLP 5 -> 128 -> width^2, mean) -> GRU -> state
    Set2Set, 3 steps (B, 2 width) -> Linear, ReLU -> features (B, width) |-> Linear -> values (B, dims), per regressor
                                                                        |-> Linear -> logits (B, classes), per classifier

Batches are padded, as for ``molecules``; only real atoms and edges reach the layers.

Shared parameters: all but the heads. Features for ``at="features"``: the input of the heads.
Origin: J. Gilmer et al., "Neural Message Passing for Quantum Chemistry", ICML 2017; with a head per property, A. Navon et al.,
"Multi-Task Learning as a Bargaining Game", ICML 2022.

    model = create_model("molecules_nnconv", regressors={"mu": 1, "U0": 1}, classifiers={})
    outputs = model(numbers, positions, bonds)      # {"mu": (B, 1), "U0": (B, 1)}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.base import TrunkModel
from zoo.checks import check_at_least, head_sizes, rotations_of
from zoo.registry import ModelInfo, register_model

_ELEMENTS = (1, 6, 7, 8, 9)
_ATOM, _EDGE = 11, 5  # numbers that describe an atom, and an edge


class NNConvTrunk(nn.Module):
    """Padded molecules -> features (B, width). Raises ValueError without torch_geometric.

    Arguments are those of :class:`MoleculesNNConv`.
    """

    def __init__(self, width: int, hidden: int, rounds: int, steps: int) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import NNConv, Set2Set
        except ImportError as error:
            raise ValueError(
                f'molecules_nnconv needs torch_geometric ({error}): pip install "mozoo[molecules]"; model=molecules does not'
            ) from None
        self.rounds = rounds
        self.lin0 = nn.Linear(_ATOM, width)
        weights = nn.Sequential(nn.Linear(_EDGE, hidden), nn.ReLU(), nn.Linear(hidden, width * width))
        self.conv = NNConv(width, width, weights, aggr="mean")
        self.gru = nn.GRU(width, width)
        self.set2set = Set2Set(width, processing_steps=steps)
        self.lin1 = nn.Linear(2 * width, width)

    def forward(self, numbers: Tensor, positions: Tensor, bonds: Tensor) -> Tensor:
        """(B, N), (B, N, 3), (B, N, N) -> (B, width)."""
        size, width = numbers.shape
        there = numbers > 0
        edges, described = self._edges(there, positions, bonds)
        # an atom more than there are places, between which and itself the edges of padding run
        atoms = F.pad(atom_features(numbers, bonds).to(positions.dtype).flatten(0, 1), (0, 0, 0, 1))
        out = F.relu(self.lin0(atoms))
        state = out[None]
        for _ in range(self.rounds):
            message = F.relu(self.conv(out, edges, described))
            out, state = self.gru(message[None], state)
            out = out[0]
        # padding is pooled as a molecule more than there are
        molecule = torch.where(there, torch.arange(size, device=numbers.device)[:, None], size).flatten()
        pooled = self.set2set(out[: size * width], molecule, dim_size=size + 1)[:size]
        return F.relu(self.lin1(pooled))

    def _edges(self, there: Tensor, positions: Tensor, bonds: Tensor) -> tuple[Tensor, Tensor]:
        """Ends (2, E) and descriptions (E, 5) of the edges between different atoms of a molecule.

        While a graph is recorded, their number must not depend on the data, so those of padding are kept.
        """
        size, width = there.shape
        alone = torch.eye(width, device=there.device, dtype=torch.bool)
        pairs = (there[:, :, None] & there[:, None] & ~alone).flatten()
        places = torch.arange(size * width, device=there.device).view(size, width)
        first = places[:, :, None].expand(-1, -1, width).flatten()
        second = places[:, None].expand(-1, width, -1).flatten()
        squares = (positions[:, :, None] - positions[:, None]).square().sum(3).flatten()
        distances = torch.where(pairs, squares, 1.0).sqrt()[:, None]
        described = torch.cat([F.one_hot(bonds.flatten().long(), 5)[:, 1:].to(distances.dtype), distances], dim=1)
        ends = torch.stack([first, second])
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return torch.where(pairs, ends, size * width), described
        return ends[:, pairs], described[pairs]


def atom_features(numbers: Tensor, bonds: Tensor) -> Tensor:
    """(B, N), (B, N, N) -> (B, N, 11), zeros for padding."""
    which = numbers[:, :, None] == torch.tensor(_ELEMENTS, device=numbers.device)
    # aromatic, sp, sp2, sp3: PyTorch Geometric reads molecules without perceiving these
    unknown = torch.zeros_like(which[:, :, :4])
    hydrogens = ((bonds > 0) & (numbers == 1)[:, None]).sum(2)
    columns = [which, numbers[:, :, None], unknown, hydrogens[:, :, None]]
    return torch.cat([column.float() for column in columns], dim=2)


@register_model(
    "molecules_nnconv",
    ModelInfo(
        summary="NNConv, GRU and Set2Set of the published QM9 tables, with a head per property; on torch_geometric",
        inputs="numbers (B, N), positions (B, N, 3) in angstrom, bonds (B, N, N); number 0 is padding",
        objectives="any number of classifiers and regressors",
        default_task="qm9",
        origin="Gilmer et al., ICML 2017; Navon et al., ICML 2022",
    ),
)
class MoleculesNNConv(TrunkModel):
    """Edge-conditioned convolutions between all atoms, and a linear head per objective.

    Args:
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        width: Of the states of atoms.
        hidden: Units of the network that makes the weights of an edge.
        rounds: Of messages, all with the same weights.
        steps: Of Set2Set.
        rotate: How many features, the first ones, a rotation per objective turns for the balancer ``rotograd``; 0: none.
    """

    def __init__(
        self,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        width: int = 64,
        hidden: int = 128,
        rounds: int = 3,
        steps: int = 3,
        rotate: int = 0,
    ) -> None:
        sizes = head_sizes("molecules_nnconv", classifiers, regressors)
        check_at_least("molecules_nnconv", 1, width=width, hidden=hidden, rounds=rounds, steps=steps)
        trunk = NNConvTrunk(width, hidden, rounds, steps)
        rotations = rotations_of("molecules_nnconv", sizes, rotate, width)
        super().__init__(trunk, {name: nn.Linear(width, size) for name, size in sizes.items()}, rotations)

    def forward(self, numbers: Tensor, positions: Tensor, bonds: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """(B, N), (B, N, 3), (B, N, N) -> one output per objective."""
        return self.heads(self.features(numbers, positions, bonds))

    def features(self, numbers: Tensor, positions: Tensor, bonds: Tensor) -> Any:  # type: ignore[override]
        """(B, N), (B, N, 3), (B, N, N) -> input of the heads (B, width), and the rotations if any."""
        return self.with_rotations(self.trunk(numbers, positions, bonds))
