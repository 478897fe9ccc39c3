"""Gradients of all losses at the features by one traversal of the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..spans import span
from .gradients import Gradients
from .layout import FlatRows
from .looped import Out
from .small import whole_vectors


def collect_together(
    losses: Sequence[Tensor],
    stacked: Tensor | None,
    features: Sequence[Tensor],
    others: Mapping[Tensor, int],
    entering: Mapping[Any, int],
    out: Out | None,
) -> Gradients | None:
    """What :func:`collect` finds with a traversal per loss, to the bit, by one of all.

    No node of the heads may be of two losses. The nodes that lead to the features then belong to one loss each, as do the
    leaves. Hooks on these nodes keep what each of them adds to the gradient of the features. The graph is kept.

    Args:
        losses: K scalars.
        stacked: (K,) the same as one tensor, if there is one with a graph.
        features: The inputs.
        others: Leaves of the heads, each with a mask of the losses that reach it.
        entering: Node that leads to the features -> mask of the losses that reach it.
        out: As for :func:`collect`.

    Returns:
        ``None`` if a node or leaf is of two losses, or hooks of others on the features would see the sum of the losses.
    """
    masks = [*entering.values(), *others.values()]
    if not entering or any(mask.bit_count() > 1 for mask in masks) or not all(map(_is_plain, features)):
        return None
    place_of = {(tensor.grad_fn, tensor.output_nr): place for place, tensor in enumerate(features)}
    if not all(loss.requires_grad and (loss.grad_fn, loss.output_nr) not in place_of for loss in losses):
        return None
    noted: list[tuple[Any, Sequence[Tensor | None]]] = []
    handles = [node.register_hook(partial(_note, noted, node)) for node in entering]
    leaves = [*others]
    try:
        with span("backward of the heads"):
            roots, ones = (losses, None) if stacked is None else ([stacked], [torch.ones_like(stacked)])
            found = torch.autograd.grad(roots, [*features, *leaves], ones, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    rows: list[list[Tensor | None]] = [[None] * len(features) for _ in losses]
    for node, gradients in noted:  # in the order in which autograd adds them
        row = rows[entering[node].bit_length() - 1]
        for edge, gradient in zip(node.next_functions, gradients, strict=True):
            place = place_of.get(edge)
            if place is not None and gradient is not None:
                former = row[place]
                row[place] = gradient if former is None else former + gradient
    heads: list[dict[Tensor, Tensor]] = [{} for _ in losses]
    for leaf, gradient in zip(leaves, found[len(features) :], strict=True):
        if gradient is not None:
            heads[others[leaf].bit_length() - 1][leaf] = gradient
    result = Gradients(list(features), rows, heads)
    space = None if out is None else out(features, len(losses))
    if isinstance(space, FlatRows):
        result.vectors = whole_vectors(rows)
        if result.vectors is None:
            result.matrix, result.vectors = space.matrix, space.vectors
            for k, pieces in enumerate(space.pieces):
                result.flatten(k, pieces)
    return result


def _note(noted: list[tuple[Any, Any]], node: Any, gradients: Any, _: Any) -> None:
    noted.append((node, gradients))


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is no leaf, and nobody looks at its gradient."""
    return tensor.grad_fn is not None and not tensor._backward_hooks and not tensor.retains_grad
