from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def aligned(gradients: Sequence[Tensor | None], tensor: Tensor) -> list[Tensor] | None:
    """The gradients as vectors with the same order of elements; ``None`` if all are zero.

    Equal dense layouts (channels_last included) are viewed as they lie; anything else is copied.
    """
    present = [g for g in gradients if g is not None]
    if not present:
        return None
    if len(present) == len(gradients) and all(g.is_contiguous() for g in present):
        return [g.view(-1) for g in present]
    dense = alike(present)
    zero = present[0] if len(present) == len(gradients) else present[0].new_zeros(tensor.numel())
    return [zero if g is None else g.as_strided((g.numel(),), (1,)) if dense else g.reshape(-1) for g in gradients]


def alike(tensors: Sequence[Tensor]) -> bool:
    """True if all lie densely in memory, in the same order of dimensions."""
    return _dense(tensors[0]) and all(tensor.stride() == tensors[0].stride() for tensor in tensors)


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill one block of memory, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def flat_rows(inputs: Sequence[Tensor], size: int) -> Tensor:
    """An empty matrix for ``size`` flattened rows at ``inputs``."""
    width = sum(tensor.numel() for tensor in inputs)
    return torch.empty(size, width, dtype=common_dtype(inputs), device=inputs[0].device)


class FlatRows(NamedTuple):
    """A (K, P) matrix for rows, and the views of it at the inputs.

    Attributes:
        matrix: The rows, flattened.
        pieces: ``pieces[k][p]`` is row k at input p.
        shapes: Of the inputs.
        vectors: The rows of ``matrix``, if they are of a small network; see :class:`SmallRows`.
    """

    matrix: Tensor
    pieces: list[list[Tensor]]
    shapes: list[torch.Size]
    vectors: list[Tensor] | None

    @classmethod
    def of(cls, matrix: Tensor, inputs: Sequence[Tensor], few: bool = False) -> FlatRows:
        """The views of ``matrix`` at the inputs."""
        rows = list(matrix.unbind())
        shapes = [tensor.shape for tensor in inputs]
        return cls(matrix, [cut(row, inputs) for row in rows], shapes, rows if few else None)

    def fits(self, inputs: Sequence[Tensor], size: int) -> bool:
        """Whether it is for ``size`` rows at inputs like these."""
        dtype, device = self.matrix.dtype, self.matrix.device
        alike = all(tensor.dtype is dtype and tensor.device == device for tensor in inputs)
        return alike and len(self.pieces) == size and self.shapes == [tensor.shape for tensor in inputs]


def cut(vector: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The pieces of a flat vector, as views with the shapes of ``tensors``."""
    return list(torch._utils._unflatten_dense_tensors(vector, tensors))


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The narrowest type that holds the numbers of all."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
