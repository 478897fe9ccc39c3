"""What a criterion is, and what criteria have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

from tasks.metrics import MetricSpec

Kind = Literal["classification", "regression"]
#: What the cells of a label column mean: one class; one class of an order; any number of tags; a number; a number of events.
LabelKind = Literal["classes", "ordered", "tags", "number", "count"]
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
Transform = Callable[[Tensor], Tensor]
Columns = dict[str, Sequence[str | float]]
Weights = Sequence[float] | Mapping[str, float] | Literal["balanced"]


class Criterion(Protocol):
    """Mean loss over the labels that are not missing."""

    kind: ClassVar[Kind]

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar mean over the labels; 0, still connected to ``output``, if there is none."""

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of labels that are not missing, a 0-d tensor."""

    def untrained_loss(self, target: Tensor) -> float:
        """Expected loss of an untrained model on these labels."""

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constant prediction on these labels."""

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) predictions and (N,) labels, in the units of the target, without the missing ones."""


class NamedCriterion(Criterion, Protocol):
    """A criterion that a configuration can choose by its name.

    It knows the head that it needs, its metrics, and how outputs become cells of a table. Predictions and labels of
    :meth:`labelled_pairs` are (N, C) for tags.
    """

    name: ClassVar[str]
    fits: ClassVar[tuple[LabelKind, ...]]
    standardized: ClassVar[bool]  # whether numbers are to be standardized first

    @property
    def outputs(self) -> int:
        """Number of outputs of the head, the second dimension of ``output``."""

    def fitted(self, target: Tensor) -> NamedCriterion:
        """The same with what it takes from the training labels: class weights, the mean of counts.

        Raises ValueError for labels that it cannot be used with.
        """

    def metrics(self, inverse_transform: Transform) -> dict[str, MetricSpec]:
        """Metrics by name; those with a unit are in that of ``inverse_transform``."""

    def decode(self, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
        """Columns of a table for the outputs of objective ``name``, in the unit of the data.

        The first column has the objective's name.
        """


def check_shapes(output: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both have the same shape."""
    if output.shape != target.shape:
        raise ValueError(f"output {tuple(output.shape)} and target {tuple(target.shape)} must have the same shape")


def check_option(criterion: str, name: str, value: Any, above: float | None = None, least: float = 0.0) -> None:
    """Raise ValueError unless ``value`` is a number from ``least`` on, or above ``above``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value >= least if above is None else value > above):
        bound = f"of at least {least:g}" if above is None else f"greater than {above:g}"
        raise ValueError(f"{criterion}: {name} must be a number {bound}, got {value!r}")


def check_share(criterion: str, name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is in [0, 1)."""
    check_option(criterion, name, value)
    if value >= 1:
        raise ValueError(f"{criterion}: {name} must be below 1, got {value!r}")


def in_float(output: Tensor) -> Tensor:
    """Numbers of 16 bits as float32; others as they are."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def masked_mean(losses: Tensor, known: Tensor) -> Tensor:
    """Mean of the losses where ``known``; 0, still connected, if that is nowhere."""
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)


@torch.enable_grad()
def least_loss(loss: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """Smallest loss of a constant output (C,), by L-BFGS in float64 from ``start``."""
    constant = start.detach().double().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([constant], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(constant)
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss(constant).detach())


def decode_output(criterion: Criterion, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
    """Columns of a table for outputs; numbers, unless the criterion says what they are."""
    decode = getattr(criterion, "decode", None)
    if decode is not None:
        return decode(name, output, inverse_transform)
    return {name: inverse_transform(output).flatten().tolist()}
