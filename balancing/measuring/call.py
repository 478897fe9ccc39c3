from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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

    def checked(self, owner: str) -> Call:
        """This call with lists of tensors for other iterables.

        Raises ValueError, which begins with ``owner``, for an argument of another type.
        """
        if self.shared is self.parameters is self.subset is self.groups is self.scaler is self.weights_of is None:
            return self
        lists: dict[str, Any] = {}
        for name in ("shared", "parameters", "subset"):
            given = getattr(self, name)
            if given is not None:
                lists[name] = tensor_list(
                    owner, f"{name}=", [given] if name == "subset" and isinstance(given, Tensor) else given
                )
        if self.groups is not None:
            if not isinstance(self.groups, Mapping):
                raise _wrong(owner, "groups=", 'a mapping such as group_parameters(model, "layer")', type(self.groups))
            groups = self.groups.items()
            lists["groups"] = {name: tensor_list(owner, f"group {name!r}", group) for name, group in groups}
        if self.scaler is not None and not hasattr(self.scaler, "is_enabled"):
            raise _wrong(owner, "scaler=", "a torch.amp.GradScaler", type(self.scaler))
        if self.weights_of is not None and not isinstance(self.weights_of, BalanceReport):
            raise _wrong(owner, "weights_of=", "a report that backward returned", type(self.weights_of))
        return self._replace(**lists) if lists else self


def named_tensors(given: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None) -> list[Tensor]:
    """The tensors of an argument that may be one, several, or several with names."""
    if given is None or isinstance(given, Tensor):
        return [] if given is None else [given]
    return [*(given.values() if isinstance(given, Mapping) else given)]


def tensor_list(owner: str, what: str, given: Iterable[Tensor]) -> list[Tensor]:
    """The tensors of an argument. Raises ValueError, which begins with ``owner``, for others."""
    wanted = "a list of tensors such as list(model.parameters())"
    if isinstance(given, (Mapping, Tensor, str)) or not isinstance(given, Iterable):
        raise _wrong(owner, what, wanted, type(given))
    tensors = list(given)
    for kind in {*map(type, tensors)}:  # isinstance of each would take longer
        if not issubclass(kind, Tensor):
            raise _wrong(owner, what, wanted, kind, "a list with ")
    return tensors


def _wrong(owner: str, what: str, wanted: str, given: type, container: str = "") -> ValueError:
    return ValueError(f"{owner}: {what} must be {wanted}, got {container}an object of type {given.__name__}")
