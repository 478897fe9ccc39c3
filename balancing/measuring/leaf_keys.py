"""How processes tell each other which leaves they mean."""

from __future__ import annotations

import ctypes
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..errors import BalancingError

_SAMPLE = 4096  # elements of a parameter that identify it
_REMEDY = "give parameters=list(model.parameters()), which names each by its place in the list"

#: Identifies a leaf in all processes.
Key = tuple[Any, ...]


class Leaf(NamedTuple):
    """A leaf as another process is told of it.

    Attributes:
        mask: Objectives that reach it; 0 for one that was only given.
        shape: Of the tensor.
        token: Its number, if an earlier step gave it one.
        place: Its place among the given parameters.
        digest: Of its values, which replicas have in common.
        constant: Whether its values are all equal, as those of a fresh bias: they identify nothing then.
    """

    mask: int
    shape: tuple[int, ...]
    token: int | None
    place: int | None = None
    digest: str = ""
    constant: bool = False


def digest(leaf: Tensor) -> tuple[str, bool]:
    """Digest of type, shape and values, or many of them, and whether the values are all equal."""
    about = f"{leaf.dtype} {tuple(leaf.shape)}"
    # a shard, which differs from process to process, or what it is gathered into, which is empty now
    if is_traceable_wrapper_subclass(leaf) or leaf.untyped_storage().nbytes() == 0:
        return about, True
    values = leaf.detach().reshape(-1)
    sample = values[:: max(1, len(values) // _SAMPLE)].cpu().contiguous()
    content = ctypes.string_at(sample.data_ptr(), sample.nbytes)
    constant = content == content[: sample.element_size()] * len(sample)
    return hashlib.sha256(about.encode() + content).hexdigest(), constant


def identify(leaves: Sequence[Leaf]) -> list[Key]:
    """Keys of the leaves.

    A key is the number of a leaf, its place among the given parameters, its values, or its place among those with the same
    values.
    """
    unplaced = Counter(leaf.digest for leaf in leaves if leaf.token is None and leaf.place is None)
    earlier: Counter[str] = Counter()
    keys: list[Key] = []
    for leaf in leaves:
        if leaf.token is not None:
            keys.append(("known", leaf.token))
        elif leaf.place is not None:
            keys.append(("given", leaf.place, leaf.shape))
        elif leaf.constant or unplaced[leaf.digest] > 1:
            keys.append(("alike", leaf.digest, earlier[leaf.digest]))
            earlier[leaf.digest] += 1
        else:
            keys.append(("value", leaf.digest))
    return keys


def merge(owner: str, records: Sequence[Mapping[str, Any]]) -> dict[Key, int]:
    """Keys of all leaves with the masks of all processes.

    They have the order of the first process that has them. The result and the errors are the same in all processes, as the
    ``records`` are.
    """
    for rank, record in enumerate(records):
        if record["error"] is not None:
            raise BalancingError(f"{owner}: process {rank} failed: {record['error']}")
    first = records[0]
    sharded = {record["sharded"] for record in records}
    if False in sharded or len(sharded) > 1:
        raise BalancingError(
            f"{owner}: an objective is absent from some of the processes, but parameters in shards need the "
            "backward of each objective in all of them; give None in all, or a loss of 0 * output.sum()"
        )
    for rank, record in enumerate(records):
        if record["call"] != first["call"]:
            raise BalancingError(
                f"{owner}: processes 0 and {rank} differ in last= or in the number of steps they have taken"
            )
        if record["order"] != first["order"] or _permuted(first["leaves"], record["leaves"]):
            raise BalancingError(
                f"{owner}: parameters are given in another order in process {rank} than in process 0; "
                "give lists, such as list(model.parameters())"
            )
    keys = [identify(record["leaves"]) for record in records]
    masks: dict[Key, int] = {}
    for rank, record in enumerate(records):
        for key, leaf in zip(keys[rank], record["leaves"], strict=True):
            masks[key] = masks.get(key, 0) | leaf.mask
    lost = {("known", token) for record in records for token in record["lost"]}
    held = [{*each} for each in keys]
    reached = [
        [key for key, leaf in zip(each, record["leaves"], strict=True) if leaf.mask]
        for each, record in zip(keys, records, strict=True)
    ]
    in_order = all(_same_order(reached[0], each) for each in reached)
    for holder, record in enumerate(records):
        for number, (key, leaf) in enumerate(zip(keys[holder], record["leaves"], strict=True)):
            for rank in range(len(records)):
                if key not in held[rank] and (key[0] != "known" or (masks[key] and key in lost)):
                    raise BalancingError(
                        f"{owner}: process {holder} reaches a parameter of shape {leaf.shape} (number {number} of its "
                        f"graph) that process {rank} does not reach and cannot identify; {_REMEDY}"
                    )
            if key[0] == "alike" and not in_order:
                raise BalancingError(
                    f"{owner}: processes reach parameters in another order, and several of shape {leaf.shape} "
                    f"(number {number} in process {holder}) have the same values, so they are not told apart; {_REMEDY}"
                )
    return masks


def _permuted(first: Sequence[Leaf], other: Sequence[Leaf]) -> bool:
    """Whether two processes were given the same parameters in another order."""
    one, two = (
        [leaf.digest for leaf in sorted((n for n in leaves if n.place is not None), key=lambda n: n.place or 0)]
        for leaves in (first, other)
    )
    return one != two and sorted(one) == sorted(two)


def _same_order(first: Sequence[Key], other: Sequence[Key]) -> bool:
    """Whether the leaves that two processes identify have the same order in their graphs."""
    common = {key for key in {*first} & {*other} if key[0] != "alike"}
    return [key for key in first if key in common] == [key for key in other if key in common]
