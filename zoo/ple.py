"""Progressive layered extraction: levels of shared experts and experts of one objective.

In a plain mixture of experts every objective trains every expert. Here each objective also has experts that no other
objective's gate can choose, so conflicting objectives need not share. The shared experts of the next level read a
mixture of all experts, so information still flows from any objective to any other. With one level this is the customized
gate control of the same paper.

    x (B, in_features) = state a = common state = state b
      state a -> own experts a --> mixture by gate a (own a, shared)                -> state a      levels - 1 times
      common  -> shared experts -> mixture by the shared gate (own a, shared, own b) -> common
      state b -> own experts b --> mixture by gate b (own b, shared)                -> state b
    last level:
      common  -> shared experts -> features (B, shared_experts, width), with each objective's state
      state a -> own experts a --> mixture by gate a (own a, shared) -> tower a -> a
      state b -> own experts b --> mixture by gate b (own b, shared) -> tower b -> b

Shared parameters: all experts and shared gates below the last level, and its shared experts; with three levels or more also
the gates below the last two. The other gates, the own experts of the last level and the towers have one objective each.
Features for ``at="features"``: the outputs of the last shared experts, and the state of each objective.
Origin: H. Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
Recommendations", RecSys 2020.

    model = create_model("ple", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    outputs = model(x)                          # {"cut": (B, 5), "price": (B, 1)}
    balancer.backward({"cut": cross_entropy(outputs["cut"], y), "price": mse_loss(outputs["price"], z)})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least, check_dropout, head_sizes
from zoo.mmoe import Experts, mean_gate, mixture
from zoo.registry import register_model
from zoo.tables import category_embedding, embed, embedding_network, mlp, table_info, towers


def _whole(state: Tensor) -> Tensor:
    return state


class Level(nn.Module):
    """Experts and gates of one level. The last has no shared gate: its common state is unused.

    Args:
        names: The objectives.
        inputs: Numbers that a gate reads.
        expert: Makes an expert.
        own: Number of experts of each objective.
        shared: Number of shared experts.
        last: Whether it is the last level.
        read: State -> (B, inputs), what a gate reads of it.
    """

    def __init__(
        self,
        names: Sequence[str],
        inputs: int,
        expert: Callable[[], nn.Module],
        own: int,
        shared: int,
        last: bool,
        read: Callable[[Tensor], Tensor] = _whole,
    ) -> None:
        super().__init__()
        self.read = read

        def experts(count: int) -> Experts:
            return Experts(expert() for _ in range(count))

        self.shared = experts(shared)
        self.own = nn.ModuleDict({name: experts(own) for name in names})
        self.gate = nn.ModuleDict({name: nn.Linear(inputs, own + shared) for name in names})
        self.shared_gate = None if last else nn.Linear(inputs, len(names) * own + shared)

    def sharing(self, number: int, states: Sequence[Tensor], common: Tensor) -> dict[str, dict[str, float]]:
        """Level and objective, or ``shared`` -> share of each expert, mean over the samples."""
        shared = [f"shared {k + 1}" for k in range(len(self.shared))]
        own = {name: [f"{name} {k + 1}" for k in range(len(cast(Experts, each)))] for name, each in self.own.items()}
        rows = {
            f"level {number}, {name}": mean_gate(self.gate[name], self.read(state), own[name] + shared)
            for name, state in zip(own, states, strict=True)
        }
        if self.shared_gate is not None:
            rows[f"level {number}, shared"] = mean_gate(
                self.shared_gate, self.read(common), [*chain(*own.values()), *shared]
            )
        return rows

    def forward(self, common: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Common state and state of each objective -> the same for the next level."""
        assert self.shared_gate is not None
        shared = self.shared(common)
        own = [experts(state) for experts, state in zip(self.own.values(), states, strict=True)]
        mixed = [
            mixture(gate, self.read(state), torch.cat([experts, shared], dim=1))
            for gate, state, experts in zip(self.gate.values(), states, own, strict=True)
        ]
        return mixture(self.shared_gate, self.read(common), torch.cat([*own, shared], dim=1)), mixed


def level_shares(levels: nn.ModuleList, x: Tensor, objectives: int) -> dict[str, dict[str, float]]:
    """Level and objective -> share of each expert, mean over x (B, ...), the first input."""
    rows: dict[str, dict[str, float]] = {}
    common, states = x, [x] * objectives
    for number, level in enumerate(cast(Iterable[Level], levels), 1):
        rows |= level.sharing(number, states, common)
        if level.shared_gate is not None:
            common, states = level(common, states)
    return rows


@register_model(
    "ple", table_info("levels of shared and own MLP experts, mixed by gates, for tables", "Tang et al., RecSys 2020")
)
class PLE(BaseModel):
    """Levels of shared and own MLP experts, with an MLP tower per objective.

    Args:
        in_features: Number of inputs.
        classifiers: Objective -> number of classes; the output is logits (B, classes).
        regressors: Objective -> number of values; the output is values (B, dims).
        levels: Number of levels, at least 1.
        shared_experts: Number of shared experts in each level, at least 1.
        own_experts: Number of experts of each objective in each level, at least 1.
        width: Units of every hidden layer of experts and towers.
        depth: Number of hidden layers of an expert, at least 1.
        tower_depth: Number of hidden layers between an objective's last mixture and its linear output; may be 0.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.
        categories: For each column of codes, how many codes it has; empty: the model takes numbers alone.
    """

    ordered_by_objective = ("shared_gate",)

    def __init__(
        self,
        in_features: int,
        classifiers: Mapping[str, int],
        regressors: Mapping[str, int],
        levels: int = 2,
        shared_experts: int = 1,
        own_experts: int = 1,
        width: int = 96,
        depth: int = 2,
        tower_depth: int = 1,
        dropout: float = 0.0,
        categories: Sequence[int] = (),
    ) -> None:
        super().__init__()
        sizes = head_sizes("ple", classifiers, regressors)
        check_at_least("ple", 1, levels=levels, width=width, depth=depth)
        check_at_least("ple", 1, shared_experts=shared_experts, own_experts=own_experts)
        check_at_least("ple", 0, tower_depth=tower_depth)
        check_dropout("ple", dropout)
        self.categories = tuple(categories)
        self.embedding, numbers = category_embedding("ple", in_features, categories)
        self.objectives = names = tuple(sizes)
        self.levels = nn.ModuleList(
            Level(
                names, inputs, partial(mlp, inputs, width, depth, dropout), own_experts, shared_experts, k == levels - 1
            )
            for k, inputs in enumerate([numbers] + [width] * (levels - 1))
        )
        self.head = towers(sizes, width, tower_depth, dropout)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> dict[str, Tensor]:
        """(B, in_features), and (B, columns) with categories -> one output per objective."""
        return self.heads(self.features(x, codes))

    def features(self, x: Tensor, codes: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, in_features) -> last shared experts (B, shared_experts, width), states of objectives."""
        x = embed(self.embedding, x, codes)
        # copies, as none of the features may be computed from another: gradients at them would count twice
        common, states = x, [x.view_as(x) for _ in self.objectives]
        for level in self.levels[:-1]:
            common, states = level(common, states)
        return self._last.shared(common), *states

    def heads(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Last shared experts and states of the objectives -> one output per objective."""
        shared, *states = features
        last, outputs = self._last, {}
        for name, state in zip(self.objectives, states, strict=True):
            experts = torch.cat([last.own[name](state), shared], dim=1)
            outputs[name] = self.head[name](mixture(last.gate[name], state, experts))
        return outputs

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """Own experts and gate of the last level, the gate below that leads to them, and the tower."""
        gates = [cast(Level, level).gate[name] for level in self.levels[-2:]]
        parts = [*gates, self._last.own[name], self.head[name]]
        return [parameter for part in parts for parameter in part.parameters()]

    def networks(self) -> dict[str, nn.Module]:
        """The levels and the towers, for an optimizer each."""
        return {"levels": self.levels, "heads": self.head, **embedding_network(self.embedding)}

    def sharing(self, x: Tensor, codes: Tensor | None = None) -> dict[str, dict[str, float]]:
        """Level and objective -> share of each expert, mean over the samples."""
        return level_shares(self.levels, embed(self.embedding, x, codes), len(self.objectives))

    @property
    def _last(self) -> Level:
        return cast(Level, self.levels[-1])
