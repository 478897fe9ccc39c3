"""Gradients of a weighted sum, and gradients written to ``.grad``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .processes import average_over_processes, averaged_gradients, several_processes


def accumulate_grad(leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Average ``gradients`` over processes and add them to ``.grad`` of the ``leaves``."""
    average_over_processes(gradients)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        # rows of several precisions in one matrix have the widest
        add_grad(leaf, gradient if gradient.dtype is leaf.dtype else gradient.to(leaf.dtype))


def add_grad(leaf: Tensor, gradient: Tensor) -> None:
    """Add to ``.grad`` of a leaf and call its post-accumulate hooks, as autograd does.

    A new ``.grad`` lies in memory as the leaf does: fused optimizers on the CPU take that for granted. A frozen leaf is left
    alone.
    """
    if not leaf.requires_grad:
        return
    if leaf.grad is None:
        leaf.grad = gradient if _lies_alike(gradient, leaf) else torch.empty_like(leaf).copy_(gradient)
    elif leaf.grad.is_sparse and not gradient.is_sparse:
        leaf.grad = gradient + leaf.grad
    else:
        leaf.grad.add_(gradient)
    if hooks := leaf._post_accumulate_grad_hooks:
        for hook in list(hooks.values()):
            hook(leaf)


def _lies_alike(gradient: Tensor, leaf: Tensor) -> bool:
    if gradient.layout is not torch.strided or (gradient.is_contiguous() and leaf.is_contiguous()):
        return True
    strides = zip(leaf.shape, gradient.stride(), leaf.stride(), strict=True)
    return all(size == 1 or own == other for size, own, other in strides)


def weighted_sum(parts: Sequence[Mapping[Tensor, Tensor]], weights: Sequence[float]) -> dict[Tensor, Tensor]:
    """Leaf -> the sum of its gradients in K ``parts``, each times the weight of its part."""
    leaves = [leaf for part in parts for leaf in part]
    if leaves and len({*leaves}) == len(leaves):  # one operation, as each of them shows in a small model's step
        factors = [weight for part, weight in zip(parts, weights, strict=True) for _ in part]
        gradients = [gradient for part in parts for gradient in part.values()]
        return dict(zip(leaves, torch._foreach_mul(gradients, factors), strict=True))
    total: dict[Tensor, Tensor] = {}
    for weight, part in zip(weights, parts, strict=True):
        for leaf, gradient in part.items():
            total[leaf] = total[leaf].add_(gradient, alpha=weight) if leaf in total else gradient * weight
    return total


def write_grads(leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to ``.grad`` of the leaves that they reach."""
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            # a copy, as autograd may hand out views and aliases
            add_grad(leaf, gradient.clone() if leaf.grad is None else gradient)


@contextmanager
def replaced_gradients(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Backwards in which tensors get the gradients given, whatever other hooks make of theirs."""
    hooks = [tensor.register_hook(lambda _, new=new: new) for tensor, new in pairs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def gradients_at(
    leaves: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    keep_graph: bool = False,
) -> Sequence[Tensor | None]:
    """Gradients of ``outputs`` at ``leaves``, averaged over processes; ``None``: not reached."""
    if not leaves:
        return []
    if several_processes():
        return averaged_gradients(outputs, leaves, weights, keep_graph)
    return torch.autograd.grad(outputs, leaves, weights, retain_graph=keep_graph, allow_unused=True)
