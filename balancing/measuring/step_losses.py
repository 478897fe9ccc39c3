from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import BalancingError
from .processes import gather, several_processes

#: Makes the losses of this process; ``None`` for an objective that is absent from it.
Make = Callable[[], Sequence[Tensor | None]]

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(slots=True)
class StepLosses:
    """The losses of one call, of which some may be absent.

    Attributes:
        values: K scalars; a constant zero for an objective that is absent from this process.
        stacked: (K,) the same as one tensor.
        means: (K,) without graph, averaged over processes, to which a process without the objective adds zero.
        present: Whether each objective is present on any process.
    """

    values: list[Tensor]
    stacked: Tensor
    means: Tensor
    present: tuple[bool, ...]

    @classmethod
    def of(cls, given: Sequence[Tensor | None], device: torch.device | None = None) -> StepLosses:
        """From the losses of this process alone; ``device`` is where to be without any."""
        values = [value for value in given if value is not None]
        if len(values) < len(given):
            zero = torch.zeros_like(values[0]) if values else torch.zeros((), device=device)
            values = [zero if value is None else value for value in given]
        stacked = torch.stack(values)
        return cls(values, stacked, stacked.detach(), tuple(value is not None for value in given))

    @classmethod
    def agreed(cls, owner: str, make: Make, size: int) -> StepLosses:
        """From the losses of all processes; an error in one of them is an error in all.

        Args:
            owner: What messages begin with.
            make: Its errors are raised here, and as BalancingError in the other processes.
            size: K.
        """
        if not several_processes():
            return cls.of(make())
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        try:
            mine = cls.of(make(), device)
        except Exception as error:
            _exchange(torch.zeros(2 * size + len(_DTYPES) + 1, device=device), failed=True)
            gather(str(error))
            raise
        dtypes = [any(mine.present) and mine.means.dtype == dtype for dtype in _DTYPES]
        flags = torch.tensor([*mine.present, *dtypes, False], dtype=torch.float64, device=mine.means.device)
        means, flags = _exchange(torch.cat([mine.means.double(), flags])).tensor_split([size])
        *told, failed = (flag > 0 for flag in flags.tolist())
        if failed:
            errors = [(rank, error) for rank, error in enumerate(gather(None)) if error is not None]
            raise BalancingError(f"{owner}: process {errors[0][0]} failed: {errors[0][1]}")
        # a process without losses, or with others, would round the means to another type
        anywhere = [dtype for dtype, there in zip(_DTYPES, told[size:], strict=True) if there]
        dtype = reduce(torch.promote_types, anywhere) if anywhere else mine.means.dtype
        return replace(mine, means=means.to(dtype), present=tuple(told[:size]))

    def among(self, indices: Sequence[int]) -> StepLosses:
        """Those of the objectives with these indices."""
        values = [self.values[k] for k in indices]
        present = tuple(self.present[k] for k in indices)
        return StepLosses(values, torch.stack(values), self.means[list(indices)], present)

    def differentiated(self, active: Sequence[int] | None) -> tuple[int, ...] | None:
        """Those of the ``active`` objectives that are present; ``None``: all."""
        if active is None and all(self.present):
            return None
        present = tuple(k for k, here in enumerate(self.present) if here)
        chosen = present if active is None else tuple(k for k in active if k in present)
        return None if len(chosen) == len(self.values) else chosen


def where(present: Iterable[bool]) -> list[int]:
    """Indices of the objectives that are present."""
    return [k for k, here in enumerate(present) if here]


def _exchange(message: Tensor, failed: bool = False) -> Tensor:
    """The mean of the message over processes; its last number counts those that ``failed``."""
    message = message.double()
    message[-1] = float(failed)
    dist.all_reduce(message)
    return message / dist.get_world_size()
