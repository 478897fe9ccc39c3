from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import NonFiniteError


class FiniteCheck:
    """The option ``on_nonfinite``: what becomes of losses and gradients that are not finite.

    Args:
        owner: What messages begin with.
        objectives: Names of the values.
        skips: Whether a step is to be skipped; else NonFiniteError is raised.
    """

    def __init__(self, owner: str, objectives: Sequence[str], skips: bool) -> None:
        self._owner, self._objectives, self._skips = owner, objectives, skips
        # losses that are still to be checked, with their names; shared by the checks of fewer objectives
        self._arriving: list[tuple[Sequence[str], Tensor, torch.cuda.Event]] = []

    def among(self, objectives: Sequence[str]) -> FiniteCheck:
        """The same for fewer objectives."""
        check = FiniteCheck(self._owner, objectives, self._skips)
        check._arriving = self._arriving
        return check

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arriving": None}

    def __call__(self, values: Tensor, what: str) -> bool:
        """Whether the (K,) values are finite. Raises NonFiniteError unless steps are skipped."""
        return self._check(self._objectives, values, what)

    def _check(self, objectives: Sequence[str], values: Tensor, what: str) -> bool:
        finite = [math.isfinite(value) for value in values.tolist()]
        if not all(finite) and not self._skips:
            name = objectives[finite.index(False)]
            raise NonFiniteError(f"{self._owner}: the {what} of objective {name!r} is not finite")
        return all(finite)

    def of_losses(self, losses: Tensor) -> bool:
        """The same for losses; on CUDA one step late, so that no step waits for the device."""
        if losses.device.type != "cuda" or self._skips:
            return self(losses, "loss")
        if self._arriving:
            names, earlier, arrival = self._arriving.pop()
            arrival.synchronize()
            try:
                self._check(names, earlier, "loss")
            except NonFiniteError as error:
                error.late = True
                raise
        host = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
        host.copy_(losses, non_blocking=True)
        arrival = torch.cuda.Event()
        arrival.record()
        self._arriving.append((self._objectives, host, arrival))
        return True
