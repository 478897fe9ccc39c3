"""The table of set-ups: what a model or a loop may look like, and which methods it concerns."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from balancing import BalanceReport, BalancingError
from tests.balancing.problems import GRADIENT
from tests.balancing.set_ups.reference import Reference, build, real, rows_of

#: Errors relative to the length of the weighted rows.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-6}
#: A method of every kind.
LOSS_KINDS = ("sum", "fixed", "uncertainty", "dwa", "famo")
GRAMIAN_KINDS = ("pcgrad", "mgda", "nash_mtl", "upgrad", "gradnorm", "grad_normalize")
MEMORY = ("moco", "db_mtl", "excess_mtl", "conflict_free_momentum")
COMPOSED = ("uncertainty>pcgrad", "realtime>moco")
GRADIENT_KINDS = (*GRAMIAN_KINDS, "graddrop", *MEMORY, *COMPOSED)
KINDS = (*LOSS_KINDS, *GRADIENT_KINDS)
FEW = ("sum", "uncertainty", "pcgrad", "mgda", "graddrop", "moco")
#: Set-up -> a method's name -> a check that the cell is right, or refused by name.
CHECKS: dict[str, Callable[[str], None]] = {}
METHODS: dict[str, Sequence[str]] = {}
SLOW: set[str] = set()


def cells():
    """Set-up and method of every cell, as parameters of a test."""
    for name, methods in METHODS.items():
        marks = [pytest.mark.slow] if name in SLOW else []
        for method in methods:
            yield pytest.param(name, method, id=f"{name}-{method}", marks=marks)


def add(name, check, methods, slow=False):
    """Enter a set-up, and a check (method) of each of its cells, into the table."""
    assert name not in CHECKS, name
    CHECKS[name], METHODS[name] = check, methods
    if slow:
        SLOW.add(name)


def cell(*methods, slow=False):
    """Decorator: a function (method) checks the set-up of its own name for these methods."""

    def register(function):
        add(function.__name__, function, methods, slow)
        return function

    return register


def measures(method):
    """Whether the method, or the last of a composition, measures gradients."""
    return method.split(">")[-1] in GRADIENT


@dataclass
class SetUp:
    """A model and a loop.

    Attributes:
        model: In the precision of the cell.
        losses: (model, batch) -> losses, in the way of the set-up.
        plain: The same written plainly: separate outputs, no wrapper.
        objectives: Their names.
        arguments: (model, batch) -> arguments of ``backward``.
        merged: Whether plain backward, too, gives zeros to heads that have no part in the step.
        shared: Names of the contested parameters, where the set-up decides about them.
        leaves: (model) -> parameters by name, if they are not those of the module.
        after: (model, reference model, batch, report) -> checks after a step.
        reference: (method, objectives) -> what knows the right gradients.
        precisions: In which the cell is run.
    """

    model: nn.Module
    losses: Callable[[nn.Module, torch.Tensor], Mapping[str, torch.Tensor]]
    plain: Callable[[nn.Module, torch.Tensor], Mapping[str, torch.Tensor]] | None = None
    objectives: Sequence[str] = ("a", "b", "c")
    arguments: Callable[[nn.Module, torch.Tensor], dict[str, Any]] = lambda model, x: {}
    merged: bool = False
    shared: Sequence[str] | None = None
    leaves: Callable[[nn.Module], dict[str, torch.Tensor]] = lambda model: dict(model.named_parameters())
    after: Callable[[nn.Module, nn.Module, torch.Tensor, BalanceReport], None] = lambda *step: None
    reference: Callable[[str, Sequence[str]], Reference] = Reference
    batch: Callable[[int], torch.Tensor] = lambda step: batch(step)
    steps: int = 3
    precisions: Sequence[torch.dtype] = field(default=(torch.float64, torch.float32))
    tolerance: float | None = None


def set_up(*methods, refused=None, slow=False):
    """Decorator: a function () -> SetUp is a set-up in which each of these methods is right.

    Those for which ``refused[0]`` holds are refused instead, with a message that contains ``refused[1]``.
    """

    def register(function):
        def check(method):
            if refused is not None and refused[0](method):
                check_refused(function, method, refused[1])
            else:
                check_right(function, method)

        add(function.__name__, check, methods, slow)
        return function

    return register


def batch(step, size=8):
    """(size, 5) inputs of a step, float64."""
    return torch.randn(size, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + step))


def own_optimizer(balancer):
    """For what the method itself learns; ``None`` if that is nothing."""
    own = list(balancer.parameters())
    return torch.optim.SGD(own, lr=0.05) if own else None


def check_right(function, method):
    """Every step leaves what the reference leaves, in every precision of the set-up."""
    for dtype in (torch.float64, torch.float32):
        torch.default_generator.manual_seed(0)
        s = function()
        if dtype in s.precisions:
            run(s, method, dtype)


def run(s, method, dtype):
    """Train a few steps in the way of the set-up; compare each with the reference."""
    model = s.model.to(dtype)
    reference_model = copy.deepcopy(model).double()
    balancer, reference = build(method, s.objectives), s.reference(method, s.objectives)
    optimizers = own_optimizer(balancer), own_optimizer(reference.twin)
    plain = s.plain or s.losses
    for step in range(s.steps):
        x = s.batch(step).to(dtype)
        for module in (model, reference_model, balancer, reference.twin):
            module.zero_grad()
        torch.default_generator.manual_seed(step)
        losses = s.losses(model, x)
        report = balancer.backward(losses, **s.arguments(model, x))
        torch.default_generator.manual_seed(step)
        values = plain(reference_model, x.detach().double().clone())
        leaves = {key: p for key, p in s.leaves(reference_model).items() if p.requires_grad}
        shapes = {key: real(p.detach()) for key, p in leaves.items()}
        wanted = reference.step(values, rows_of(values, leaves), shapes, s.shared)
        tolerance = s.tolerance or TOLERANCE[dtype]
        compare(s, model, wanted, tolerance)
        compare_report(report, wanted, values, s.objectives, tolerance)
        compare_own(balancer, reference.own())
        s.after(model, reference_model, x, report)
        if balancer.observes:
            fallen = {key: 0.9 * value.detach() for key, value in values.items()}
            balancer.observe({key: fallen.get(key) for key in s.objectives})
            reference.observe(fallen)
        move(s, model, reference_model, 0.1 / max(wanted.size, 1e-9))
        for optimizer in optimizers:
            if optimizer is not None:
                optimizer.step()


@torch.no_grad()
def move(s, model, reference_model, lr):
    """A step of plain descent of the model; the reference takes its values, and keeps its own buffers."""
    for p, q in zip(s.leaves(model).values(), s.leaves(reference_model).values(), strict=True):
        if p.grad is not None:
            p.sub_(p.grad.to_dense(), alpha=lr)
        q.copy_(p)


def compare(s, model, wanted, tolerance):
    """``.grad`` of every parameter, against the reference."""
    actual = {key: real(p.grad.to_dense()) for key, p in s.leaves(model).items() if p.grad is not None}
    for key, gradient in actual.items():
        if key not in wanted.gradients:
            assert s.merged, f"{key} should have no gradient"
            assert not gradient.any(), f"{key} should be zero"
            continue
        check_gradient(key, gradient, wanted, tolerance)
    missing = [key for key, gradient in wanted.gradients.items() if key not in actual and bool(gradient.any())]
    assert not missing, f"no gradient: {missing}"


def check_gradient(key, gradient, wanted, tolerance):
    """One ``.grad``, against the reference."""
    want = wanted.gradients[key]
    gradient = gradient.to(want.dtype)
    if key in wanted.other:
        other = wanted.other[key]
        want = torch.where((gradient - want).abs() <= (gradient - other).abs(), want, other)
    error = float((gradient - want).norm())
    limit = tolerance * wanted.size
    assert error <= limit, f"{key}: off by {error:.3g}, which is {error / wanted.size:.2g} of the gradient"


def compare_report(report, wanted, values, objectives, tolerance):
    """Losses, weights and Gramian of a report, against the reference."""
    for name, actual in zip(objectives, report.losses, strict=True):
        if name in values:
            close(f"loss {name}", actual, values[name].detach(), 1e-6 if actual.dtype == torch.float32 else tolerance)
    if wanted.weights is not None:
        assert report.weights is not None
        close("weights", report.weights, wanted.weights, 10 * tolerance)
    if report.gramian is not None and wanted.gramian is not None:
        close("Gramian", report.gramian, wanted.gramian, 10 * tolerance)


def close(what, actual, wanted, tolerance):
    """Equal, relative to the largest entry."""
    actual, wanted = actual.detach().double().cpu(), wanted.double()
    size = float(wanted.abs().max())
    error = float((actual - wanted).abs().max())
    assert error <= tolerance * size, f"{what}: {actual.tolist()}, not {wanted.tolist()}"


def compare_own(balancer, gradients):
    """Gradients of what the method itself learns, which are float32 in float64's place too."""
    for mine, wanted in zip(balancer.parameters(), gradients, strict=True):
        assert (mine.grad is None) == (wanted is None)
        if wanted is not None:
            error, size = float((mine.grad - wanted).norm()), float(wanted.norm() + mine.detach().norm())
            assert error <= 1e-5 * size, f"own parameters: {mine.grad.tolist()}, not {wanted.tolist()}"


def check_refused(function, method, message):
    """The step is an error of the library's own that names the thing and the fix, and leaves no ``.grad``."""
    torch.default_generator.manual_seed(0)
    s = function()
    balancer = build(method, s.objectives)
    x = s.batch(0)
    refuses(lambda: balancer.backward(s.losses(s.model, x), **s.arguments(s.model, x)), message)
    assert all(p.grad is None for p in s.leaves(s.model).values()), "a refused step left gradients"


def refuses(call, *messages):
    """``call`` raises BalancingError or ValueError, whose message contains each of ``messages`` (patterns)."""
    with pytest.raises((BalancingError, ValueError)) as caught:
        call()
    for message in messages:
        assert re.search(message, str(caught.value)), f"{message!r} is not in {str(caught.value)!r}"


def right_or_refused(check, *messages):
    """``check`` passes, or is refused by BalancingError or ValueError with a message that has each of these patterns."""
    try:
        check()
    except (BalancingError, ValueError) as error:
        problem = str(error)
    else:
        return
    for message in messages:
        assert re.search(message, problem), f"{message!r} is not in {problem!r}"
