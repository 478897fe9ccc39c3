"""Which parameters are shared where the autograd graph is ambiguous, as with merged outputs."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import caller_level
from .gradients import Gradients
from .processes import average_over_processes, several_processes

ABSENT = -1  # in place of the index of an objective: the leaf is of others, which are absent from the step
_LARGE = 1 << 14  # elements beyond which the first slice is read first


class Sharing:
    """What a balancer knows of the leaves of its losses; not in its state, and never copied.

    If outputs are concatenated, stacked or come from one compiled node, each loss reaches the heads of all objectives in the
    graph, but its gradient is exactly zero at those of the others. So a leaf with a gradient other than zero for one
    objective alone is that objective's. It becomes shared for good with the first gradient of another objective.
    Leaves are held by weak references.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._bits: dict[str, int] = {}
        # id of a leaf -> bits of the objectives that had a gradient there, forgotten with the leaf; a dictionary with weak
        # keys would cost a small model some percent of its step
        self._users: dict[int, int] = {}
        self._seen: dict[int, int] = {}  # the same of objectives whose gradient there is known, be it zero
        self._references: dict[int, weakref.ref[Tensor]] = {}
        self._raw: Any = WeakTensorKeyDictionary()  # leaf that is no parameter -> the call that reached it first
        self._call = 0
        self._warned = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Sharing:
        return Sharing(self._owner)

    def __reduce__(self) -> tuple[type[Sharing], tuple[str]]:
        return Sharing, (self._owner,)

    # ---- shared or of one objective ------------------------------------------------------------------------------

    def users(self, leaf: Tensor, objectives: Sequence[str]) -> list[int]:
        """Indices of the ``objectives`` that are known to use the leaf; none if it is unknown."""
        users = self._users.get(id(leaf), 0)
        return [k for k, bit in enumerate(self._own_bits(objectives)) if users & bit]

    def is_shared(self, leaf: Tensor, objectives: Sequence[str]) -> bool:
        """Whether at least two of the objectives are known to use the leaf."""
        return (self._users.get(id(leaf), 0) & sum(self._own_bits(objectives))).bit_count() > 1

    def unknown(self, leaves: Iterable[Tensor], objectives: Sequence[str]) -> list[Tensor]:
        """Leaves not known to be shared, of which an objective's gradient was not seen."""
        present = sum(self._own_bits(objectives))
        return [leaf for leaf in leaves if not self._is_seen(id(leaf), present)]

    def _is_seen(self, key: int, present: int) -> bool:
        return (self._users.get(key, 0) & present).bit_count() > 1 or not present & ~self._seen.get(key, 0)

    def learn(
        self, gradients: Gradients, objectives: Sequence[str], complete: bool, certain: bool = False
    ) -> dict[Tensor, int]:
        """Inputs that belong to one objective, with its index, or to absent ones (``ABSENT``).

        Inputs that are known to be shared cost a look-up, and the rows of others are read. A loss without any gradient
        (masked, satisfied) says nothing about who uses a leaf. What is not known then stays shared, as in the graph.

        Args:
            gradients: The rows, averaged over processes.
            objectives: Names of the rows.
            complete: Whether all objectives were differentiated.
            certain: Whether leaves without any gradient of a second objective belong to the first even so.
        """
        bits = self._own_bits(objectives)
        present, get = sum(bits), self._users.get
        open_ones = [
            (p, leaf) for p, leaf in enumerate(gradients.inputs) if (get(id(leaf), 0) & present).bit_count() < 2
        ]
        if not open_ones:
            return {}
        device = gradients.inputs[0].device
        table, finite = _nonzero([[row[p] for p, _ in open_ones] for row in gradients.rows], device)
        evidence = (
            finite
            and complete
            and all(
                _has_gradient(row, seen, reaches, device)
                for row, seen, reaches in zip(gradients.rows, table, _reaching(gradients), strict=True)
            )
        )
        owners = {}
        for column, (p, leaf) in enumerate(open_ones):
            known = get(id(leaf), 0)
            users = known | sum(bit for bit, row in zip(bits, table, strict=True) if row[column])
            if finite and users and (known or evidence or users.bit_count() > 1):
                known = users
                self._remember(leaf, users, present if evidence else 0)
            mine = (known if not certain else users) & present
            if known and not users & present:
                owners[leaf] = ABSENT
            elif mine.bit_count() == 1:
                owners[leaf] = bits.index(mine)
            elif certain and not mine:
                owners[leaf] = next((k for k, row in enumerate(gradients.rows) if row[p] is not None), 0)
        return owners

    def is_single(self, leaf: Tensor) -> bool:
        """Whether one objective alone is known to use the leaf."""
        return self._users.get(id(leaf), 0).bit_count() == 1

    def _remember(self, leaf: Tensor, users: int, seen: int) -> None:
        key = id(leaf)
        if key not in self._users:
            self._references[key] = weakref.ref(leaf, lambda _: self._forget(key))
        self._users[key], self._seen[key] = users, self._seen.get(key, 0) | seen

    def _forget(self, key: int) -> None:
        del self._users[key], self._seen[key], self._references[key]

    def _own_bits(self, objectives: Sequence[str]) -> list[int]:
        return [self._bits.setdefault(name, 1 << len(self._bits)) for name in objectives]

    # ---- parameters and other leaves -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Count a call of ``backward``."""
        self._call += 1

    def parameters(self, masks: dict[Tensor, int], given: Iterable[Tensor]) -> dict[Tensor, int]:
        """The leaves without inputs that require a gradient, such as collocation points.

        These are the leaves that are neither parameters nor ``given``; if no leaf is a parameter, all are weights. A
        leaf left out in two calls may be a weight after all, which a warning says once.
        """
        raw = [leaf for leaf in masks if type(leaf) is not nn.Parameter and not isinstance(leaf, nn.Parameter)]
        if not raw or len(raw) == len(masks):
            return masks
        left_out = set(raw).difference(given)
        for leaf in left_out:
            if self._raw.setdefault(leaf, self._call) != self._call and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self._owner}: the losses reach a tensor of shape {tuple(leaf.shape)} that requires a gradient, but "
                    "is no nn.Parameter; it is not balanced and gets no .grad. If it is a weight, make it an "
                    "nn.Parameter or name it in parameters=; if it is an input, give parameters=model.parameters() or "
                    "ignore this",
                    stacklevel=caller_level(),
                )
        return {leaf: mask for leaf, mask in masks.items() if leaf not in left_out}


def _reaching(gradients: Gradients) -> list[bool]:
    """Which objectives reach an input, in some process."""
    reaching = [gradients.reaches(k) for k in range(len(gradients.rows))]
    if several_processes():
        mean = torch.tensor(reaching, dtype=torch.float32, device=gradients.inputs[0].device)
        average_over_processes([mean])
        reaching = [value > 0 for value in mean.tolist()]
    return reaching


def _has_gradient(row: Sequence[Tensor | None], seen: Sequence[bool], reaches: bool, device: torch.device) -> bool:
    """Whether a loss that reaches an input has a gradient other than zero at one."""
    if any(seen) or not reaches:
        return True
    return any(_nonzero([[gradient]], device)[0][0][0] for gradient in row)


def _nonzero(rows: Sequence[Sequence[Tensor | None]], device: torch.device) -> tuple[list[list[bool]], bool]:
    """Which gradients are not zero in some process, and whether all are finite.

    ``device`` is one on which processes can communicate: all of them must call this, whatever they have.
    """
    read = [[g.coalesce().values() if g is not None and g.is_sparse else g for g in row] for row in rows]
    flat = [gradient for row in read for gradient in row if gradient is not None and gradient.numel() > 0]
    if not flat and not several_processes():  # another process may have more of a sharded parameter
        return [[False] * len(row) for row in rows], True
    # a large gradient that is not zero is soon seen to be so; one pass over the others, one synchronization
    pieces = [g[0] if g.device.type == "cpu" and g.numel() > _LARGE else g for g in flat]
    norms = torch._foreach_norm(pieces, math.inf) if pieces else ()
    lengths: list[float] = torch.stack([norm.to(device) for norm in norms]).tolist() if pieces else []
    for i, (gradient, piece) in enumerate(zip(flat, pieces, strict=True)):
        if piece is not gradient and lengths[i] == 0 and bool(torch.count_nonzero(gradient)):
            lengths[i] = 1.0 if bool(gradient.sum().isfinite()) else math.nan
    values = iter([float(length != 0) if math.isfinite(length) else math.nan for length in lengths])
    table = [[0.0 if g is None or g.numel() == 0 else next(values) for g in row] for row in read]
    if several_processes():
        mean = torch.tensor(table, device=device)
        average_over_processes([mean])
        table = mean.tolist()
    return [[value != 0 for value in row] for row in table], not any(math.isnan(v) for row in table for v in row)
