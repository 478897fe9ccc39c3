"""Gradients of small networks in one matrix: operations cost more than a copy there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..spans import without_autocast
from .float32 import few_tell, float32_tells
from .layout import FlatRows

#: Coordinates up to which a row is copied into a matrix; the same number limits a sum in single precision.
FEW = 1 << 18
_DTYPES = ({torch.float32}, {torch.float64})
_LINE = 16  # elements: rows begin where a vector of their own would, as products depend on that in the last bit
_BLOCK = 2048  # coordinates of a product in a batch
_DOTS = 3  # rows up to which products of pairs are faster
_BLOCKS = 12  # rows up to which batches are faster than one product


class SmallRows:
    """The matrix that a method collects rows in, kept as new memory takes time."""

    def __init__(self) -> None:
        self._kept: FlatRows | None = None

    def __deepcopy__(self, memo: object) -> SmallRows:
        return SmallRows()

    def __reduce__(self) -> tuple[type[SmallRows], tuple[()]]:
        return SmallRows, ()

    def out(self, inputs: Sequence[Tensor], size: int) -> FlatRows | None:
        """A (K, P) matrix for rows at these inputs; ``None``: they stay as they come.

        That is for more than ``FEW`` coordinates, inputs of several types or layouts, and on a device other than the CPU.
        """
        if self._kept is None or not self._kept.fits(inputs, size):
            self._kept = None
            plain = {type(tensor) for tensor in inputs} <= {Tensor, nn.Parameter}
            dense = plain and all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in inputs)
            width = sum(tensor.numel() for tensor in inputs)
            if dense and {tensor.dtype for tensor in inputs} in _DTYPES and 0 < width <= FEW:
                full = -(-width // _LINE) * _LINE
                matrix = torch.empty(size, full, dtype=inputs[0].dtype, device="cpu")[:, :width]
                self._kept = FlatRows.of(matrix, inputs, few=True)
        return self._kept


def gramian_of_few(vectors: Sequence[Tensor], matrix: Tensor | None, present: Sequence[bool]) -> Tensor | None:
    """(K, P) rows -> (K, K) inner products; ``None`` if single precision is too coarse.

    They are sums in the rows' precision over pieces of a row, which are added in float64.

    Args:
        vectors: The rows.
        matrix: The same as :meth:`SmallRows.out` makes it; ``None`` for up to ``_DOTS`` rows.
        present: Which rows have a gradient; the others are zero.
    """
    size = len(vectors)
    if size > _DOTS and matrix is not None:
        total = _products(matrix)
        return total if float32_tells(total if all(present) else total[present][:, present]) else None
    table = [[0.0] * size for _ in vectors]  # plain floats, as every tensor operation costs as much as a product
    for i, vector in enumerate(vectors):
        for j in range(i, size):
            table[i][j] = table[j][i] = float(vector.dot(vectors[j]))
    there = [k for k in range(size) if present[k]]
    return torch.tensor(table, dtype=torch.float64) if few_tell([[table[i][j] for j in there] for i in there]) else None


def whole_vectors(rows: Sequence[Sequence[Tensor | None]]) -> list[Tensor] | None:
    """Rows at a single input as they came, flattened, where a copy of them gives the same bits.

    That is for few rows, of which products of pairs are taken, and for those that lie as a vector of their own would.
    """
    found = [row[0] for row in rows] if len(rows) <= _DOTS and len(rows[0]) == 1 else [None]
    vectors = [piece.view(-1) for piece in found if piece is not None and _is_vector(piece)]
    return vectors if len(vectors) == len(rows) else None


def _is_vector(piece: Tensor) -> bool:
    return piece.is_contiguous() and piece.data_ptr() % (_LINE * 4) == 0


def _products(matrix: Tensor) -> Tensor:
    size, width = matrix.shape
    if torch.get_float32_matmul_precision() != "highest":
        matrix = matrix.double()
    length = _BLOCK if size <= _BLOCKS else width
    ends = width // length * length
    blocks, rest = matrix[:, :ends].view(size, ends // length, length).transpose(0, 1), matrix[:, ends:]
    with without_autocast("cpu"):
        total = torch.bmm(blocks, blocks.transpose(1, 2)).double().sum(0)
        if ends < width:
            total += rest @ rest.T
    return total.triu() + total.triu(1).T


def combination_of_few(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(P,) vectors -> (P,) their sum with these weights."""
    first, *others = vectors
    total = first * weights[0]
    for row, weight in zip(others, weights[1:], strict=True):
        total.add_(row, alpha=weight)
    return total
