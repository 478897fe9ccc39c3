"""Activation checkpointing: a forward that is run again leaves buffers as they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import _disable_current_modes

from .errors import BalancingError


@contextmanager
def buffers_unmoved() -> Iterator[None]:
    """Undo what modules do to their buffers in forwards that a backward runs in here.

    Activation checkpointing runs a part of the model again in each backward, which moves the statistics of its BatchNorm
    layers again. The power iterations of spectral normalization rest meanwhile, so that the part is computed with the
    vectors of the first time. Forwards of other threads, and those outside of a backward, move buffers as always.
    """
    running: dict[int, _Recomputation] = {}  # thread -> the outermost module that it runs again

    handles = (
        register_module_forward_pre_hook(lambda module, _: _enter(running, module)),
        # a recomputation ends in the middle of a module, by an exception, when it has what the backward needs
        register_module_forward_hook(lambda module, *_: _leave(running, module), always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch._disable_dynamo
def _enter(running: dict[int, _Recomputation], module: nn.Module) -> None:
    if torch._C._current_graph_task_id() == -1:
        return
    if module._compiled_call_impl is not None:  # which compiles these hooks into the recomputation alone
        raise BalancingError(
            f"a checkpoint holds a {type(module).__name__} that is compiled by its method compile(); use "
            "torch.compile(module), or checkpoint in the compiled module"
        )
    thread = threading.get_ident()
    if thread not in running:
        running[thread] = _Recomputation(module)


@torch._disable_dynamo
def _leave(running: dict[int, _Recomputation], module: nn.Module) -> None:
    recomputation = running.get(threading.get_ident())
    if recomputation is not None and recomputation.module is module:
        del running[threading.get_ident()]
        recomputation.undo()


class _Recomputation:
    """The buffers of a module before its forward, and of all modules in it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._rested: list[tuple[Any, int]] = []
        for part in module.modules():
            owners: list[Any] = [part, *part._forward_pre_hooks.values()]  # spectral normalization: a module, or a hook
            for owner in owners:
                if iterations := getattr(owner, "n_power_iterations", 0):
                    self._rested.append((owner, iterations))
                    owner.n_power_iterations = 0
            with torch.no_grad(), _disable_current_modes():
                self._buffers += [(part, key, b, b.clone()) for key, b in part._buffers.items() if b is not None]

    def undo(self) -> None:
        for owner, iterations in self._rested:
            owner.n_power_iterations = iterations
        with torch.no_grad(), _disable_current_modes():
            for part, key, buffer, values in self._buffers:
                part._buffers[key] = buffer
                buffer.data.copy_(values)  # as data, which is no change of what autograd has saved


def raise_for_reentrant(owner: str, losses: Sequence[Tensor]) -> None:
    """Raise BalancingError if a part of the model is checkpointed with ``use_reentrant=True``.

    The parameters of such a part are not in the autograd graph.
    """
    stack: list[Any] = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            if node.name() == "CheckpointFunctionBackward":
                raise BalancingError(
                    f"{owner}: a part of the model is checkpointed with use_reentrant=True, which hides its parameters; "
                    "use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
                )
            stack.extend(child for child, _ in node.next_functions if child is not None)
