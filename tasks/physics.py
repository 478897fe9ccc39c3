"""Base of tasks whose losses are residuals of differential equations and their conditions.

    points (B, D) of each kind, drawn anew for every epoch -> fields and their derivatives -> residuals -> mean squares

Nothing is measured and no file is read to train on. The reference is computed, and the fields are compared with it on a grid:
``<field>/relative_l2`` is the length of the difference divided by that of the reference. Points follow from the seed of the
run and the number of the epoch alone, so that a resumed run sees the same ones. Losses hold derivatives of the model with
respect to its inputs, so they depend on the trunk directly, and not only by way of its output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.criteria import SquaredError
from tasks.table_files import TextTable
from tasks.table_frames import read_any
from tasks.task import Batch, DataError, Objective, Pictures, Prediction, Split, Splits, Task, TensorData, sample_seed

Conditions = Literal["soft", "hard"]
Fields = Callable[[Tensor], Mapping[str, Tensor]]
Draw = Callable[[int, torch.Generator], Sequence[Tensor]]


def gradient(values: Tensor, points: Tensor) -> Iterator[Tensor]:
    """(B, 1) derivatives of ``values`` (B, 1) by each coordinate of ``points`` (B, D)."""
    (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    return iter(slopes.split(1, 1))


@dataclass(frozen=True)
class CollocationPoints(TensorData):
    """Points of each kind, which :meth:`set_epoch` draws anew, in place; no labels.

    ``draw`` has a number and a generator as arguments.
    """

    draw: Draw | None = None

    def set_epoch(self, seed: int, epoch: int) -> None:
        """The points of an epoch, a function of seed and epoch alone."""
        assert self.draw is not None
        points = self.draw(len(self), torch.Generator().manual_seed(sample_seed(seed, epoch)))
        for tensor, fresh in zip(self.inputs, points, strict=True):
            tensor.copy_(fresh)

    def first(self, count: int) -> TensorData:
        """The first points of the last epoch that was drawn, which stay as they are."""
        return TensorData(tuple(tensor[:count].clone() for tensor in self.inputs), {})


@dataclass(frozen=True)
class PointRows(TensorData):
    """Points of a user's table."""

    table: TextTable | None = None


class PhysicsTask(Task):
    """Residuals of equations and conditions over a box.

    A subclass sets the attributes and defines :meth:`draw`, :meth:`residuals` and :meth:`reference`.

    Args:
        equations: Names of the equations' losses.
        conditions: Names of the losses of initial and boundary conditions.
        hard: Whether the conditions hold by the model's ``trial`` and have no losses.
        points: Points of each kind in an epoch.

    Attributes:
        coordinates: Their names, as columns of a table have them.
        fields: Names of the model's outputs.
        lower: Smallest value of each coordinate.
        upper: Largest value of each coordinate.
        grid: Points of the test split along each coordinate; validation has a fourth of them, at other places.
        free_constant: Fields that are determined up to a constant; their means are subtracted before they are compared.
    """

    derivatives = True
    data_source = "points that mozoo draws, and a solution that it computes (MIT)"
    coordinates: ClassVar[tuple[str, ...]]
    fields: ClassVar[tuple[str, ...]] = ("u",)
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    grid: tuple[int, ...]
    free_constant: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, equations: Sequence[str], conditions: Sequence[str], hard: bool, points: int) -> None:
        if points < 1:
            raise ValueError(f"{self.name}: points must be at least 1, got {points}")
        self.points, self.hard = points, hard
        names = (*equations, *(() if hard else conditions))
        self.objectives = tuple(Objective(name, SquaredError("residual", complete=True), {}) for name in names)
        self.info = {
            "lower": self.lower,
            "upper": self.upper,
            "fields": self.fields,
            "objectives": names,
            "trial": self.name if hard else None,
            "periodic": (),
        }

    def draw(self, count: int, generator: torch.Generator) -> Sequence[Tensor]:
        """``count`` points (count, D) of each kind; the first are inside of the box."""
        raise NotImplementedError

    def residuals(self, fields: Fields, *points: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Name and residual (B, ...) of each loss at the points of :meth:`draw`.

        ``fields`` computes the fields at points, the first of which require gradients.
        """
        raise NotImplementedError

    def reference(self, points: np.ndarray) -> Mapping[str, np.ndarray]:
        """(N,) values of each field at points (N, D), in float64."""
        raise NotImplementedError

    # ---- data --------------------------------------------------------------------------------------------------------

    def uniform(self, count: int, generator: torch.Generator, **fixed: float) -> Tensor:
        """(count, D) points in the box, with some coordinates ``fixed``."""
        points = torch.rand(count, len(self.lower), generator=generator)
        points = torch.tensor(self.lower) + points * (torch.tensor(self.upper) - torch.tensor(self.lower))
        for name, value in fixed.items():
            points[:, self.coordinates.index(name)] = value
        return points

    def load(self, data_dir: Path) -> Splits:
        """Points to train on, and the reference on two grids."""
        first = self.draw(self.points, torch.Generator().manual_seed(0))
        train = CollocationPoints(tuple(first), {}, draw=self.draw)
        half = tuple(max(size // 2, 1) for size in self.grid)
        return Splits(train, self._compared(_mesh(self.lower, self.upper, half, 0.5)), self._compared(self.mesh()))

    def mesh(self) -> np.ndarray:
        """(N, D) points of the test split, with the edges, the last coordinate running fastest."""
        return _mesh(self.lower, self.upper, self.grid, 0.0)

    def _compared(self, points: np.ndarray) -> TensorData:
        values = self.reference(points)
        targets = {name: torch.tensor(values[name], dtype=torch.float32)[:, None] for name in self.fields}
        return TensorData((torch.tensor(points, dtype=torch.float32),), targets)

    def auto_value(self, name: str, splits: Splits) -> Any:
        """As for other tasks, but losses of no prediction have a meaning. Raises KeyError for them."""
        if name in ("initial_losses", "prior_losses"):
            raise KeyError(name)  # residuals of a constant may be 0
        return super().auto_value(name, splits)

    # ---- training and evaluation -------------------------------------------------------------------------------------

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """Mean squares of the residuals; there are no features at which gradients could be balanced."""
        names = {objective.name for objective in self.objectives}
        with torch.enable_grad():  # the derivatives need it, even if those of the losses do not
            first, *others = batch.inputs
            residuals = self.residuals(model, first.detach().requires_grad_(), *others)
            return {name: residual.square().mean() for name, residual in residuals if name in names}, None

    def label_counts(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """(K,) numbers of points, as many of each kind."""
        return batch.inputs[0].new_full((len(names),), len(batch.inputs[0]), dtype=torch.float32)

    def outputs(self, model: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Fields at the points inside."""
        return model(batch.inputs[0])

    def results(self) -> dict[str, bool]:
        """Training losses and errors of the fields; lower is better."""
        return {f"{o.name}/loss": False for o in self.objectives} | {f"{n}/relative_l2": False for n in self.fields}

    def evaluate(self, model: Any, splits: Splits, split_name: str, batches: Iterable[Batch]) -> dict[str, float]:
        """Relative L2 error of each field over the split."""
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in self.fields}
        for batch in batches:
            outputs, targets = self.outputs(model, batch), batch.targets
            if not targets:  # points to train on
                values = self.reference(batch.inputs[0].double().cpu().numpy())
                targets = {name: torch.tensor(values[name])[:, None] for name in self.fields}
            for name in self.fields:
                pairs[name].append((_column(outputs[name]), _column(targets[name])))
        whole = {name: map(np.concatenate, zip(*parts, strict=True)) for name, parts in pairs.items()}
        return {f"{name}/relative_l2": self._error(name, *arrays) for name, arrays in whole.items()}

    def _error(self, name: str, values: np.ndarray, truth: np.ndarray) -> float:
        values, truth = self._comparable(name, values, truth)
        length = float(np.linalg.norm(truth))
        return float(np.linalg.norm(values - truth)) / length if length else math.nan

    def _comparable(self, name: str, values: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both where there is a reference, without their means if only differences are determined."""
        known = ~np.isnan(truth)
        values, truth = values[known], truth[known]
        return (values - values.mean(), truth - truth.mean()) if name in self.free_constant else (values, truth)

    # ---- presentation ------------------------------------------------------------------------------------------------

    def preprocess(self, path: Path | Any) -> PointRows:
        """Rows of a CSV or Parquet file, or of a data frame, with a column for each coordinate."""
        table = read_any(path, self.name)
        if not len(table):
            raise DataError(f"{self.name}: {table.source} has no rows after the header; it needs one for each point")
        columns = [table.numbers(table.column(name)) for name in self.coordinates]
        for name, values, low, high in zip(self.coordinates, columns, self.lower, self.upper, strict=True):
            wrong = np.flatnonzero(~((values >= low) & (values <= high)))
            if len(wrong):
                value = values[wrong[0]]
                what = f"{name} is missing" if math.isnan(value) else f"{name} is {value:g}"
                where = f"it must be in [{low:g}, {high:g}], where the fields are learned"
                raise table.error(int(wrong[0]), f"{what}; {where}")
        return PointRows((torch.tensor(np.stack(columns, 1), dtype=torch.float32),), {}, table=table)

    def decode(self, outputs: Mapping[str, Tensor]) -> Prediction:
        """A column for each field."""
        return Prediction({name: outputs[name].flatten().tolist() for name in self.fields})

    def annotate(self, data: TensorData, prediction: Prediction) -> Prediction:
        """The prediction with the columns of the table, and names that do not occur there."""
        table = getattr(data, "table", None)
        if table is None:
            return prediction
        own = {name: table.cells(name) for name in table.names}
        cells = {}
        for name, column in prediction.cells.items():
            free = name
            while free in own:
                free = f"predicted_{free}"
            cells[free] = column
        return Prediction(cells, own=own)

    def pictures(self, model: Any, split: Split) -> Pictures:
        """Fields of the model beside the reference, and their difference, on the grid."""
        from tasks.physics_figures import fields_beside_reference

        if not isinstance(split, TensorData) or len(split) != math.prod(self.grid) or not split.targets:
            return {}  # points to train on
        outputs = self.outputs(model, Batch(split.inputs, {}))
        panels = {}
        for name in self.fields:
            values, truth = (_column(each).reshape(self.grid) for each in (outputs[name], split.targets[name]))
            if name in self.free_constant:
                values = values - values[~np.isnan(truth)].mean()
                truth = truth - np.nanmean(truth)
            panels[name] = values, truth
        figure = fields_beside_reference(panels, self.coordinates, self.lower, self.upper)
        return {"Fields of the network, the reference, and their difference.": figure}


def _column(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy().reshape(-1)


def _mesh(lower: Sequence[float], upper: Sequence[float], sizes: Sequence[int], shift: float) -> np.ndarray:
    """Points of a grid with its edges; with ``shift=0.5`` the middles of its cells."""
    lines = []
    for low, high, size in zip(lower, upper, sizes, strict=True):
        steps = (np.arange(size) + shift) / (size if shift else max(size - 1, 1))
        lines.append(low + (high - low) * steps)
    return np.stack([axis.ravel() for axis in np.meshgrid(*lines, indexing="ij")], 1)
