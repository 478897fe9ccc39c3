"""Keys of results: ``test/cut/accuracy``, or ``cut/accuracy`` where the split is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class ResultKey:
    """Name of one number of an evaluation; ``str`` writes it, :meth:`parse` reads it."""

    objective: str  # or what a task evaluates as a whole, such as samples
    metric: str  # or loss
    split: str = ""

    @classmethod
    def parse(cls, text: str) -> ResultKey:
        """The key of ``[<split>/]<objective>/<metric>``. Raises ValueError for anything else."""
        parts = text.split("/")
        if len(parts) not in (2, 3):
            raise ValueError(f"a result is named <objective>/<metric>, without other slashes; got {text!r}")
        return cls(*parts[-2:], *parts[:-2])

    def __str__(self) -> str:
        return f"{self.split}/{self.name}" if self.split else self.name

    @property
    def name(self) -> str:
        """``<objective>/<metric>``, as in tables with a column for the split."""
        return f"{self.objective}/{self.metric}"

    @property
    def is_loss(self) -> bool:
        """Whether it is the loss of its objective."""
        return self.metric == "loss"


def with_split(values: Mapping[str, T], split: str) -> dict[str, T]:
    """Values by ``<split>/<objective>/<metric>``, from values by ``<objective>/<metric>``."""
    return {f"{split}/{name}": value for name, value in values.items()}


def without_split(values: Mapping[str, T]) -> dict[str, T]:
    """Inverse of :func:`with_split`."""
    return {ResultKey.parse(key).name: value for key, value in values.items()}


def objectives_of(names: Iterable[str]) -> list[str]:
    """Objectives of results, each once."""
    return list(dict.fromkeys(ResultKey.parse(name).objective for name in names))
