"""Time and errors of the solvers that find weights from a Gramian, beside those of torchjd.

Parts of ``lab/benchmark_balancers.py``. Random Gramians, float64, one thread.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from balancing import balancer_class, create_balancer
from lab import documents, ours
from lab.timing import timed
from mozoo.device import describe_device, own_threads

Row = dict[str, Any]

#: Numbers of objectives, and ranks of the Gramians, for which solvers are timed.
COUNTS = (2, 3, 5, 10, 20, 40, 60, 100, 200)
RANKS: dict[str, Callable[[int], int]] = {"full": lambda k: 4 * k, "K/2": lambda k: k // 2, "3": lambda k: 3}
#: Our method -> torchjd's class and its arguments.
AGGREGATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "aligned_mtl": ("AlignedMTL", {}),
    "cagrad": ("CAGrad", {"c": 0.4}),
    "conflict_free": ("ConFIG", {}),
    "dualproj": ("DualProj", {}),
    "fairgrad": ("FairGrad", {"alpha": 1.0}),
    "gradvac": ("GradVac", {}),
    "imtl_g": ("IMTLG", {}),
    "krum": ("Krum", {"n_byzantine": 0}),
    "mgda": ("MGDA", {}),
    "nash_mtl": ("NashMTL", {}),
    "pcd": ("PCD", {}),
    "pcgrad": ("PCGrad", {}),
    "upgrad": ("UPGrad", {}),
}
#: Methods whose weights solve a problem with a known error, and numbers of objectives for which it is measured.
CERTIFIED = ("dualproj", "mgda", "upgrad")
CERTIFIED_COUNTS = (5, 20, 60, 100)
PROBLEMS = 9


class Problem(NamedTuple):
    """Random gradients as rows, their Gramian, and losses."""

    gradients: Tensor
    gramian: Tensor
    losses: Tensor

    @classmethod
    def of(cls, seed: int, count: int, rank: str) -> Problem:
        """``count`` gradients of a rank in ``RANKS``, with four times as many coordinates."""
        generator = torch.Generator().manual_seed(seed)
        size = RANKS[rank](count)
        rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
        losses = torch.rand(count, generator=generator, dtype=torch.float64) + 0.5
        if size == 4 * count:
            return cls(rows, rows @ rows.T, losses)
        basis = torch.linalg.qr(torch.randn(4 * count, size, generator=generator, dtype=torch.float64)).Q
        return cls(rows @ basis.T, rows @ rows.T, losses)


#: Weights, or the update, of a problem.
Solver = Callable[[Problem], Tensor]


@own_threads()
def measure(rounds: int) -> list[Row]:
    """Processor time of the weights alone, for random Gramians, on one thread."""
    torch.set_num_threads(1)
    names = [name for name in ours.balancers() if name != "torchjd" and balancer_class(name).needs == "gramian"]
    cases = itertools.product(names, RANKS, COUNTS)
    rows = [row for case in track(list(cases), description="solvers") for row in measure_case(*case, rounds)]
    return [row | {"device": describe_device(torch.device("cpu"))} for row in rows]


def measure_case(name: str, rank: str, count: int, rounds: int) -> list[Row]:
    """Solvers of ours and torchjd take turns on the same Gramians, slow ones on fewer."""
    if not _is_case(rank, count) or (name == "krum" and count < 3):
        return []
    balancer: Any = create_balancer(name, [str(k) for k in range(count)])
    solvers = _solvers(balancer)
    seconds: dict[str, list[float]] = {variant: [] for variant in solvers}
    for turn in range(rounds + 1):
        problem = Problem.of(turn, count, rank)
        for variant, solve in solvers.items():
            if len(seconds[variant]) < 2 or sum(seconds[variant]) < 0.2:
                seconds[variant].append(timed(partial(solve, problem))[1])
        balancer.step += 1
    return [
        {"variant": _named(variant, rank), "objectives": count, "milliseconds": f"{1000 * value:.3g}"}
        for variant, value in ((variant, statistics.median(spent[1:])) for variant, spent in seconds.items())
    ]


def measure_errors(_: int) -> list[Row]:
    """The median over problems of :func:`error`, for our solvers and torchjd's."""
    rows = []
    cases = [case for case in itertools.product(CERTIFIED, RANKS, CERTIFIED_COUNTS) if _is_case(*case[1:])]
    for name, rank, count in track(cases, description="errors"):
        solvers = _solvers(create_balancer(name, [str(k) for k in range(count)]))
        problems = [Problem.of(seed, count, rank) for seed in range(PROBLEMS)]
        for variant, solve in solvers.items():
            value = statistics.median(error(name, solve(problem), problem.gramian) for problem in problems)
            rows.append({"variant": _named(variant, rank), "objectives": count, "error": f"{value:.1e}"})
    return rows


def error(name: str, weights: Tensor, gramian: Tensor) -> float:
    """By how much ``weights`` miss what a method in ``CERTIFIED`` promises; 0 if by nothing.

    ``mgda``: the duality gap ``w'Gw - min_i (Gw)_i``, relative to the square of the shortest gradient. The others: the
    largest negative product of the update with a unit gradient, relative to the length of the mean gradient.
    """
    products = gramian @ weights
    if name == "mgda":
        return float((weights @ products - products.min()) / gramian.diagonal().min())
    worst = (products / gramian.diagonal().sqrt()).min()
    return max(-float(worst / gramian.mean().sqrt()), 0.0)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Milliseconds to find the weights: ours, and torchjd's behind a stroke."""
    return _table(rows, "milliseconds", COUNTS)


def errors_table(rows: Sequence[Mapping[str, str]]) -> str:
    """By how much weights miss what their method promises: ours, and torchjd's behind a stroke."""
    return _table(rows, "error", CERTIFIED_COUNTS)


def _is_case(rank: str, count: int) -> bool:
    return rank == "full" or (RANKS[rank](count) < count and count >= 5)


def _solvers(balancer: Any) -> dict[str, Solver]:
    """Our function of the Gramian, and torchjd's; see :func:`torchjd_solver`."""

    def ours(problem: Problem) -> Tensor:
        weights: Tensor = balancer.effective_weights(problem.losses, problem.gramian)
        return weights

    return {balancer.name: ours} | torchjd_solver(balancer.name, len(balancer.objectives))


def torchjd_solver(name: str, count: int) -> dict[str, Solver]:
    """torchjd's function of the Gramian for one of our methods, or its aggregator.

    Empty where it does not have the method, or a package that it needs is not installed.
    """
    from torchjd import aggregation

    if name not in AGGREGATORS:
        return {}
    aggregator, arguments = AGGREGATORS[name]
    try:
        method = getattr(aggregation, aggregator)(**arguments, **({"n_tasks": count} if name == "nash_mtl" else {}))
    except ImportError:
        return {}
    weigh = getattr(method, "gramian_weighting", None)
    return {
        f"torchjd {aggregator}": lambda problem: method(problem.gradients) if weigh is None else weigh(problem.gramian)
    }


def _named(variant: str, rank: str) -> str:
    return variant if rank == "full" else f"{variant}, rank {rank}"


def _table(rows: Sequence[Mapping[str, str]], column: str, counts: Sequence[int]) -> str:
    values = {(row["variant"], row["objectives"]): row[column] for row in rows}
    lines = []
    for name in dict.fromkeys(name.partition(",")[0] for name, _ in values if "torchjd" not in name):
        for rank in RANKS:
            theirs = f"torchjd {AGGREGATORS[name][0]}" if name in AGGREGATORS else ""
            pairs = [[(_named(variant, rank), str(count)) for variant in (name, theirs)] for count in counts]
            cells = [" / ".join(values[key] for key in pair if key in values) for pair in pairs]
            lines.append([f"`{name}`", rank, *cells])
    return documents.table(("method", "rank", *(f"K = {count}" for count in counts)), lines)
