"""Whether the gradients of all objectives are kept at once, or measured segment by segment."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import BalancingError, caller_level
from .cuts import Segment, find_segments
from .graph import LossGraph
from .processes import several_processes

#: Share of the free memory that gradients of all objectives may take, unless ``memory`` says something else.
SHARE = 0.5


class Lean:
    """Chooses segments for the shared parameters, or whole gradients of all objectives.

    Args:
        owner: Name of the method, for messages.
        asked: Whether to choose segments wherever the graph can be cut, and not only where the gradients of all objectives
            would take more than half of the free memory.
    """

    def __init__(self, owner: str, asked: bool) -> None:
        self._owner, self._asked = owner, asked
        self._needed: dict[tuple[int, int], bool] = {}  # numbers of parameters and of objectives -> whether to be lean
        self._told: set[str] = set()

    def segments(self, graph: LossGraph, inputs: Sequence[Tensor]) -> list[Segment] | None:
        """Segments, the same in all processes; ``None``: whole gradients of all objectives.

        Raises BalancingError if segments were asked for, and parameters are in shards.
        """
        rows = len(graph.losses if graph.active is None else graph.active)
        if not self._asked and (rows, len(inputs)) in self._needed and not self._needed[rows, len(inputs)]:
            return None
        if graph.shards is not None:
            if self._asked:
                raise BalancingError(
                    f"{self._owner}: gradients of parameters in shards come from ordinary backwards alone, so they cannot be "
                    "measured by segments; use memory='full'"
                )
            return None
        if rows < 2 or not inputs or not (self._asked or self._is_needed(rows, inputs)):
            return None
        roots = [graph.losses[k] for k in (range(rows) if graph.active is None else graph.active)]
        segments = None
        if not any(root.requires_grad and root.is_leaf for root in roots):
            segments = find_segments([root for root in roots if root.requires_grad], inputs, rows)
        if not _alike(segments, inputs):
            segments = None
            self._tell("the graphs of the processes are not cut in the same way")
        elif segments is None:
            self._tell(
                "the graph cannot be cut, as that of a compiled model, which is one node, or of modules with full backward "
                "hooks"
            )
        return segments

    def _is_needed(self, rows: int, inputs: Sequence[Tensor]) -> bool:
        """Whether the gradients of all objectives would not fit, in some process."""
        key = rows, len(inputs)
        if key not in self._needed:
            device = inputs[0].device
            wanted, free = rows * sum(leaf.numel() * leaf.element_size() for leaf in inputs), free_bytes(device)
            needed = free is not None and wanted > SHARE * free
            if several_processes():
                votes = torch.tensor(float(needed), device=device)
                dist.all_reduce(votes)
                needed = bool(votes > 0)
            self._needed[key] = needed
            if needed and free is not None:
                self._warn(
                    f"the gradients of {rows} objectives would take {wanted / 2**30:.2f} GiB, more than half of the "
                    f"{free / 2**30:.2f} GiB of memory that are free, so they are measured segment by segment, for about "
                    "one backward more; choose by memory='full' or 'lean'"
                )
        return self._needed[key]

    def _tell(self, reason: str) -> None:
        if self._asked:
            self._warn(f"{reason}, so memory='lean' saves nothing: the gradients of all objectives are kept at once")

    def _warn(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            warnings.warn(f"{self._owner}: {text}", stacklevel=caller_level())


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be allocated on ``device``; ``None``: unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.exists():
        return None
    lines = dict(line.split(":", 1) for line in table.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _alike(segments: Sequence[Segment] | None, inputs: Sequence[Tensor]) -> bool:
    """Whether all processes measure the same leaves at the same time."""
    if not several_processes():
        return True
    places = {leaf: p for p, leaf in enumerate(inputs)}
    chunks = [chunk for segment in segments or () for chunk in segment.chunks]
    number = hash(tuple(tuple(places[leaf] for leaf in chunk) for chunk in chunks)) >> 2
    message = torch.tensor([number, -number], device=inputs[0].device)
    dist.all_reduce(message, dist.ReduceOp.MAX)
    return bool(message.sum() == 0)
