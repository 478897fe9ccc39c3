from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..report import BalanceReport


class Call(NamedTuple):
    """Arguments of :meth:`balancing.Balancer.backward` beside the losses, as described there."""

    shared: Sequence[Tensor] | None = None
    parameters: Sequence[Tensor] | None = None
    features: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None = None
    subset: Sequence[Tensor] | None = None
    scaler: torch.amp.GradScaler | None = None
    last: bool = True
    groups: Mapping[str, Sequence[Tensor]] | None = None
    retain_graph: bool = False
    create_graph: bool = False
    advance: bool = True
    weights_of: BalanceReport | None = None

    @property
    def keeps_graph(self) -> bool:
        """Whether the graph of the losses can be differentiated again afterwards."""
        return self.retain_graph or self.create_graph


def tensor_list(given: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None) -> list[Tensor]:
    """The tensors of an argument that may be one, several, or several with names."""
    if given is None or isinstance(given, Tensor):
        return [] if given is None else [given]
    return [*(given.values() if isinstance(given, Mapping) else given)]
