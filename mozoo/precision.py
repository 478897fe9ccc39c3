"""Mixed precision: autocast, and loss scaling where fp16 needs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16; elsewhere it would be slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


class Precision:
    """fp32, or autocast to bf16 or fp16; fp16 scales losses so that small gradients survive.

    The name ``auto`` stands for bf16 where the hardware has it, else fp32.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = "bf16" if _has_bf16(device) else "fp32"
        self.name = name
        self.dtype = _TYPES.get(name)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Context for the forward pass and the losses."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def step(
        self,
        optimizers: Iterable[torch.optim.Optimizer],
        parameters: Sequence[Tensor],
        max_grad_norm: float | None,
        on_nonfinite: str = "stop",
    ) -> bool:
        """Unscale, clip the norm of all gradients together, and step; False if it was skipped.

        An fp16 overflow skips the step. The norm is computed if it is clipped, or if something can be done about one that is
        not finite: with ``skip`` there is no step then. Raises FloatingPointError otherwise, if no scaler handles it.
        """
        if all(parameter.grad is None for parameter in parameters):
            return True  # the balancer skipped this step, as its report shows
        optimizers, scaler = list(optimizers), self.scaler
        if scaler is not None:
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
        if max_grad_norm is not None or (on_nonfinite != "stop" and scaler is None):
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm or float("inf"))
            if scaler is None and not bool(norm.isfinite()):
                if on_nonfinite == "skip":
                    return False
                raise FloatingPointError("the norm of the gradients is not finite")
        for optimizer in optimizers:
            optimizer.step() if scaler is None else scaler.step(optimizer)
        if scaler is None:
            return True
        scale = scaler.get_scale()
        scaler.update()
        return scaler.get_scale() >= scale
