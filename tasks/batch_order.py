"""The order of batches when the samples come from several sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from tasks.task import sample_seed

Turns = Literal["proportional", "temperature", "round_robin", "until_exhausted"]


@dataclass(frozen=True)
class BatchOrder:
    """Which samples of several sources, which lie one after the other, make up each batch.

    Args:
        sizes: Number of samples of each source.
        turns: ``proportional``: sources count by their sizes, every sample about once an epoch. ``temperature``: by
            sizes ** (1 / temperature). ``round_robin``: all the same; an epoch ends with the largest source, and smaller ones begin
            again. ``until_exhausted``: all the same; an epoch ends with the smallest.
        temperature: At least 1, where sources count by their sizes; larger values make them more equal.
        per_step: Whether a batch holds samples of ``one`` source or of ``all``.
    """

    sizes: Sequence[int]
    turns: Turns
    temperature: float
    per_step: Literal["one", "all"]

    def count(self, batch_size: int) -> int:
        """Number of batches in an epoch."""
        if self.per_step == "one":
            return sum(self._batches_of_each(batch_size))
        rounds = [size // share for size, share in zip(self.sizes, self._shares_of_a_batch(batch_size), strict=True)]
        if self.turns == "temperature":
            return max(sum(self.sizes) // batch_size, 1)
        return max(max(rounds) if self.turns == "round_robin" else min(rounds), 1)

    def batches(self, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
        """The (B,) indices of every batch of an epoch, a function of seed and epoch alone."""
        if self.per_step == "all":
            number, shares = self.count(batch_size), self._shares_of_a_batch(batch_size)
            parts = [self._stream(s, share * number, seed, epoch).split(share) for s, share in enumerate(shares)]
            return [torch.cat(batch) for batch in zip(*parts, strict=True)]
        each = self._batches_of_each(batch_size)
        streams = [iter(self._stream(s, n * batch_size, seed, epoch).split(batch_size)) for s, n in enumerate(each)]
        if self.turns in ("round_robin", "until_exhausted"):
            turns = [s for _ in range(each[0]) for s in range(len(each))]
        else:
            drawn = [s for s, n in enumerate(each) for _ in range(n)]
            generator = torch.Generator().manual_seed(sample_seed(seed, epoch))
            turns = [drawn[i] for i in torch.randperm(len(drawn), generator=generator).tolist()]
        return [next(streams[s]) for s in turns]

    def _batches_of_each(self, batch_size: int) -> list[int]:
        full = [max(size // batch_size, 1) for size in self.sizes]
        if self.turns == "temperature":
            return _divide(sum(full), self._weights())
        if self.turns == "proportional":
            return full
        return [max(full) if self.turns == "round_robin" else min(full)] * len(full)

    def _shares_of_a_batch(self, batch_size: int) -> list[int]:
        equal = self.turns in ("round_robin", "until_exhausted")
        return _divide(batch_size, [1.0] * len(self.sizes) if equal else self._weights())

    def _weights(self) -> list[float]:
        power = 1 / self.temperature if self.turns == "temperature" else 1.0
        return [size**power for size in self.sizes]

    def _stream(self, source: int, length: int, seed: int, epoch: int) -> Tensor:
        """Samples of a source, all of them before any for the second time."""
        size, first = self.sizes[source], list(accumulate(self.sizes, initial=0))[source]
        passes = [
            torch.randperm(size, generator=torch.Generator().manual_seed(sample_seed(seed, epoch, source, turn)))
            for turn in range(-(-length // size))
        ]
        return first + torch.cat(passes)[:length]


def _divide(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` in whole parts by these weights, none of them 0; largest remainders count."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(part) for part in exact]
    for place in sorted(range(len(parts)), key=lambda k: parts[k] - exact[k])[: total - sum(parts)]:
        parts[place] += 1
    for place, part in enumerate(parts):
        if part == 0:
            parts[parts.index(max(parts))] -= 1
            parts[place] = 1
    return parts
