"""What holds during one call of ``backward``, and what its arguments forbid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .errors import BalancingError
from .measuring.call import Call
from .measuring.processes import several_processes
from .method import Method
from .own_gradients import OwnGradients

_NOTHING = nullcontext()


def surroundings(method: Method, own_gradients: OwnGradients, call: Call) -> AbstractContextManager[Any]:
    """Context of a call of ``method``.

    Raises BalancingError under ``torch.inference_mode``, and ValueError for a report of other objectives.
    """
    if torch.is_inference_mode_enabled():
        raise BalancingError(
            f"{method.name}: backward under torch.inference_mode() would leave .grad unusable outside it; call it outside"
        )
    report = call.weights_of
    other = report is not None and report.objectives != method.objectives
    method.reject(other, "the report given as weights_of= is of other objectives")
    rests = not call.advance or report is not None
    if call.scaler is None and not rests and not own_gradients.waiting and torch.is_grad_enabled():
        return _NOTHING
    stack = ExitStack()
    stack.enter_context(torch.enable_grad())  # as with torch, a graph may be differentiated under no_grad
    if rests:
        stack.enter_context(resting(method))
    else:
        stack.enter_context(own_gradients.scaled(list(method.parameters()), call.scaler))
    return stack


def known_weights(
    method: Method, call: Call, active: tuple[int, ...] | None, waiting: bool
) -> tuple[Tensor | None, tuple[int, ...] | None]:
    """The (K,) weights of ``weights_of``, if it was given, and the objectives to differentiate.

    Raises ValueError if it has none, for arguments and options that cannot hold, and if gradients are ``waiting``.
    """
    if call.create_graph:
        problem = "measures gradients, through which nothing is differentiated, so create_graph=True has no meaning"
        method.reject(method.measures, problem)
        method.reject(several_processes(), "create_graph=True has no meaning in several processes")
    report = call.weights_of
    if report is None:
        return None, active
    method.reject(method.options.max_norm > 0, "weights_of= measures no gradients, so max_norm= would not hold")
    method.reject(waiting, "weights_of= cannot end an accumulation whose weights are still to be found")
    there = [name for name, present in zip(report.objectives, report.present, strict=True) if present]
    method.reject(
        not {*method.objectives} <= {*there},
        "the report given as weights_of= is of a step without one of the objectives",
    )
    if report.weights is None:
        problem = (
            "of a skipped step, a micro-batch that was only collected, or a method without weights; use advance=False"
        )
        raise ValueError(f"{method.name}: the report given as weights_of= has no weights: it is {problem}")
    weights = report.weights[[report.objectives.index(name) for name in method.objectives]]
    return weights, None if active is None else tuple(weights.nonzero().flatten().tolist())


@contextmanager
def resting(method: Method) -> Iterator[None]:
    """Restore the state of ``method`` and of its parts afterwards, and their ``.grad``."""
    parts = [part for part in method.modules() if isinstance(part, Method)]
    attributes = [dict(vars(part)) for part in parts]
    buffers = [dict(part._buffers) for part in parts]
    states = [part._extra_state() for part in parts]
    tensors = [*method.parameters(), *method.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [parameter.grad for parameter in method.parameters()]
    for parameter in method.parameters():
        parameter.grad = None
    try:
        yield
    finally:
        for part, former, owned, state in zip(parts, attributes, buffers, states, strict=True):
            vars(part).update(former)
            part._buffers.update(owned)
            part._load_extra_state(state)
        _restore(tensors, values)
        for parameter, gradient in zip(method.parameters(), gradients, strict=True):
            parameter.grad = gradient


@torch.no_grad()
def _restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        if not torch.equal(tensor, value):
            tensor.copy_(value)
