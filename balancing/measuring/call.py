from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """Arguments of :meth:`balancing.Balancer.backward` beside the losses, as described there."""

    shared: Sequence[Tensor] | None = None
    parameters: Sequence[Tensor] | None = None
    features: Tensor | Sequence[Tensor] | None = None
    subset: Sequence[Tensor] | None = None
    scaler: torch.amp.GradScaler | None = None
    last: bool = True
    groups: Mapping[str, Sequence[Tensor]] | None = None
