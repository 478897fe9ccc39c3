from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..spans import without_autocast
from .float32 import float32_tells
from .layout import aligned, cut, flat_rows
from .processes import average_over_processes, several_processes
from .small import combination_of_few, gramian_of_few
from .writing import accumulate_grad, weighted_sum

#: Makes the combination of the rows: a tensor per input.
Direction = Callable[[], list[Tensor]]

# Elements of a row read at a time for the Gramian: K pieces stay in the cache, and a float32 sum keeps six digits.
_CHUNK = 1 << 18
# Up to this number of rows, products of pairs are faster on the CPU than a copy into one block and a matrix product.
_PAIRS = 12


def gramian_of(matrix: Tensor) -> Tensor:
    """(K, P) rows -> (K, K) inner products, as :meth:`Gradients.gramian` finds them."""
    return Gradients([matrix[0]], [[row] for row in matrix], []).gramian()


@dataclass
class Gradients:
    """Gradients of K objectives, kept as autograd returned them.

    They are read once for the Gramian and once for the combination; a method may need them as a flat (K, P) copy.

    Attributes:
        inputs: Where the gradients were taken: shared parameters, features, or a subset of the parameters.
        rows: ``rows[k][p]`` is the gradient of objective k at ``inputs[p]``; ``None`` stands for zero.
        heads: ``heads[k]`` maps the other leaves that objective k reaches to its gradient there.
        matrix: (K, P) the rows flattened, if they were collected into one; ``rows`` are then views of it.
        vectors: The rows as K vectors, if they are of a small network, so that they are read as a whole.
        filled: Which rows are real zeros only because processes exchange them; ``None``: none.
    """

    #: Whether gradients of heads are averaged over processes when they are written, so that all must have the same ones.
    sends_heads: ClassVar[bool] = True
    inputs: list[Tensor]
    rows: list[list[Tensor | None]]
    heads: list[dict[Tensor, Tensor]]
    matrix: Tensor | None = None
    vectors: list[Tensor] | None = None
    filled: list[bool] | None = None

    def reaches(self, k: int) -> bool:
        """Whether objective k reaches any input in this process."""
        if self.filled is not None:
            return not self.filled[k]
        return any(gradient is not None for gradient in self.rows[k])

    def zeros(self) -> list[Tensor | None]:
        """A row of an objective that other processes alone measure."""
        return [torch.zeros_like(tensor) for tensor in self.inputs]

    def flatten(self, k: int, pieces: Sequence[Tensor]) -> None:
        """Move row k into these ``pieces``. A gradient that is missing stays so, and is zero there."""
        row = self.rows[k]
        dense = [gradient for gradient in row if gradient is not None and not gradient.is_sparse]
        if len(dense) == len(row):
            torch._foreach_copy_([*pieces], dense)
            row[:] = pieces
            return
        for p, (gradient, piece) in enumerate(zip(row, pieces, strict=True)):
            if gradient is None:
                piece.zero_()
            elif not gradient.is_sparse and gradient is not piece:  # balancers refuse sparse ones
                row[p] = piece.copy_(gradient)

    def release(self, owners: Mapping[Tensor, int], active: Sequence[int] | None) -> None:
        """Make leaves of one objective out of inputs.

        ``owners`` has its index for each; if negative, the leaf is left out. Those not ``active`` have no gradient.
        """
        if not owners:
            return
        inputs, rows = self.inputs, self.rows
        kept = [p for p, leaf in enumerate(inputs) if leaf not in owners]
        for p, leaf in enumerate(inputs):
            k = owners.get(leaf)
            if k is not None and k >= 0 and (active is None or k in active):
                gradient = rows[k][p]
                if gradient is not None or (self.sends_heads and several_processes()):
                    self.heads[k][leaf] = torch.zeros_like(leaf) if gradient is None else gradient
        self.inputs, self.rows = [inputs[p] for p in kept], [[row[p] for p in kept] for row in rows]
        if self.matrix is not None:
            begins = kept == list(range(len(kept)))
            self.matrix = self.matrix[:, : sum(t.numel() for t in self.inputs)] if begins else None
            self.vectors = None if self.matrix is None or self.vectors is None else list(self.matrix.unbind())

    def __add__(self, other: Gradients) -> Gradients:
        """Sum over micro-batches, leaf by leaf; what is contested in one is so in the sum."""
        inputs = self._all_inputs(other)
        rows, heads = [], []
        for k in range(len(self.rows)):
            total: dict[Tensor, Tensor] = {}
            for part in (self, other):
                for leaf, gradient in [*zip(part.inputs, part.rows[k], strict=True), *part.heads[k].items()]:
                    if gradient is not None:
                        total[leaf] = total[leaf] + gradient if leaf in total else gradient
            rows.append([total.pop(tensor, None) for tensor in inputs])
            heads.append(total)
        filled = [not self.reaches(k) and not other.reaches(k) for k in range(len(rows))]
        return replace(self, inputs=inputs, rows=rows, heads=heads, matrix=None, vectors=None, filled=filled)

    @classmethod
    def none(cls, size: int) -> Gradients:
        """Of ``size`` objectives, none of which is differentiated."""
        return cls([], [[] for _ in range(size)], [{} for _ in range(size)])

    def keep(self, indices: Sequence[int]) -> None:
        """Drop the gradients of the other objectives."""
        for k in set(range(len(self.rows))) - set(indices):
            if self.heads[k] or any(g is not None for g in self.rows[k]):
                self.rows[k], self.heads[k] = [None] * len(self.inputs), {}
                self.matrix = self.vectors = None

    def among(self, indices: Sequence[int]) -> Gradients:
        """Those of the objectives with these indices."""
        rows, heads = [list(self.rows[k]) for k in indices], [self.heads[k] for k in indices]
        matrix = None if self.matrix is None else self.matrix[list(indices)]
        chosen = replace(self, rows=rows, heads=heads, matrix=matrix, vectors=None)
        if matrix is not None:  # the rows are views of it
            for k, row in enumerate(rows):
                pieces = zip(row, chosen.split(matrix[k]), strict=True)
                rows[k] = [None if g is None else piece for g, piece in pieces]
        return chosen

    def products(self, other: Gradients) -> Tensor:
        """(K, K) inner products with the rows of ``other``, made symmetric; float64 on the CPU."""
        inputs, size = self._all_inputs(other), len(self.rows)
        rows = [part._at(inputs, k) for part in (self, other) for k in range(size)]
        block = replace(self, inputs=inputs, rows=rows, heads=[], matrix=None, vectors=None).gramian()[:size, size:]
        return (block + block.T) / 2

    def _all_inputs(self, other: Gradients) -> list[Tensor]:
        return list(dict.fromkeys([*self.inputs, *other.inputs]))

    def _at(self, inputs: Sequence[Tensor], k: int) -> list[Tensor | None]:
        """Row k at ``inputs``; a leaf that is not contested here counts as contested."""
        gradients = self.heads[k] | {p: g for p, g in zip(self.inputs, self.rows[k], strict=True) if g is not None}
        return [gradients.get(tensor) for tensor in inputs]

    def reorder(self, inputs: Sequence[Tensor]) -> None:
        """Take these inputs, all of the present ones among them; a head among them becomes an input."""
        if len(inputs) == len(self.inputs) and all(a is b for a, b in zip(inputs, self.inputs, strict=True)):
            return
        self.rows = [self._at(inputs, k) for k in range(len(self.rows))]
        for own in self.heads:
            for leaf in own.keys() & set(inputs):
                del own[leaf]
        self.inputs, self.matrix, self.vectors = list(inputs), None, None

    def contest(self, leaves: Sequence[Tensor]) -> None:
        """Move these ``leaves``, where they are among the heads, to the inputs."""
        inputs = list(dict.fromkeys([*self.inputs, *leaves]))
        self.rows = [self._at(inputs, k) for k in range(len(self.rows))]
        moved = set(leaves)
        self.heads = [{leaf: g for leaf, g in heads.items() if leaf not in moved} for heads in self.heads]
        self.inputs, self.matrix, self.vectors = inputs, None, None

    def synchronize(self) -> None:
        """Average the rows over processes; zero rows must be real, as all send the same sizes."""
        if not several_processes():
            return
        self.filled = [not self.reaches(k) for k in range(len(self.rows))]
        for k, row in enumerate(self.rows):
            if self.matrix is not None:
                average_over_processes([self.matrix[k]])
                self.rows[k] = list(self.split(self.matrix[k]))
                continue
            pairs = zip(row, self.inputs, strict=True)
            filled = [torch.zeros_like(tensor) if g is None else g.clone() for g, tensor in pairs]
            average_over_processes(filled)
            self.rows[k] = list(filled)

    def gramian(self) -> Tensor:
        """(K, K) inner products of the rows, float64 on the CPU.

        One pass over the rows, one device synchronization. On the CPU products are taken in the rows' precision over pieces
        of 262,144 elements, which are added in float64. If float32 is too coarse (squares over- or underflow, a row depends
        on the others but for rounding), and on other devices, products are float64 (float32 on MPS).
        """
        size = len(self.rows)
        present = [any(g is not None for g in row) for row in self.rows]
        if size > 0 and self.vectors is not None:
            few = gramian_of_few(self.vectors, self.matrix, present)
            return self._products(exact=True) if few is None else few
        cpu = all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64) for t in self.inputs)
        total = self._products(exact=not cpu)
        if cpu and size > 0 and not float32_tells(total if all(present) else total[present][:, present]):
            total = self._products(exact=True)
        return total

    def _products(self, exact: bool) -> Tensor:
        size = len(self.rows)
        first, second = torch.triu_indices(size, size)
        pairs = list(zip(first.tolist(), second.tolist(), strict=True))
        parts: list[Tensor] = []
        for pieces in self._pieces():
            if not exact and size <= _PAIRS:
                parts.append(torch.stack([torch.dot(pieces[i], pieces[j]) for i, j in pairs]))
                continue
            block = torch.stack(pieces)
            if block.device.type == "mps":
                block = block.float()
            elif exact or torch.get_float32_matmul_precision() != "highest":
                block = block.double()
            with without_autocast(block.device.type):
                parts.append((block @ block.T)[first.to(block.device), second.to(block.device)])
        total = torch.zeros(size, size, dtype=torch.float64)
        if parts:
            total[first, second] = torch.stack(parts).double().sum(0).cpu()
            total[second, first] = total[first, second]
        return total

    def _pieces(self) -> Iterable[list[Tensor]]:
        """Yield K aligned vectors at a time: slices of large tensors, small tensors packed."""
        packed: list[list[Tensor]] = []
        filled = 0
        for p, tensor in enumerate(self.inputs):
            vectors = aligned([row[p] for row in self.rows], tensor)
            if vectors is None:
                continue
            numel = vectors[0].numel()
            if numel >= _CHUNK:
                for start in range(0, numel, _CHUNK):
                    yield [v[start : start + _CHUNK] for v in vectors]
                continue
            packed.append(vectors)
            filled += numel
            if filled >= _CHUNK:
                yield [torch.cat(column) for column in zip(*packed, strict=True)]
                packed, filled = [], 0
        if packed:
            yield [torch.cat(column) for column in zip(*packed, strict=True)]

    def combine(self, weights: Sequence[float]) -> list[Tensor]:
        """``sum_k weights[k] rows[k]``, one for each input. The rows are dropped as they are read."""
        if self.vectors is not None:
            pieces = cut(combination_of_few(self.vectors, weights), self.inputs)
            return [piece.data for piece in pieces]  # no views to autograd, which forbids some uses of views
        total: list[Tensor] = []
        for p, tensor in enumerate(self.inputs):
            mine: Tensor | None = None
            for row, weight in zip(self.rows, weights, strict=True):
                gradient, row[p] = row[p], None
                if gradient is not None:
                    # autograd may hand out views and aliases, so nothing it returned is changed in place
                    mine = gradient * weight if mine is None else mine.add_(gradient, alpha=weight)
            total.append(torch.zeros_like(tensor) if mine is None else mine)
        return total

    def column(self, p: int, drop: bool) -> list[Tensor | None]:
        """The rows at input p, as whole tensors; with ``drop`` they are kept no longer."""
        column = [row[p] for row in self.rows]
        if drop:
            for row in self.rows:
                row[p] = None
        return column

    def placed(self, p: int, whole: Tensor) -> Tensor:
        """What this process has of a tensor like input p."""
        return whole

    def jacobian(self) -> Tensor:
        """(K, P) matrix of the flattened rows, which the caller may overwrite."""
        if self.matrix is None:
            matrix = flat_rows(self.inputs, len(self.rows))
            for k in range(len(self.rows)):
                self.flatten(k, self.split(matrix[k]))
            self.matrix = matrix
        return self.matrix

    def length(self, parts: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of a tensor per input, taken together."""
        return torch.stack([part.norm() for part in parts]).norm()

    def split(self, vector: Tensor) -> list[Tensor]:
        """Cut a (P,) vector into views shaped like the inputs."""
        pieces = vector.split([tensor.numel() for tensor in self.inputs])
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, self.inputs, strict=True)]

    def accumulate_heads(self, weights: Sequence[float]) -> None:
        """Add ``weights[k]`` times objective k's gradient to the leaves outside the inputs."""
        total = weighted_sum(self.heads, weights)
        self.accumulate(list(total), list(total.values()))

    def accumulate(self, leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Add to ``.grad`` of leaves among the inputs and heads."""
        accumulate_grad(leaves, gradients)
