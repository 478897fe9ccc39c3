"""Balancers that need whole gradients: updates, or weights, from the (K, P) Jacobian."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from .errors import BalancingError
from .gradient_balancer import GradientBalancer, Measured
from .measuring.gradients import Direction, Gradients
from .measuring.layout import flat_rows
from .measuring.pieces import Rows
from .options import ABOUT_WEIGHTS, BalancerOptions, Refused
from .rescaling import Rescaled


class _Workspace:
    """The matrix and the order of coordinates that a method with ``remembers`` keeps.

    The parameters are held by weak references, and a copy starts without them, as a loaded state does.

    Attributes:
        grown: Whether parameters joined after the first step, so that no other process knows their order.
    """

    def __init__(self, owner: str, grown: bool = False) -> None:
        self._owner, self.grown = owner, grown
        self._matrix: Tensor | None = None
        self._order: list[TensorWeakRef] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Workspace:
        return _Workspace(self._owner, self.grown)

    def __reduce__(self) -> tuple[type[_Workspace], tuple[str, bool]]:
        return _Workspace, (self._owner, self.grown)

    def out(self, inputs: Sequence[Tensor], size: int) -> Tensor:
        """A (K, P) matrix for the rows. It is kept, as new memory costs more time than filling it."""
        if self._matrix is None or self._matrix.shape != (size, sum(tensor.numel() for tensor in inputs)):
            self._matrix = flat_rows(inputs, size)
        return self._matrix

    def restore_order(self, memory: dict[str, Tensor], gradients: Gradients) -> None:
        """Put the coordinates in the order of the earlier steps.

        Parameters that this step does not reach count as zero. New ones come last, and ``memory`` grows by zeros.
        Raises BalancingError if all are new, one no longer exists, or they do not fit a ``memory`` that was loaded.
        """
        kept = {value.shape[-1] for value in memory.values() if value.dim() > 0}
        self._forget_uncounted(max(kept, default=0))
        known = [ref() for ref in self._order or ()]
        if any(leaf is None for leaf in known):
            raise BalancingError(
                f"{self._owner}: a parameter whose gradients it remembers no longer exists; use a fresh balancer for "
                "another model"
            )
        order: list[Tensor] = [leaf for leaf in known if leaf is not None]
        new = [leaf for leaf in gradients.inputs if leaf not in {*order}]
        size, added = (sum(leaf.numel() for leaf in leaves) for leaves in (order or new, new))
        if kept - {size} or (order and len(new) == len(gradients.inputs)):
            raise BalancingError(
                f"{self._owner}: remembers gradients of other parameters than the {size} numbers that the losses share "
                "now; give shared=model.shared_parameters(), or use a fresh balancer"
            )
        if kept and not order and self.grown:
            raise BalancingError(
                f"{self._owner}: the state is from a run in which steps skipped parameters, whose order is lost; give "
                "shared=model.shared_parameters() from the first step on, or use a fresh balancer"
            )
        if order and new:
            self.grown = True
            for key, value in memory.items():
                memory[key] = torch.nn.functional.pad(value, (0, added)) if value.dim() > 0 else value
        if new:
            self._order = [*(self._order or ()), *map(TensorWeakRef, new)]
        gradients.reorder([*order, *new])

    def _forget_uncounted(self, size: int) -> None:
        """Drop parameters that joined in steps which did not count: the memory has ``size`` numbers."""
        order = self._order or []
        sizes = [0 if (leaf := ref()) is None else leaf.numel() for ref in order]
        if sum(sizes) > size:
            self._order = [ref for ref, end in zip(order, accumulate(sizes), strict=True) if end <= size]


class _WholeGradients(GradientBalancer):
    """Base class of the two kinds that need whole gradients."""

    needs = "jacobian"
    #: Whether the rows are read piece by piece, so that they are not copied into one matrix.
    piecewise: ClassVar[bool] = False
    refused: ClassVar[tuple[Refused, ...]] = (
        Refused("at", "combines whole gradients, so at='subset' has no meaning", "subset"),
        Refused("memory", "combines whole gradients, so memory='lean' has no meaning", "lean"),
        Refused("sample", "needs the gradients of all objectives, so sample= has no meaning"),
    )

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self._workspace = _Workspace(self.name)
        if self.remembers and not self.piecewise:
            self._out = self._workspace.out

    def _refused(self) -> list[Refused]:
        keeps = Refused("at", "keeps gradients from step to step, so at={value} has no meaning")
        return [keeps, *super()._refused()] if self.remembers else super()._refused()

    def _extra_state(self) -> dict[str, Any]:
        state = super()._extra_state()
        return state | {"grown": True} if self._workspace.grown else state

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        super()._load_extra_state(state)
        self._workspace.grown = state.get("grown", False)

    def _arrange(self, gradients: Gradients) -> None:
        if self.remembers and gradients.inputs:
            self._workspace.restore_order(self.memory, gradients)

    def _rows(self, measured: Measured, rescaled: Rescaled) -> tuple[Tensor, Rows]:
        """Losses and rows for the method."""
        factors = (rescaled.rows / measured.factor).tolist()
        rows = Rows(measured.gradients, factors, rescaled.of(measured.gramian))
        return rescaled.losses.to(rows.device, torch.promote_types(rows.dtype, torch.float32)), rows


class RowBalancer(_WholeGradients):
    """Weights from whole gradients, with or without a memory of them."""

    @abstractmethod
    def compute_weights(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        """(K,) losses and (K, P) gradients -> (K,) weights, without options.

        Called under ``torch.no_grad()``. A call advances the state of methods that have one, as a step does.
        """

    def weights_of_rows(self, losses: Tensor, rows: Rows) -> Tensor:
        """:meth:`compute_weights` of rows in pieces; ``piecewise`` methods override it."""
        return self.compute_weights(losses, rows.jacobian())

    def _direction(self, measured: Measured, loss_weights: Tensor | None) -> tuple[Tensor | None, Direction]:
        rescaled = self.rescaling.before(measured.losses, loss_weights, measured.gramian)
        raw = self._call(self.weights_of_rows, *self._rows(measured, rescaled))
        weights = self.cache.store(self.rescaling.after(raw.to(rescaled.rows), rescaled), self.step)
        return weights, measured.combination(weights, self.options.max_norm)


class JacobianBalancer(_WholeGradients):
    """An update from whole gradients: coordinate by coordinate, or of averages over steps.

    A method overrides :meth:`combine`. There are no weights to keep, to smooth or for heads.
    """

    refused = (
        *_WholeGradients.refused,
        *ABOUT_WEIGHTS,
        Refused("heads", "finds no weights, so heads='weighted' has no meaning", "weighted"),
    )
    #: Whether no coordinate depends on another, so that :meth:`combine` may be given the rows piece by piece.
    coordinatewise: ClassVar[bool] = False

    @abstractmethod
    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        """(K,) losses and (K, P) gradients, which may be overwritten -> (P,) update.

        Called under ``torch.no_grad()``. A call advances the state of methods that have one, as a step does.
        """

    def combine_rows(self, losses: Tensor, rows: Rows) -> list[Tensor]:
        """:meth:`combine` of rows that lie in pieces, a tensor for each input.

        A method that is ``piecewise`` overrides it.
        """
        if self.coordinatewise:
            return rows.combine_coordinates(lambda piece: self.combine(losses, piece))
        return rows.split(self.combine(losses, rows.jacobian(drop=True)))

    def _direction(self, measured: Measured, loss_weights: Tensor | None) -> tuple[Tensor | None, Direction]:
        rescaled = self.rescaling.before(measured.losses, loss_weights, measured.gramian)
        update = self._call(self.combine_rows, *self._rows(measured, rescaled))
        limit, size = self.options.max_norm, float(self.rescaling.size)
        if limit > 0:
            length = size * measured.gradients.length(update)
            size *= float((limit / length).clamp(max=1.0))
        size *= measured.factor
        return None, lambda: update if size == 1 else [part.mul_(size) for part in update]
