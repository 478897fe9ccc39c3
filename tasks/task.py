"""Task: objectives, data in three splits, and how inputs and outputs are presented."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from tasks.criteria import Criterion, decode_output
from tasks.metrics import MetricSpec, identity
from tasks.results import ResultKey

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DataError(RuntimeError):
    """Data that are missing or damaged; the message names the file and what to do."""


class Batch(NamedTuple):
    """``inputs`` go to ``model.features(*inputs)``; ``targets`` hold the labels by objective."""

    inputs: tuple[Tensor, ...]
    targets: dict[str, Tensor]


class Order(Protocol):
    """Which samples make up each training batch."""

    def count(self, batch_size: int) -> int:
        """Number of batches in an epoch."""

    def batches(self, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
        """The (B,) indices of every batch of an epoch, a function of seed and epoch alone."""


@dataclass(frozen=True)
class TensorData:
    """A split as tensors that share their first dimension; batched by index, on any device.

    ``order`` has methods ``count`` and ``batches`` like :class:`tasks.batch_order.BatchOrder`; ``None``: shuffled as a whole.
    """

    inputs: tuple[Tensor, ...]
    targets: dict[str, Tensor]
    order: Order | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batch(self, index: Tensor) -> Batch:
        """The rows of ``index`` (B,)."""
        targets = {name: labels.index_select(0, index) for name, labels in self.targets.items()}
        return Batch(tuple(tensor.index_select(0, index) for tensor in self.inputs), targets)

    def first(self, count: int) -> TensorData:
        """The first ``count`` samples."""
        return replace(self._map(lambda tensor: tensor[:count]), order=None)

    def to(self, device: torch.device | str) -> TensorData:
        """The same data on ``device``."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        targets = {name: change(tensor) for name, tensor in self.targets.items()}
        return replace(self, inputs=tuple(map(change, self.inputs)), targets=targets)


Split = TensorData | Dataset[Batch]
Pictures = dict[str, "Figure"]  # by caption


@dataclass(frozen=True, eq=False)
class Splits:
    """Data in three parts, over which an instance iterates: ``train, val, test = splits``.

    Args:
        train: To train on.
        val: To select the best epoch on.
        test: Evaluated once, with the weights of that epoch.
        state: Preprocessing state from the training data, which JSON can hold; see :meth:`Task.load_state_dict`.
        notes: What is in the data, in lines for the start of a run.
    """

    train: Split
    val: Split
    test: Split
    state: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, self.val, self.test))

    def truncate(self, count: int) -> Splits:
        """The first ``count`` training samples as all three parts: can a model fit them exactly?"""
        count = min(count, len(self.train))  # type: ignore[arg-type]
        part = self.train.first(count) if isinstance(self.train, TensorData) else Subset(self.train, range(count))
        return replace(self, train=part, val=part, test=part)

    def to(self, device: torch.device | str) -> Splits:
        """The same splits, with tensors on ``device``."""
        train, val, test = (part.to(device) if isinstance(part, TensorData) else part for part in self)
        return replace(self, train=train, val=val, test=test)

    def train_labels(self) -> Mapping[str, Tensor]:
        """Labels of the training data by objective.

        A data set with a method ``reference_targets(rows)`` gives those of a sample of its rows.
        """
        train = self.train
        data, rows = (train.dataset, train.indices) if isinstance(train, Subset) else (train, range(len(train)))  # type: ignore[arg-type]
        if hasattr(data, "reference_targets"):
            return data.reference_targets(rows)  # type: ignore[union-attr]
        if hasattr(train, "targets"):  # in memory: no sample has to be read
            return train.targets
        samples = [train[i].targets for i in range(len(rows))]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


@dataclass(frozen=True)
class Objective:
    """One named scalar loss with its metrics.

    Args:
        name: Names the loss, and the model's output.
        criterion: The loss.
        metrics: Metrics by name.
        inverse_transform: Converts numbers from the unit of the training targets to that of the data.
        unit: That of the data, for figures; they show the training targets if it is empty.
    """

    name: str
    criterion: Criterion
    metrics: Mapping[str, MetricSpec]
    inverse_transform: Callable[[Tensor], Tensor] = identity
    unit: str = ""


@dataclass(frozen=True)
class Prediction:
    """A model's outputs for N inputs, as class names and in the units of the data.

    Args:
        cells: Column of a table -> N class names or numbers.
        maps: Name -> numbers (N, H, W) or (N, H, W, 3).
        pictures: Rendering of some of the maps: bytes of the same shape, gray or colored.
        legends: Name of a map -> the table that explains it, column -> values.
        own: Columns of the user's table, which come before the cells.
        notes: What the user should know of the inputs, in lines.
    """

    cells: Mapping[str, Sequence[str | float]] = field(default_factory=dict)
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    legends: Mapping[str, Mapping[str, Sequence[str | int]]] = field(default_factory=dict)
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def sample_seed(*key: int) -> int:
    """Seed in [0, 2^32) of a sample's randomness, a hash of ``key``, e.g. (seed, epoch, index)."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class Task:
    """A problem: objectives, data, and the presentation of inputs and outputs.

    A subclass sets ``objectives`` and ``info`` and overrides :meth:`load`; :meth:`losses` where the default (one criterion
    per objective) does not fit. Nothing of a task changes after that but its preprocessing state, by
    :meth:`load_state_dict`. Data are separate, frozen objects: :class:`Splits`. All tasks raise ValueError, naming the
    argument, for an option out of range, and DataError for data that are missing or damaged.

    Attributes:
        name: Name in the registry.
        objectives: In the order in which they are reported.
        info: Values of ``auto`` for options of models, e.g. ``in_features``; see :meth:`auto_value`.
        derivatives: Whether losses hold derivatives of the model with respect to its inputs.
        separate: Whether each objective has samples of its own.
        data_source: The public data and their licence, in words for cards of weights; empty for files of a user.
    """

    name: str = "task"
    objectives: tuple[Objective, ...] = ()
    info: Mapping[str, Any] = {}
    derivatives: bool = False
    separate: bool = False
    data_source: str = ""
    _state: Mapping[str, Any] = {}
    _loaded: tuple[Path, Splits] | None = None

    def restrict(self, names: Collection[str]) -> Self:
        """The same task with the objectives in ``names`` only, for a model that has fewer.

        Raises ValueError for a name that this task does not have.
        """
        own = tuple(objective.name for objective in self.objectives)
        if not set(names) <= set(own):
            raise ValueError(f"the model has objectives {tuple(names)}, but task {self.name} has {own}")
        task = copy.copy(self)

        def moved(function: Any) -> Any:
            """A method of this task as one of the restricted task, whose state it must see."""
            return MethodType(function.__func__, task) if getattr(function, "__self__", None) is self else function

        def own_objective(o: Objective) -> Objective:
            metrics = {
                key: replace(m, make=moved(m.make), transform=moved(m.transform)) for key, m in o.metrics.items()
            }
            return replace(o, metrics=metrics, inverse_transform=moved(o.inverse_transform))

        task.objectives = tuple(own_objective(o) for o in self.objectives if o.name in names)
        return task

    def auto_value(self, name: str, splits: Splits) -> Any:
        """Value that ``auto`` stands for as option ``name``. Raises KeyError if there is none."""
        if name == "initial_losses":
            return self.initial_losses(splits)
        if name == "prior_losses":
            return self.prior_losses(splits)
        if name == "classification":
            return tuple(o.name for o in self.objectives if o.criterion.kind == "classification")
        if name in ("categories", "labels"):  # which few tasks have
            return self.info.get(name, {} if name == "labels" else ())
        return self.info[name]

    def for_model(self, arguments: Collection[str]) -> Self:
        """The task as :meth:`auto_value` describes it to a model with these arguments.

        To one that takes maps beside classifiers and regressors it says of each whether there are some.
        """
        if not {"maps", "classifiers"} <= {*arguments}:
            return self
        task = copy.copy(self)
        labels = self.info.get("labels", {})
        task.info = {"maps": (), "segmentation_classes": None, "classifiers": labels, "regressors": {}, **self.info}
        return task

    # ---- data --------------------------------------------------------------------------------------------------------

    def load(self, data_dir: Path) -> Splits:
        """Read the data. Raises DataError if they are missing or damaged."""
        raise TypeError(f"task {self.name} does not load anything")

    def splits(self, data_dir: str | Path | None = None) -> Splits:
        """The data, read once; the task takes over their preprocessing state.

        A task that has the state of a trained model prepares the data with that.

        Args:
            data_dir: Folder of data sets; ``None``: that of the first call, or else ``data``.

        Raises:
            DataError: Data are missing or damaged, contradict the state, or this task has read those of another folder.
        """
        if self._loaded is None:
            folder = Path("data" if data_dir is None else data_dir)
            splits = self.load(folder)
            if splits.state:
                self.load_state_dict(splits.state)
            self._loaded = folder, splits
        folder, splits = self._loaded
        if data_dir is not None and Path(data_dir).resolve() != folder.resolve():
            raise DataError(
                f"task {self.name} has read its data from {folder} and cannot read others from {data_dir}; "
                "create another task for them"
            )
        return splits

    def labelled(self, path: Path) -> Splits:
        """Another file with labels, prepared with the state of a trained model, as all three parts.

        Raises DataError if it is damaged, or has what the state does not know.
        """
        raise DataError(f"task {self.name} has no table to change for another; leave task.csv out")

    def use_labelled(self, path: Path, data_dir: str | Path) -> None:
        """Make :meth:`splits` return another file with labels; see :meth:`labelled`."""
        self._loaded = Path(data_dir), self.labelled(path)

    def state_dict(self) -> dict[str, Any]:
        """What a trained model knows of its data, as JSON can hold it.

        :meth:`preprocess` and :meth:`decode` need no more.
        """
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a trained model's task, whose training data may not be there."""
        self._state = state

    def initial_losses(self, splits: Splits) -> dict[str, float]:
        """Expected losses of an untrained model on the training labels (log K; mean square)."""
        labels = self.train_labels(splits)
        return {o.name: o.criterion.untrained_loss(labels[o.name]) for o in self.objectives}

    def prior_losses(self, splits: Splits) -> dict[str, float]:
        """Losses of the best constant prediction on the training labels (entropy; variance)."""
        labels = self.train_labels(splits)
        return {o.name: o.criterion.constant_loss(labels[o.name]) for o in self.objectives}

    def train_labels(self, splits: Splits) -> Mapping[str, Tensor]:
        """Labels of the training data by objective, or of a sample of them."""
        return splits.train_labels()

    # ---- training and evaluation -------------------------------------------------------------------------------------

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """Loss per objective of ``phase``, and the features that the heads read."""
        features = model.features(*batch.inputs)
        return self.criteria(model.heads(features), batch.targets), features

    def criteria(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each objective's criterion."""
        return {o.name: o.criterion(outputs[o.name], targets[o.name]) for o in self.objectives}

    def label_counts(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """(K,) numbers of labels that the losses in ``names`` average; samples, without labels.

        Losses of parts of a batch are averaged with these weights.
        """
        samples = batch.inputs[0].new_tensor(len(batch.inputs[0]), dtype=torch.float32)
        criteria, labels = {o.name: o.criterion for o in self.objectives}, batch.targets
        counts = [criteria[name].num_labels(labels[name]) if name in labels else samples for name in names]
        return torch.stack([count.float() for count in counts])

    def outputs(self, model: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Outputs that an evaluation compares with ``batch.targets``."""
        return model(*batch.inputs)

    def results(self) -> dict[str, bool]:
        """Keys of an evaluation, ``<objective>/<metric>`` -> whether higher is better."""
        directions = {}
        for o in self.objectives:
            directions[ResultKey(o.name, "loss").name] = False
            directions |= {ResultKey(o.name, key).name: metric.direction for key, metric in o.metrics.items()}
        return directions

    def evaluate(
        self, model: Any, splits: Splits, split_name: str, batches: Iterable[Batch]
    ) -> dict[str, float] | None:
        """Results that are not sums over samples; ``None`` for losses and metrics.

        ``model`` is in eval mode, and no gradients are recorded. ``batches`` are those of ``splits.<split_name>``.
        """
        return None

    # ---- presentation ------------------------------------------------------------------------------------------------

    def preprocess(self, path: Path) -> TensorData:
        """A user's file as inputs, prepared like those of the splits; it has no targets.

        Raises DataError naming the file and what is wrong with it.
        """
        raise DataError(f"task {self.name} does not say how to read {path}; give it a method preprocess")

    def decode(self, outputs: Mapping[str, Tensor]) -> Prediction:
        """Outputs of a batch, on the CPU, as classes with their probabilities, and as numbers."""
        cells: dict[str, Sequence[str | float]] = {}
        for o in self.objectives:
            if o.name in outputs:
                cells |= decode_output(o.criterion, o.name, outputs[o.name], o.inverse_transform)
        return Prediction(cells)

    def annotate(self, data: TensorData, prediction: Prediction) -> Prediction:
        """The prediction for what :meth:`preprocess` read, with columns of the file itself."""
        return prediction

    def pictures(self, model: Any, split: Split) -> Pictures:
        """Sample predictions for the report. ``model`` is in eval mode."""
        return {}

    def _update_objectives(self, objectives: Iterable[Objective]) -> None:
        """Replace objectives by those of the same names; for :meth:`load_state_dict`."""
        updated = {objective.name: objective for objective in objectives}
        self.objectives = tuple(updated.get(objective.name, objective) for objective in self.objectives)
