"""Rows of whole gradients, read in pieces that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .gradients import Gradients, gramian_of
from .layout import aligned, alike, common_dtype

#: Coordinates of a piece; a multiple of four, as ``graddrop`` draws for four coordinates at once.
PIECE = 1 << 16
_LARGE = 1 << 24  # on other devices, where an operation has a price whatever its size


class Rows:
    """Rows of gradients times factors, for methods that need whole gradients.

    Attributes:
        factors: (K,) factors of the rows, as floats.
        gramian: (K, K) inner products of the rows times their factors, float64 on the CPU.
        dtype: The precision of the rows, the widest if they have several.
        width: Coordinates of a piece, of which the last may have fewer.
    """

    def __init__(self, gradients: Gradients, factors: Sequence[float], gramian: Tensor) -> None:
        self._gradients, self.factors, self.gramian = gradients, list(factors), gramian
        self.dtype, self.device = common_dtype(gradients.inputs), gradients.inputs[0].device
        limit = PIECE if self.device.type == "cpu" else _LARGE
        self.width = min(limit, max(sum(tensor.numel() for tensor in gradients.inputs), 1))

    @classmethod
    def of(cls, jacobian: Tensor) -> Rows:
        """The rows of a (K, P) matrix."""
        gradients = Gradients([jacobian[0]], [[row] for row in jacobian], [])
        return cls(gradients, [1.0] * len(jacobian), gramian_of(jacobian))

    def jacobian(self, drop: bool = False) -> Tensor:
        """All in one (K, P) matrix; with ``drop`` it is overwritten, and no row is read again."""
        matrix = self._gradients.jacobian()
        if all(factor == 1 for factor in self.factors):
            return matrix
        column = torch.tensor(self.factors, dtype=torch.float64).to(matrix)[:, None]
        return matrix.mul_(column) if drop else matrix * column

    def split(self, vector: Tensor) -> list[Tensor]:
        """A tensor for each input from a (P,) vector."""
        return self._gradients.split(vector)

    def combine_coordinates(self, combine: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Apply ``combine``, which turns (K, n) pieces into (n,), and drop the rows.

        It returns a tensor for each input. No coordinate may depend on another.
        """
        width = self.width // 2 if self.width == PIECE else self.width  # its own tensors must fit the cache, too
        return self.write_coordinates(lambda vectors, out: out.copy_(combine(torch.stack(vectors))), width)

    def write_coordinates(self, write: Callable[[list[Tensor], Tensor], object], width: int) -> list[Tensor]:
        """The same for a function that writes a piece of the result, given the K vectors there.

        It must not change the vectors, none of which has more than ``width`` numbers.
        """
        inputs = self._gradients.inputs
        results = [torch.empty(0)] * len(inputs)
        ends: dict[int, int] = {}  # the input -> the coordinates up to its end

        def vectors_of_inputs() -> Iterator[list[Tensor]]:
            end = 0
            for p, tensor in enumerate(inputs):
                gradients = self._gradients.column(p, drop=True)
                vectors = aligned(gradients, tensor)
                if vectors is None:
                    results[p] = self._gradients.placed(p, _zeros(tensor))
                    continue
                present = [gradient for gradient in gradients if gradient is not None]
                layout = torch.preserve_format if alike(present) else torch.contiguous_format
                results[p] = torch.empty_like(present[0], memory_format=layout)
                ends[p] = end = end + len(vectors[0])
                yield [*vectors, results[p].as_strided((len(vectors[0]),), (1,))]

        done = 0
        for parts in _cut(vectors_of_inputs(), width):
            targets = [part.pop() for part in parts]
            vectors = _joined(parts)
            scaled = zip(vectors, self.factors, strict=True)
            vectors = [vector if factor == 1 else vector * factor for vector, factor in scaled]
            out = targets[0] if len(targets) == 1 else torch.empty_like(vectors[0])
            write(vectors, out)
            if len(targets) > 1:
                for target, values in zip(targets, out.split([len(target) for target in targets]), strict=True):
                    target.copy_(values)
            done += len(out)
            for p in [p for p, end in ends.items() if end <= done]:
                results[p] = self._gradients.placed(p, results[p])
                del ends[p]
        return results

    def pieces(self, drop: bool = False) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yield coordinates and the K vectors there, without their factors.

        The vectors must not be changed. Coordinates are those of the inputs one after the other, each in the order of its
        dimensions. With ``drop`` the rows are dropped as they are read.
        """
        start = 0
        for parts in _cut(self._columns(drop), self.width):
            vectors = _joined(parts)
            stop = start + len(vectors[0])
            yield slice(start, stop), vectors
            start = stop

    def memory(self, former: Tensor | None) -> Tensor:
        """A (K, P) matrix with a number for each coordinate: the ``former`` one, or zeros."""
        if former is not None:
            return former.to(self.device, self.dtype)
        width = sum(tensor.numel() for tensor in self._gradients.inputs)
        return torch.zeros(len(self.factors), width, dtype=self.dtype, device=self.device)

    def combination(self, weights: Tensor, memory: Tensor) -> list[Tensor]:
        """The sum of the rows of ``memory`` with these weights, a tensor for each input."""
        result, start = [], 0
        for p, tensor in enumerate(self._gradients.inputs):
            stop = start + tensor.numel()
            result.append(self._gradients.placed(p, (weights.to(memory) @ memory[:, start:stop]).view(tensor.shape)))
            start = stop
        return result

    def _columns(self, drop: bool) -> Iterator[list[Tensor]]:
        for p, tensor in enumerate(self._gradients.inputs):
            column = self._gradients.column(p, drop)
            zero = _zeros(tensor) if any(gradient is None for gradient in column) else tensor
            filled = [zero if gradient is None else gradient for gradient in column]
            yield [gradient.reshape(-1).to(self.dtype) for gradient in filled]


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _cut(columns: Iterable[Sequence[Tensor]], size: int) -> Iterator[list[list[Tensor]]]:
    """Yield all coordinates, ``size`` at a time; the last piece may be shorter.

    ``columns`` has the vectors of one input after the other. A piece has a part, a slice of each vector, for every input that
    it reaches into.
    """
    parts: list[list[Tensor]] = []
    room = size
    for vectors in columns:
        start, length = 0, len(vectors[0])
        while start < length:
            stop = min(start + room, length)
            parts.append([vector[start:stop] for vector in vectors])
            room -= stop - start
            start = stop
            if room == 0:
                yield parts
                parts, room = [], size
    if parts:
        yield parts


def _joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The vectors of a piece; with a single part they share memory with the rows."""
    return list(parts[0]) if len(parts) == 1 else [torch.cat(column) for column in zip(*parts, strict=True)]
