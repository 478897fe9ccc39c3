from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .errors import BalancingError
from .method import Method

N = TypeVar("N", bound=nn.Module)
M = TypeVar("M", bound=Method)
R = TypeVar("R")
# what a copy has of its own, and what the original needs none of
_OWN = {"_parameters", "_buffers", "_modules", "memory", "objectives", "preference", "rescaling", "finite"}
_OWN |= {"_unmoved", "_versions", "_still", "_known", "alone", "place"}
# what absent objectives have no number of
_OF_ONE_STEP = {"head_weights", "_loss_weights_now"}


class Narrowed(Generic[N]):
    """Copy of a method for some of its objectives, for a step from which the others are absent.

    Tensors with a number per objective are cut to these objectives; all else, such as the random generator, is shared.
    A tensor of K numbers has one per objective; other axes are named in :attr:`balancing.method.Method.per_objective`.
    Priorities get the mean 1 again, unless they multiply weights or gradients and objectives are drawn: there the mean over
    draws has to be as they ask for.

    Args:
        original: The method, or a module that is a part of it.
        indices: The objectives that stay.
        size: K of the original.
        drawn: Whether the others are absent as they were not drawn.

    Attributes:
        module: The copy.

    Raises:
        BalancingError: A tensor with an axis as long as the objectives are many, of which nothing is declared.
    """

    def __init__(self, original: N, indices: Sequence[int], size: int, drawn: bool) -> None:
        self._original, self._size, self._kept = original, size, len(indices)
        self._index = torch.tensor(indices)
        self._axes_by_name: Mapping[str, tuple[int, ...]] = getattr(original, "per_objective", {})
        self._kinds: Mapping[str, str] = getattr(original, "proportions", {})
        self._given: dict[str, Tensor] = {}
        clone = self.module = object.__new__(type(original))
        vars(clone).update(vars(original))
        parts = {
            key: Narrowed(part, indices, size, drawn) for key, part in original._modules.items() if part is not None
        }
        self._parts = list(parts.values())
        own: dict[str, Any] = {
            "_modules": {key: part.module for key, part in parts.items()},
            "_buffers": {key: None if b is None else self._cut(key, b) for key, b in original._buffers.items()},
            "_parameters": {key: None if p is None else self._leaf(key, p) for key, p in original._parameters.items()},
        }
        own |= {key: self._cut(key, value) for key, value in vars(original).items() if isinstance(value, Tensor)}
        vars(clone).update(own)
        if isinstance(original, Method) and isinstance(clone, Method):
            names = tuple(original.objectives[k] for k in indices)
            clone.objectives, clone.finite = names, original.finite.among(names)
            if not drawn or original.preference_on in ("target", "method"):
                clone.preference = clone.preference / clone.preference.mean()
            clone.memory = {key: self._cut(key, value) for key, value in original.memory.items()}
            clone._unmoved, clone._versions = 0, -1
        sliced = dict(vars(clone))
        if isinstance(clone, Method):
            clone.narrowed_to(indices)
        self._before = dict(vars(clone))
        self._changed_by_hook = {key for key, value in self._before.items() if sliced.get(key) is not value}

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the state of the copy to the original, in which the absent objectives' rests."""
        original, clone = self._original, self.module
        for part in self._parts:
            part.write_back()
        for key, buffer in clone._buffers.items():
            if buffer is not None:
                original._buffers[key] = self._joined(key, original._buffers[key], buffer, 0.0)
        for key, parameter in clone._parameters.items():
            whole = original._parameters[key]
            if parameter is not None and whole is not None:
                self._write_parameter(key, whole, parameter)
        if isinstance(original, Method) and isinstance(clone, Method):
            former = original.memory
            original.memory = {
                key: self._joined(key, former.get(key), value, 0.0) for key, value in clone.memory.items()
            }
        for key, value in vars(clone).items():
            if key in _OWN or key in self._changed_by_hook:
                continue
            now = vars(original).get(key)
            if not isinstance(value, Tensor):
                if self._before.get(key) is not value:
                    vars(original)[key] = value
            elif key in _OF_ONE_STEP or not isinstance(now, Tensor):
                vars(original)[key] = self._joined(key, None, value, float("nan"))
            elif not torch.equal(self._selected(now, self._axes(key, now, self._size)), value):
                vars(original)[key] = self._joined(key, now.clone(), value, 0.0)

    def _axes(self, key: str, tensor: Tensor, size: int) -> tuple[int, ...]:
        if key in self._axes_by_name:
            return self._axes_by_name[key]
        if tensor.dim() > 1 and size in tensor.shape:
            owner = getattr(self._original, "name", type(self._original).__name__)
            raise BalancingError(
                f"{owner}: an objective is absent, but the class does not declare which axes of {key} have an entry per objective; "
                f"add per_objective = {{{key!r}: (axis, ...)}}, with () for none"
            )
        return (0,) if tensor.shape == (size,) else ()

    def _cut(self, key: str, tensor: Tensor) -> Tensor:
        part = self._selected(tensor, self._axes(key, tensor, self._size))
        if key in self._kinds:
            total = part.sum()
            if self._kinds[key] != "log" and total > 0:
                part = part * ((1.0 if self._kinds[key] == "one" else len(part)) / total)
            self._given[key] = part.clone()
        return part

    def _leaf(self, key: str, parameter: nn.Parameter) -> nn.Parameter:
        axes = self._axes(key, parameter, self._size)
        if not axes:
            return parameter
        return nn.Parameter(self._selected(parameter.detach(), axes), requires_grad=parameter.requires_grad)

    def _selected(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        for axis in axes:
            tensor = tensor.index_select(axis, self._index.to(tensor.device))
        return tensor

    def _joined(self, key: str, whole: Tensor | None, part: Tensor, fill: float) -> Tensor:
        """``whole`` with the copy's numbers where the copy has some, in place if it can be."""
        axes = self._axes(key, part, self._kept) if whole is None else self._axes(key, whole, self._size)
        if not axes:
            return part
        shape = torch.Size(self._size if axis in axes else length for axis, length in enumerate(part.shape))
        if whole is None or whole.dtype != part.dtype or whole.device != part.device or whole.shape != shape:
            former, whole = whole, part.new_full(shape, fill)
            if former is not None:  # a memory may have grown by parameters that are new
                whole[tuple(slice(length) for length in former.shape)] = former.to(whole)
        if key in self._given:
            if torch.equal(part, self._given[key]):
                return whole
            part = self._as_share(key, self._selected(whole, axes), whole, part)
        self._put(whole, part, axes)
        return whole

    def _as_share(self, key: str, former: Tensor, whole: Tensor, part: Tensor) -> Tensor:
        """``part`` with the sum that its objectives had, so that the absent ones keep their share."""
        if self._kinds[key] == "log":
            return part - part.logsumexp(0) + former.logsumexp(0)
        if not whole.sum() > 0:  # before the first step
            return part * (self._kept / self._size)
        return part * (former.sum() / (1 if self._kinds[key] == "one" else self._kept))

    def _put(self, whole: Tensor, part: Tensor, axes: Sequence[int]) -> None:
        if not axes:
            whole.copy_(part)
            return
        inner = self._selected(whole, axes[:1])
        self._put(inner, part, axes[1:])
        whole.index_copy_(axes[0], self._index.to(whole.device), inner)

    def _write_parameter(self, key: str, whole: nn.Parameter, part: nn.Parameter) -> None:
        axes = self._axes(key, whole, self._size)
        if not axes:
            return
        if not torch.equal(self._selected(whole, axes), part):
            self._put(whole, part, axes)
        if part.grad is not None:
            whole.grad = torch.zeros_like(whole) if whole.grad is None else whole.grad
            self._put(whole.grad, self._selected(whole.grad, axes) + part.grad, axes)


def for_some(method: M, indices: Sequence[int], step: Callable[[M], R]) -> R:
    """``step`` of the objectives with these indices; by a copy of the method if some are absent."""
    if len(indices) == len(method.objectives):
        return step(method)
    narrowed = Narrowed(method, indices, len(method.objectives), method.options.sample is not None)
    result = step(narrowed.module)
    narrowed.write_back()
    return result
