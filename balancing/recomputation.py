"""Activation checkpointing: a forward that is run again leaves buffers as they are."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module
from torch.utils._python_dispatch import _disable_current_modes

from .errors import BalancingError

_KEY: Any = "mozoo: buffers of recomputed modules"
_HOOKS: tuple[Any, ...] = (
    _module._global_forward_pre_hooks,
    _module._global_forward_hooks,
    _module._global_forward_hooks_always_called,
)


class _BuffersUnmoved:
    """Context in which modules do not move their buffers in forwards that a backward runs.

    Activation checkpointing runs a part of the model again in each backward, which moves the statistics of its BatchNorm
    layers again. The power iterations of spectral normalization rest meanwhile, so that the part is computed with the
    vectors of the first time. Forwards of other threads, and those outside of a backward, move buffers as always.
    """

    def __init__(self) -> None:
        self._users, self._lock = 0, threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:  # put in place without handles, which would cost a small model a percent of its step
                _module._global_forward_pre_hooks[_KEY] = _enter
                # a recomputation ends in the middle of a module, by an exception, when it has what the backward needs
                _module._global_forward_hooks[_KEY] = _leave
                _module._global_forward_hooks_always_called[_KEY] = True

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for hooks in _HOOKS:
                    hooks.pop(_KEY, None)


@torch._disable_dynamo
def _enter(module: nn.Module, _: object) -> None:
    if torch._C._current_graph_task_id() == -1:
        return
    if module._compiled_call_impl is not None:  # which compiles these hooks into the recomputation alone
        raise BalancingError(
            f"a checkpoint holds a {type(module).__name__} that is compiled by its method compile(); use "
            "torch.compile(module), or checkpoint in the compiled module"
        )
    thread = threading.get_ident()
    if thread not in _RUNNING:
        _RUNNING[thread] = _Recomputation(module)


@torch._disable_dynamo
def _leave(module: nn.Module, *_: object) -> None:
    recomputation = _RUNNING.get(threading.get_ident())
    if recomputation is not None and recomputation.module is module:
        del _RUNNING[threading.get_ident()]
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


#: Thread -> the outermost module that it runs again.
_RUNNING: dict[int, _Recomputation] = {}
buffers_unmoved = _BuffersUnmoved()
