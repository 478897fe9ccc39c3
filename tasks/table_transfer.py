"""Inputs of models for tables by name, so that weights can follow them to another table.

numbers     x    a standardized number, an indicator of missing ones, an indicator of a category
codes       c    a row of the embedding for each category of a column
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.table_inputs import Input, NumberInput


@dataclass(frozen=True)
class NumberMeaning:
    """One number that a network reads: ``(value - mean) / std`` of what ``name`` names."""

    name: str
    mean: float = 0.0
    std: float = 1.0


def number_meanings(inputs: Sequence[Input], width: int = 0) -> list[NumberMeaning]:
    """The numbers in their order.

    Args:
        inputs: Fitted to a table.
        width: Numbers that an embedding has for each column of categories; 0: they are indicators.
    """
    numbers: list[NumberMeaning] = []
    categories: list[NumberMeaning] = []
    for column in inputs:
        if isinstance(column, NumberInput):
            numbers.append(NumberMeaning(f"{column.name} ({column.type})", column.mean, column.std))
            numbers += [NumberMeaning(f"whether {column.name} is missing")] * column.indicator
        elif width:
            categories += [NumberMeaning(f"{column.name} (category), number {k + 1}") for k in range(width)]
        else:
            categories += [
                NumberMeaning(f"{column.name} = {value}" if value else f"{column.name}, missing category")
                for value in column.values
            ]
    return numbers + categories


def category_rows(inputs: Sequence[Input]) -> list[tuple[str, str | None]]:
    """Column and text of each row of an embedding; ``None`` for any other text."""
    return [
        (column.name, value)
        for column in inputs
        if not isinstance(column, NumberInput)
        for value in (None, *column.values)
    ]
