"""torch.compile: backwards of compiled functions that run more than once."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch._functorch.config
import torch.compiler
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from .errors import BalancingError
from .measuring.leaves import nodes_below

_NOTHING = nullcontext()
_TAG = "several backwards"
#: Compiled functions whose backward has been seen to leave what it reads as it was.
_repeatable: weakref.WeakSet[type] = weakref.WeakSet()
#: The newest class of a function when the last look at all classes showed none that is still to be watched.
_all_watched: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()


def allow_several_backwards() -> None:
    """Let what ``torch.compile`` makes from now on be differentiated several times.

    Gradient methods do so. Call it once, before ``torch.compile``. A compiled backward may write over the activations that
    it reads, which saves memory if no other backward follows. This switches it off, and tags torch's caches on disk: they do
    not distinguish such backwards from others, and would supply one that an earlier process compiled.
    """
    torch._functorch.config.donated_buffer = False
    tags = torch.compiler.config
    if not hasattr(tags, "cache_key_tag"):  # an early version
        inductor: Any = importlib.import_module("torch._inductor.config")
        inductor.fx_graph_cache = False
    elif _TAG not in tags.cache_key_tag:
        tags.cache_key_tag = f"{tags.cache_key_tag} {_TAG}".strip()


def checked_backwards(owner: str, losses: Mapping[Any, Tensor | None]) -> AbstractContextManager[None]:
    """Raise BalancingError if a compiled backward destroys what the next one needs.

    Each compiled function is watched the first time that its backward runs with others to follow; after that, and in a
    process without compiled functions, this costs nothing.
    """
    if not isinstance(losses, Mapping) or not losses or not (watched := _unwatched_functions()):
        return _NOTHING
    return _watched(owner, losses, watched)


@contextmanager
def _watched(owner: str, losses: Mapping[Any, Tensor | None], watched: set[type]) -> Iterator[None]:
    nodes = nodes_below(loss for loss in losses.values() if isinstance(loss, Tensor))
    handles = [handle for node in nodes if type(node) in watched for handle in _watch(node, owner)]
    try:
        yield
    finally:
        for handle in handles:  # which hold their nodes
            handle.remove()


def _unwatched_functions() -> set[type]:
    kinds = BackwardCFunction.__subclasses__()
    if kinds and kinds[-1] is _all_watched.get("newest"):  # no function of any kind has been made since
        return set()
    compiled = [kind for kind in kinds if kind.__name__ == "CompiledFunctionBackward"]
    unwatched = {kind for kind in compiled if kind not in _repeatable}
    if kinds and not unwatched:
        _all_watched["newest"] = kinds[-1]
    return unwatched


def _watch(node: Any, owner: str) -> list[Any]:
    """Hooks that compare what the node has saved before and after its backward."""
    function = node._forward_cls
    before: list[list[int]] = []

    def enter(*_: Any) -> None:
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            return
        ready = getattr(function, "compiled_bw", None) is not None
        if ready and getattr(function.metadata, "bw_donated_idxs", None):
            raise _refusal(owner)  # before torch does, which knows only of the flag
        before.append(_fingerprint(node))

    def leave(*_: Any) -> None:
        if before:
            if before.pop() != _fingerprint(node):
                raise _refusal(owner)
            _repeatable.add(type(node))

    return [node.register_prehook(enter), node.register_hook(leave)]


def _fingerprint(node: Any) -> list[int]:
    """Sums of the bytes of the tensors that the node has saved.

    Those with hooks are left out: a checkpoint computes them again for each backward, and not twice for one.
    """
    raw = [saved for saved in node._raw_saved_tensors if getattr(saved, "unpack_hook", saved) is None]
    saved = [*(each.data for each in raw), *(getattr(node, "_tensors_no_vc_check", None) or ())]
    plain = [t for t in saved if isinstance(t, Tensor) and t.layout is torch.strided and not t.is_conj()]
    return [int(t.detach().contiguous().reshape(-1).view(torch.uint8).sum()) for t in plain]


def _refusal(owner: str) -> BalancingError:
    return BalancingError(
        f"{owner}: the backward of a compiled function writes over what that of the next objective reads, as torch.compile, "
        "or an earlier process that filled its cache, expected no other; call balancing.allow_several_backwards() before "
        "torch.compile"
    )
