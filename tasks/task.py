"""What a task is: data in three splits, and objectives with a criterion and metrics each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from tasks.criteria import Criterion, CrossEntropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torchmetrics import Metric

__all__ = ["Batch", "DataError", "Measure", "Objective", "Prediction", "Splits", "Task", "TensorData", "sample_seed"]


class DataError(RuntimeError):
    """Data that are missing or damaged; the message names the file and what to do."""


class Batch(NamedTuple):
    """``inputs`` go to ``model.features(*inputs)``; ``targets`` hold the labels by objective."""

    inputs: tuple[Tensor, ...]
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class TensorData:
    """A whole split as tensors that share their first dimension, batched by index on whatever device they are on."""

    inputs: tuple[Tensor, ...]
    targets: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batch(self, index: Tensor) -> Batch:
        """The rows of ``index`` (B,)."""
        return Batch(
            tuple(tensor.index_select(0, index) for tensor in self.inputs),
            {name: tensor.index_select(0, index) for name, tensor in self.targets.items()},
        )

    def first(self, count: int) -> TensorData:
        """The first ``count`` samples."""
        return replace(
            self,
            inputs=tuple(t[:count] for t in self.inputs),
            targets={name: t[:count] for name, t in self.targets.items()},
        )

    def to(self, device: torch.device | str) -> TensorData:
        """The same data on ``device``."""
        return TensorData(
            tuple(t.to(device) for t in self.inputs), {name: t.to(device) for name, t in self.targets.items()}
        )


class Splits(NamedTuple):
    """Training, validation (model selection) and test (looked at once) data."""

    train: TensorData | Dataset[Batch]
    val: TensorData | Dataset[Batch]
    test: TensorData | Dataset[Batch]


@dataclass(frozen=True)
class Measure:
    """A metric of one objective.

    Args:
        make: Makes a fresh torchmetrics Metric.
        transform: Applied to predictions and to labels first, e.g. to bring them to another unit.
        higher_is_better: The direction, if it is to be known without making a metric; ``None``: as the metric says.
    """

    make: Callable[[], Metric]
    transform: Callable[[Tensor], Tensor] = field(default=lambda values: values)
    higher_is_better: bool | None = None

    @property
    def direction(self) -> bool:
        """Whether higher is better."""
        return bool(self.make().higher_is_better if self.higher_is_better is None else self.higher_is_better)


@dataclass(frozen=True)
class Objective:
    """One named scalar loss with its metrics.

    Args:
        name: Names the loss, and the model's output.
        criterion: The loss.
        measures: Metrics by name.
        restore: Brings outputs from the unit that is learnt to the one that people use.
    """

    name: str
    criterion: Criterion
    measures: Mapping[str, Measure]
    restore: Callable[[Tensor], Tensor] = field(default=lambda values: values)


@dataclass(frozen=True)
class Prediction:
    """What a model says about N inputs, in words and units that people use.

    Args:
        cells: Column of a table -> N class names or numbers.
        maps: Name -> numbers (N, H, W) or (N, H, W, 3).
        pictures: How some of the maps look: bytes of the same shape, grey or coloured.
        legends: Name of a map -> the table that explains it, column -> values.
    """

    cells: Mapping[str, Sequence[str | float]] = field(default_factory=dict)
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    legends: Mapping[str, Mapping[str, Sequence[str | int]]] = field(default_factory=dict)


def sample_seed(*key: int) -> int:
    """A number in [0, 2^32) for the randomness of a sample: it differs between keys (seed, epoch, index) without a pattern."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class Task:
    """A problem. A subclass sets ``objectives`` and ``facts`` and overrides :meth:`load`; :meth:`losses` where the default
    (one criterion per objective) does not fit.

    Attributes:
        name: Name in the registry.
        objectives: In the order in which they are reported.
        facts: What models may ask for when they are built, e.g. ``in_features``; see :meth:`fact`.
    """

    name: str = "task"
    objectives: tuple[Objective, ...] = ()
    facts: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._splits: Splits | None = None

    def load(self, data_dir: Path) -> Splits:
        """Read the data. Raises DataError if they are missing or damaged."""
        raise TypeError(f"task {self.name} does not load anything")

    def splits(self, data_dir: str | Path = "data") -> Splits:
        """The data, read once. Raises DataError if they are missing or damaged."""
        if self._splits is None:
            self._splits = self.load(Path(data_dir))
        return self._splits

    def shorten(self, count: int) -> Splits:
        """Keep the first ``count`` training samples only, as all three splits: can a model learn them by heart?"""
        if self._splits is None:
            raise RuntimeError(f"task {self.name}: call splits(data_dir) before shorten")
        train = self._splits.train
        count = min(count, len(train))  # type: ignore[arg-type]
        few = train.first(count) if isinstance(train, TensorData) else Subset(train, range(count))
        self._splits = Splits(few, few, few)
        return self._splits

    def place(self, device: torch.device) -> None:
        """Move splits that are tensors to ``device``, once and for all."""
        if self._splits is not None:
            self._splits = Splits(*(part.to(device) if isinstance(part, TensorData) else part for part in self._splits))

    def keep(self, names: Collection[str]) -> None:
        """Leave out the objectives that are not in ``names``, for a model that has fewer.

        Raises ValueError for a name that this task does not know.
        """
        own = tuple(objective.name for objective in self.objectives)
        if not set(names) <= set(own):
            raise ValueError(f"the model has objectives {tuple(names)}, but task {self.name} has {own}")
        self.objectives = tuple(objective for objective in self.objectives if objective.name in names)

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """Loss per objective of ``phase``, and the features that the heads read."""
        features = model.features(*batch.inputs)
        return self.criteria(model.heads(features), batch.targets), features

    def label_counts(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """(K,) for each objective in ``names`` how many labels of ``batch`` its loss is the mean over; samples, if it has none.

        Losses of parts of a batch are put together by these numbers.
        """
        samples = batch.inputs[0].new_tensor(len(batch.inputs[0]), dtype=torch.float32)
        criteria = {o.name: o.criterion for o in self.objectives}
        counts = [criteria[name].count(batch.targets[name]) if name in batch.targets else samples for name in names]
        return torch.stack([count.float() for count in counts])

    def outputs(self, model: Any, batch: Batch) -> Mapping[str, Tensor]:
        """What an evaluation compares with ``batch.targets``."""
        return model(*batch.inputs)

    def results(self) -> dict[str, bool]:
        """Keys of an evaluation, ``<objective>/<metric>`` -> whether higher is better."""
        found = {}
        for o in self.objectives:
            found[f"{o.name}/loss"] = False
            found |= {f"{o.name}/{key}": m.direction for key, m in o.measures.items()}
        return found

    def evaluate(self, model: Any, split_name: str, batches: Iterable[Batch]) -> dict[str, float] | None:
        """Values for keys of :meth:`results`, for a task whose results are not sums over samples; ``None``: losses and measures.

        ``model`` is in eval mode, and no gradients are recorded.
        """
        return None

    def pictures(self, model: Any, split: TensorData | Dataset[Batch]) -> dict[str, Figure]:
        """Sample predictions for the report, caption -> figure. ``model`` is in eval mode."""
        return {}

    def learnt(self) -> dict[str, Any]:
        """What :meth:`read` and :meth:`describe` know from the training data, in containers that JSON can hold."""
        return {}

    def recall(self, learnt: Mapping[str, Any]) -> None:
        """Inverse of :meth:`learnt`, for a task that reads new inputs and whose training data are not there."""

    def read(self, path: Path) -> TensorData:
        """A file of the user as inputs, prepared like those of the splits; it has no targets.

        Raises DataError naming the file and what is wrong with it.
        """
        raise DataError(f"task {self.name} does not say how to read {path}; give it a method read")

    def describe(self, outputs: Mapping[str, Tensor]) -> Prediction:
        """Outputs for one batch, on the CPU: names of the most likely classes with their probabilities, and numbers."""
        cells: dict[str, Sequence[str | float]] = {}
        for o in self.objectives:
            if o.name not in outputs:
                continue
            if isinstance(o.criterion, CrossEntropy):
                shares, labels = outputs[o.name].softmax(1).max(1)
                cells[o.name] = [o.criterion.classes[label] for label in labels.tolist()]
                cells[f"{o.name}_probability"] = shares.tolist()
            else:
                cells[o.name] = o.restore(outputs[o.name]).flatten().tolist()
        return Prediction(cells)

    def criteria(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each objective's criterion."""
        return {o.name: o.criterion(outputs[o.name], targets[o.name]) for o in self.objectives}

    def initial_losses(self) -> dict[str, float]:
        """Expected losses of an untrained model on the training labels (log K; mean square)."""
        return {o.name: o.criterion.initial(self._train_labels(o.name)) for o in self.objectives}

    def prior_losses(self) -> dict[str, float]:
        """Losses of the best constant prediction on the training labels (entropy; variance)."""
        return {o.name: o.criterion.prior(self._train_labels(o.name)) for o in self.objectives}

    def fact(self, name: str) -> Any:
        """What a config value ``auto`` stands for. Raises KeyError if this task has no such fact."""
        if name in ("initial_losses", "prior_losses"):
            return getattr(self, name)()
        if name == "classification":
            return tuple(o.name for o in self.objectives if o.criterion.kind == "classification")
        return self.facts[name]

    def _train_labels(self, objective: str) -> Tensor:
        if self._splits is None:
            raise RuntimeError(f"task {self.name}: call splits(data_dir) before asking about its labels")
        train = self._splits.train
        targets = getattr(train, "targets", None)
        if targets is not None:  # in memory: no sample has to be read
            return targets[objective]
        return torch.stack([train[i].targets[objective] for i in range(len(train))])  # type: ignore[arg-type, index]
