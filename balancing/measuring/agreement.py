"""Agreement of the processes in each step: the leaves that their losses reach, in one order."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import BalancingError
from ..options import Options
from ..spans import span
from .leaf_keys import Leaf, digest, identify, merge
from .processes import gather, several_processes
from .step_losses import Make, StepLosses

_BITS = 20  # of a piece of a hash: sums of squares over 8192 processes are exact in float64
_PIECE = (1 << _BITS) - 1


class Local(NamedTuple):
    """What one process knows before an agreement.

    Attributes:
        device: On which processes can communicate.
        masks: Leaf -> mask of the objectives that reach it.
        given: Leaves that were given in an order which all processes share.
        ordered: Those of them at which rows are taken in the given order.
        call: What else must be the same: ``last=``, and whether weights come before gradients.
        sharded: Whether every loss is here; ``None`` without parameters in shards.
    """

    device: torch.device
    masks: dict[Tensor, int]
    given: Sequence[Tensor]
    ordered: Sequence[Tensor]
    call: tuple[bool, bool]
    sharded: bool | None = None


class Agreement:
    """Finds the leaves that any process reaches.

    Processes may reach different leaves, or the same in another order: experts, layers that are dropped, objectives
    without a label. Each leaf has a number that is the same in all of them. It follows from the place in the given
    parameters, else from the values, which replicas have in common; it is remembered by weak references, and neither
    copied nor saved. In most steps a hash tells that all reached the same.

    Args:
        owner: Name of the method, for messages.
        objectives: Names of the losses.
        options: Of the method, which must be the same everywhere.
    """

    def __init__(self, owner: str, objectives: Sequence[str], options: Options) -> None:
        self._about = owner, tuple(objectives), options
        self._owner = owner
        self._met = False
        self._next = 0
        self._known: dict[int, weakref.ref[Tensor]] = {}  # token -> leaf
        self._tokens: dict[int, int] = {}  # id of a leaf -> token
        self._lost: list[int] = []  # tokens of leaves that are no more

    def __deepcopy__(self, memo: Any) -> Agreement:
        return Agreement(*self._about)

    def __reduce__(self) -> tuple[Any, ...]:
        return Agreement, self._about

    def losses(self, make: Make) -> StepLosses:
        """The losses of this process, with the means over all; see :meth:`StepLosses.agreed`.

        Raises BalancingError, in all processes, for another method, other objectives or options in one of them.
        """
        if not several_processes():
            return StepLosses.of(make())
        if not self._met:
            require_one_method(*self._about)
            self._met = True
        return StepLosses.agreed(self._owner, make, len(self._about[1]))

    def meet(self, local: Local) -> dict[Tensor, int]:
        """The leaves that any process reaches, with masks, in the same order everywhere.

        Raises:
            BalancingError: In all processes: an error in one of them, or a leaf that one reaches and another cannot
                identify.
        """
        tokens = [self._token(leaf) for leaf in local.masks]
        order = [self._token(leaf) for leaf in local.ordered]
        unknown = bool(self._lost) or None in tokens or None in order or local.sharded is False
        call = hash((*local.call, local.sharded is not None, *order))
        known, alike, called_alike = self._exchange(hash((*tokens, *local.masks.values())), call, unknown, local.device)
        if known and called_alike:
            return local.masks if alike else self._union(local.masks, tokens, local.device)
        return self._identify(local)

    def fail(self, error: Exception, device: torch.device) -> None:
        """Tell the other processes, which wait in :meth:`meet`, of an error before it."""
        if several_processes():
            self._exchange(0, 0, True, device)
            gather({"error": str(error)})

    # ---- the message of every step -------------------------------------------------------------------------------

    def _exchange(self, leaves: int, call: int, unknown: bool, device: torch.device) -> tuple[bool, bool, bool]:
        """Whether all leaves are known, all masks equal, and all calls equal."""
        pieces = [leaves & _PIECE, leaves >> _BITS & _PIECE, call & _PIECE]
        told = [unknown, *pieces, *(piece * piece for piece in pieces)]
        message = torch.tensor(told, dtype=torch.float64, device=device)
        with span("all-reduce"):
            dist.all_reduce(message)
        unknowns, *sums = message.tolist()
        # numbers are equal if and only if the square of their sum is as large as it can be
        count = dist.get_world_size()
        first, second, third = (count * int(sums[i + 3]) == int(sums[i]) ** 2 for i in range(3))
        return unknowns == 0, first and second, third

    def _union(self, masks: dict[Tensor, int], tokens: list[int | None], device: torch.device) -> dict[Tensor, int]:
        """Known leaves that any process reaches, by number."""
        mine = dict(zip(tokens, masks.values(), strict=True))
        bits = range(len(self._about[1]) + 1)
        table = [[mine.get(token, 0) >> bit & 1 for bit in bits] for token in self._known]
        message = torch.tensor(table, dtype=torch.uint8, device=device)
        with span("all-reduce"):
            dist.all_reduce(message, dist.ReduceOp.MAX)
        union: dict[Tensor, int] = {}
        for reference, row in zip(self._known.values(), message.tolist(), strict=True):
            leaf, mask = reference(), sum(bit << k for k, bit in enumerate(row))
            if mask and leaf is not None:
                union[leaf] = mask
        return union

    # ---- the messages of the first step, and of steps with other leaves ------------------------------------------

    def _identify(self, local: Local) -> dict[Tensor, int]:
        """The leaves that any process reaches, in the same order; new ones get numbers."""
        places = {leaf: place for place, leaf in enumerate(dict.fromkeys(local.given))}
        listed = [*local.masks, *(leaf for leaf in places if leaf not in local.masks)]
        mine = [self._describe(leaf, local.masks.get(leaf, 0), places.get(leaf)) for leaf in listed]
        leaf_of = dict(zip(identify(mine), listed, strict=True))
        key_of = {leaf: key for key, leaf in leaf_of.items()}
        order = [key_of[leaf] for leaf in local.ordered]
        record: dict[str, Any] = {
            "error": None,
            "call": local.call,
            "sharded": local.sharded,
            "order": order,
            "leaves": mine,
            "lost": [*self._lost],
        }
        records = gather(record)
        union = merge(self._owner, records)
        for token in {token for record in records for token in record["lost"]}:
            self._known.pop(token, None)
        del self._lost[: len(record["lost"])]
        found: dict[Tensor, int] = {}
        for key, mask in union.items():
            leaf = leaf_of[key] if key in leaf_of else self._known[key[1]]()
            if key[0] != "known":
                self._remember(leaf_of[key])
            if mask and leaf is not None:
                found[leaf] = mask
        return found

    def _describe(self, leaf: Tensor, mask: int, place: int | None) -> Leaf:
        token, shape = self._token(leaf), tuple(leaf.shape)
        return Leaf(mask, shape, token) if token is not None else Leaf(mask, shape, None, place, *digest(leaf))

    def _token(self, leaf: Tensor) -> int | None:
        """The number of a leaf; ``None`` for a new one."""
        token = self._tokens.get(id(leaf))  # may be that of a leaf which is no more
        if token is None or token not in self._known or self._known[token]() is not leaf:
            return None
        return token

    def _remember(self, leaf: Tensor) -> None:
        token, lost = self._next, self._lost
        self._known[token] = weakref.ref(leaf, lambda _: lost.append(token))
        self._tokens[id(leaf)] = token
        self._next += 1


def require_one_method(owner: str, objectives: Sequence[str], options: Options) -> None:
    """Raise BalancingError, in all processes, if method, objectives or options differ."""
    chosen = {**vars(options), "preference": dict(options.preference or {})}
    everyone = gather({"method": owner, "objectives": tuple(objectives), **chosen})
    for rank, other in enumerate(everyone):
        for key, value in everyone[0].items():
            if other.get(key) != value:
                order = ", in one order" if key == "objectives" else ""
                raise BalancingError(
                    f"{owner}: {key} must be the same in all processes{order}, "
                    f"but process 0 has {value!r} and process {rank} has {other.get(key)!r}"
                )
