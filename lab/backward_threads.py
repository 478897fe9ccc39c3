"""K backward passes side by side on the CPU: a thread each, against threads per operation.

A part of ``lab/benchmark_balancers.py``. All variants take turns, and only the backward passes are timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cross_entropy

from lab import documents
from lab.timing import timed
from zoo import create_model

Row = dict[str, Any]

COUNTS = (2, 4, 8)
CLASSES = 4
#: Name of a model -> its options, shape of a batch, and share of the rounds.
TRUNKS: Mapping[str, tuple[dict[str, Any], tuple[int, ...], float]] = {
    "shared_trunk": ({"in_features": 21}, (256, 21), 4),
    "shared_trunk_lenet": ({"in_channels": 1, "image_size": 36}, (256, 1, 36, 36), 1),
    "shared_trunk_resnet18": ({"in_channels": 3}, (16, 3, 64, 64), 0.4),
}
ONE, OPERATIONS, PASSES, APART = "one thread", "threads of an operation", "a thread per pass", "a graph per pass"


def measure(rounds: int) -> list[Row]:
    """Times of the K backward passes of a step, with one thread and with all of them."""
    threads = torch.get_num_threads()
    # the number of threads of an operation belongs to the thread that starts it
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rows = [row for model in TRUNKS for count in COUNTS for row in _measure(model, count, rounds, threads, pool)]
    torch.set_num_threads(threads)
    return rows


def _measure(name: str, count: int, rounds: int, threads: int, pool: ThreadPoolExecutor) -> list[Row]:
    options, shape, share = TRUNKS[name]
    torch.manual_seed(0)
    classifiers = {f"objective{k}": CLASSES for k in range(count)}
    model: Any = create_model(name, classifiers=classifiers, regressors={}, **options)
    batch, labels = torch.randn(shape), torch.randint(CLASSES, (count, shape[0]))
    shared = list(model.trunk.parameters())

    def forward() -> list[Tensor]:
        return [cross_entropy(logits, y) for logits, y in zip(model(batch).values(), labels, strict=True)]

    def backward(loss: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(loss, shared, retain_graph=True)

    def passes(run: Any, losses: list[Tensor]) -> list[Sequence[Tensor]]:
        return list(run(backward, losses))

    seconds: dict[str, list[float]] = {ONE: [], OPERATIONS: [], PASSES: [], APART: []}
    for turn in track(range(2 + max(3, int(share * rounds))), description=f"{name}, K = {count}"):
        for variant, spent in seconds.items():
            torch.set_num_threads(threads if variant == OPERATIONS else 1)
            losses = [forward()[k] for k in range(count)] if variant == APART else forward()
            run: Any = map if variant in (ONE, OPERATIONS) else pool.map
            wall, _ = timed(partial(passes, run, losses))
            if turn >= 2:
                spent.append(wall)
    times = {variant: statistics.median(spent) for variant, spent in seconds.items()}
    facts = {"objectives": count, "parameters": sum(p.numel() for p in shared)}
    return [
        {
            "variant": f"{name}, {variant}",
            **facts,
            "milliseconds": f"{1000 * value:.4g}",
            "to_bare": f"{value / times[OPERATIONS]:.4g}",
        }
        for variant, value in times.items()
    ]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Times relative to the bare passes, a line per trunk and K."""
    ratios = {(*row["variant"].split(", "), row["objectives"]): float(row["to_bare"]) for row in rows}
    lines = [
        [f"`{name}`", str(count), *(f"{ratios[name, variant, str(count)]:.2f}" for variant in (ONE, PASSES, APART))]
        for name in TRUNKS
        for count in COUNTS
    ]
    return documents.table(("model", "K", ONE, PASSES, APART), lines)
