"""What a training step needs: bytes by kind, the most at one time, and multiply-adds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

from mozoo.device import silence_profiler, synchronize
from mozoo.run import Run
from tasks import TensorData

T = TypeVar("T")


def held_bytes(run: Run) -> dict[str, int]:
    """Bytes between steps: parameters, gradients, optimizer state, running mean, data in memory."""
    parameters = [*run.model.parameters(), *run.model.buffers()]
    balancers = [optimizer.balancer for optimizer in run.phases if isinstance(optimizer.balancer, nn.Module)]
    parameters += [tensor for balancer in balancers for tensor in (*balancer.parameters(), *balancer.buffers())]
    optimizers = [each for phase in run.phases for each in (*phase.optimizers.values(), phase.balancer_optimizer)]
    mean = [] if run.ema is None else [*run.ema.module.parameters(), *run.ema.module.buffers()]
    return {
        "parameters": _bytes(parameters),
        "gradients": _bytes(p.grad for p in run.model.parameters() if p.grad is not None),
        "optimizer state": _bytes(tensor for each in optimizers if each is not None for tensor in _tensors(each.state)),
        "running mean": _bytes(mean),
        "data": _bytes(_tensors([(s.inputs, s.targets) for s in run.splits if isinstance(s, TensorData)])),
    }


def peak_bytes(device: torch.device, work: Callable[[], T]) -> tuple[T, int | None]:
    """The result of ``work``, and the most bytes that it had at one time beyond those before it.

    They are those of torch's allocators: without libraries, the context of CUDA, and scratch space inside a kernel on the CPU.
    ``None`` on devices that do not tell.
    """
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return work(), None
    silence_profiler()
    with profile(profile_memory=True) as profiler:
        result = work()
    events: Any = profiler.kineto_results
    changes = sorted((event.start_ns(), event.nbytes()) for event in events.events() if event.name() == "[memory]")
    return result, max(itertools.accumulate((change for _, change in changes), initial=0))


def multiply_adds(forward: Callable[[], object]) -> int:
    """Of a forward pass, in matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode  # which imports triton, for trainings without need

    with FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops()) // 2


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of these tensors, each memory counted once."""
    seen = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(seen.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
