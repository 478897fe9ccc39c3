"""Gradients of a balancer's own parameters under a GradScaler: scaled, as all others are."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook


@dataclass(frozen=True)
class _Scaled:
    """A gradient, a copy of it as it was left, and the factor in it."""

    gradient: Tensor
    copy: Tensor
    factor: Tensor

    def multiply(self, ratio: Tensor) -> None:
        """Multiply the gradient by ``ratio`` unless it was changed, without waiting for its device."""
        same = (self.gradient == self.copy).all()
        self.gradient.copy_(torch.where(same, self.gradient * ratio, self.gradient))


class OwnGradients:
    """Multiplies what a call adds to ``.grad`` of the balancer's own parameters by the scale.

    So one optimizer may hold them and the model's parameters. An optimizer that is stepped without the scaler gets them
    unscaled: a hook on all optimizers, which is there while such gradients wait, divides those that nobody has unscaled.

    Attributes:
        waiting: Own parameters with gradients that are scaled for all that is known.
    """

    def __init__(self) -> None:
        self.waiting: dict[Tensor, _Scaled] = {}
        self._scaler: weakref.ref[torch.amp.GradScaler] | None = None

    @contextmanager
    def scaled(self, own: Sequence[Tensor], scaler: torch.amp.GradScaler | None) -> Iterator[None]:
        """While a call of ``backward`` adds gradients; ``scaler`` is remembered for ``observe``."""
        enabled = scaler is not None and scaler.is_enabled() and len(own) > 0
        self._scaler = weakref.ref(scaler) if enabled and scaler is not None else None
        with self.scaled_again(own):
            yield

    @contextmanager
    def scaled_again(self, own: Sequence[Tensor]) -> Iterator[None]:
        """The same with the scaler of the last ``backward``, if it had one."""
        scaler = None if self._scaler is None else self._scaler()
        waiting = self.release()
        if scaler is None:
            yield
            return
        earlier = [parameter.grad for parameter in own]
        for parameter in own:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, former in zip(own, earlier, strict=True):
                factor = _scale_of(scaler, parameter.device).to(parameter.dtype)
                record = waiting.get(parameter)
                if former is not None and record is not None and record.gradient is former:
                    record.multiply(factor / record.factor)
                added = parameter.grad
                if added is not None:
                    former = added * factor if former is None else former.add_(added * factor)
                parameter.grad = former
                if former is not None and (added is not None or record is not None):
                    self.waiting[parameter] = _Scaled(former, former.clone(), factor)
            if self.waiting:
                _HOOK.watch(self)

    def release(self) -> dict[Tensor, _Scaled]:
        """``waiting``, which is then forgotten."""
        waiting, self.waiting = self.waiting, {}
        _HOOK.release(self)
        return waiting

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients that ``optimizer`` is about to step with, if they are scaled."""
        if self.waiting and getattr(optimizer, "grad_scale", None) is None:  # else its kernel divides
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    record = self.waiting.pop(parameter, None)
                    if record is not None and parameter.grad is record.gradient:
                        record.multiply(1 / record.factor)

    def __getstate__(self) -> dict[str, Any]:
        return vars(OwnGradients())  # a copy has parameters of its own


class _Hook:
    """One hook on the steps of all optimizers, while gradients of some balancer wait."""

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[OwnGradients] = weakref.WeakSet()
        self._handle: Any = None

    def watch(self, gradients: OwnGradients) -> None:
        self._watched.add(gradients)
        if self._handle is None:
            self._handle = register_optimizer_step_pre_hook(self._unscale)

    def release(self, gradients: OwnGradients) -> None:
        self._watched.discard(gradients)
        if not self._watched and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _unscale(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for gradients in [*self._watched]:
            gradients.unscale(optimizer)


_HOOK = _Hook()


def _scale_of(scaler: torch.amp.GradScaler, device: torch.device) -> Tensor:
    if device.type == "cpu":  # a copy to the host that does not wait would be read too early
        return torch.tensor(scaler.get_scale())
    return scaler.scale(torch.ones((), device=device))
