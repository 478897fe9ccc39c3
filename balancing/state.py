"""The state of a balancer: as one tensor, with names, and by objective."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: What a state belongs to: method, objectives, options, and the same of a method before it.
Identity = Mapping[str, Any]


def encode(state: Mapping[str, Any]) -> Tensor:
    """Plain containers, numbers and tensors -> (n,) bytes: safetensors writes tensors alone."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def decode(state: Tensor | Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`encode`, with tensors on the CPU.

    A mapping, as earlier versions saved it, is returned as it is.
    """
    if not isinstance(state, Tensor):
        return dict(state)
    content = state.cpu().contiguous()
    file = io.BytesIO(ctypes.string_at(content.data_ptr(), content.numel()))
    decoded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return decoded


def check_identity(owner: str, mine: Identity, saved: Identity) -> None:
    """Raise ValueError for a state of another method, other objectives or options.

    The message begins with ``owner``. A state of an earlier version, which has no names, passes.
    """
    if "method" not in saved:
        return
    if saved["method"] != mine["method"]:
        raise ValueError(f"{owner}: the state is of the method {saved['method']!r}, not of {mine['method']!r}")
    theirs, own = tuple(saved["objectives"]), tuple(mine["objectives"])
    if theirs != own:
        what = "has the objectives in another order" if {*theirs} == {*own} else "is of other objectives"
        raise ValueError(
            f"{owner}: the state {what}: {_listed(theirs)} there, {_listed(own)} here; "
            "balancer.load_objectives(state) loads a state by name"
        )
    for name, value in mine["options"].items():
        other = saved["options"].get(name, value)
        if other != value:
            raise ValueError(f"{owner}: the state is of {name}={other!r}, but this balancer has {name}={value!r}")
    before, earlier = mine.get("before"), saved.get("before")
    if before is not None and earlier is not None:
        check_identity(owner, before, {**earlier, "objectives": before["objectives"]})
    elif before is not earlier:
        raise ValueError(f"{owner}: the state is of {_described(saved)}, but this balancer is {_described(mine)}")


def by_objective(
    source: Tensor, fresh: Tensor | None, axes: Sequence[int] | None, old: Sequence[str], new: Sequence[str]
) -> Tensor:
    """A tensor of the state, with its entries put where the objectives of the same name are.

    Args:
        source: As saved, for the objectives ``old``.
        fresh: Has the entries of objectives that ``old`` lacks; zeros if not given.
        axes: Which dimensions count objectives; ``None``: the only one, if its size is that of ``old``.
        old: Names in the state.
        new: Names wanted.
    """
    if axes is None:
        axes = (0,) if source.dim() == 1 and len(source) == len(old) else ()
    if not axes:
        return source.clone()
    if fresh is None:
        fresh = source.new_zeros([len(new) if axis in axes else size for axis, size in enumerate(source.shape)])
    if any(a != b for axis, (a, b) in enumerate(zip(source.shape, fresh.shape, strict=True)) if axis not in axes):
        return source.clone()  # of another size for another reason, which load_state_dict names
    kept = [name for name in new if name in old]
    there, here = (torch.tensor([names.index(name) for name in kept]) for names in (old, new))
    return _placed(source.to(fresh), fresh, list(axes), there.to(fresh.device), here.to(fresh.device))


def _placed(source: Tensor, target: Tensor, axes: list[int], there: Tensor, here: Tensor) -> Tensor:
    if not axes:
        return source
    axis, *others = axes
    chosen = _placed(source.index_select(axis, there), target.index_select(axis, here), others, there, here)
    return target.detach().index_copy(axis, here, chosen)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names))


def _described(identity: Identity) -> str:
    before = identity.get("before")
    return repr(identity["method"]) if before is None else f"{identity['method']!r} after {_described(before)}"
