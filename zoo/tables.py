"""Common parts of models for tables: description, embedding, MLPs and towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.checks import check_at_least
from zoo.registry import ModelInfo

_WIDTH = 8  # numbers that stand for one category


def table_info(summary: str, origin: str) -> ModelInfo:
    """Description of a model for tables."""
    inputs = "x (B, in_features); with categories also codes (B, columns)"
    return ModelInfo(summary, inputs, "any number of classifiers and regressors", "diamonds", origin)


class CategoryEmbedding(nn.Module):
    """Numbers x (B, F), codes (B, C) -> (B, F + 8 C): eight learned numbers for each code.

    Code 0, for what was not seen in training, starts with zeros; the others have a variance of 1 / 8, so that a column starts
    with the variance of a standardized number.

    Args:
        categories: For each column, the number of its codes.
    """

    first: Tensor

    def __init__(self, categories: Sequence[int]) -> None:
        super().__init__()
        sizes = torch.tensor([0, *categories])
        # one table for all columns, so that one look-up serves them all
        self.register_buffer("first", sizes.cumsum(0)[:-1], persistent=False)
        self.table = nn.Embedding(int(sizes.sum()), _WIDTH)
        nn.init.normal_(self.table.weight, std=_WIDTH**-0.5)
        with torch.no_grad():
            self.table.weight[self.first] = 0

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """Both together."""
        return torch.cat([x, self.table(codes + self.first).flatten(1)], dim=1)


def category_embedding(model: str, in_features: int, categories: Sequence[int]) -> tuple[CategoryEmbedding | None, int]:
    """What precedes a model of numbers and categories; and how many numbers come out.

    Without categories that is ``None``.

    Raises ValueError for a size out of range.
    """
    check_at_least(model, 0 if categories else 1, in_features=in_features)
    if not categories:
        return None, in_features
    for size in categories:
        check_at_least(model, 1, **{"the number of codes in categories": size})
    return CategoryEmbedding(categories), in_features + _WIDTH * len(categories)


def embed(embedding: CategoryEmbedding | None, x: Tensor, codes: Tensor | None) -> Tensor:
    """The numbers that a model works on. Raises TypeError if codes are missing, or not expected."""
    if (embedding is None) != (codes is None):
        raise TypeError("a model that is built with categories takes numbers and codes, any other takes numbers alone")
    return x if embedding is None or codes is None else embedding(x, codes)


def embedding_network(embedding: CategoryEmbedding | None) -> dict[str, nn.Module]:
    """The embedding as one of the model's networks, if there is one."""
    return {} if embedding is None else {"categories": embedding}


def mlp(inputs: int, width: int, depth: int, dropout: float) -> nn.Sequential:
    """(B, inputs) -> [Linear -> SiLU -> dropout] x depth -> (B, width)."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(width if index else inputs, width), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def towers(sizes: Mapping[str, int], width: int, depth: int, dropout: float) -> nn.ModuleDict:
    """Objective -> MLP of ``depth`` hidden layers and a linear output: (B, width) -> (B, size)."""
    return nn.ModuleDict(
        {
            name: nn.Sequential(*mlp(width, width, depth, dropout), nn.Linear(width, size))
            for name, size in sizes.items()
        }
    )
