"""One data set per objective: several tasks as one; a sample has the labels of its source.

    photos of species  ----> batch of photos, target species ----+
                                                                 |--> one model with a head for each objective
    portraits with ages ---> batch of portraits, target age -----+

The inputs of all sources must have the same shape, as one model reads them. A step holds samples of one source, whose objectives
alone are present in it, or of all sources. Validation and test hold the samples of all, and each objective is measured on those of
its own source.

Sampling by temperature: N. Arivazhagan et al., "Massively Multilingual Neural Machine Translation in the Wild", 2019,
arXiv 1907.05019.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from balancing.choices import raise_for_choice
from tasks.batch_order import BatchOrder, Turns
from tasks.criteria import Criterion
from tasks.dense_task import DenseTask
from tasks.dense_windows import Windows
from tasks.map_kinds import model_info
from tasks.registry import create_task, register_task, task_arguments
from tasks.task import Batch, DataError, Objective, Pictures, Prediction, Split, Splits, Task, TensorData

_FEW = "union: name two sources or more: 'task.sources={photos: {name: image_table, csv: a.csv, ...}, faces: {...}}'"


class UnionData(Dataset[Batch]):
    """Samples of several sources, one source after the other.

    Args:
        parts: Source -> its split.
        missing: Objective -> the label of a sample of another source.
        order: Of the batches in training.
    """

    def __init__(
        self, parts: Mapping[str, Split], missing: Mapping[str, Tensor], order: BatchOrder | None = None
    ) -> None:
        self.parts, self.missing, self.order = dict(parts), dict(missing), order
        self._ends = list(accumulate(len(part) for part in parts.values()))  # type: ignore[arg-type]
        #: Objectives of which a batch may hold no label.
        self.sparse = frozenset(missing)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"no sample {index} among {len(self)}")
        source = bisect_right(self._ends, index)
        part = list(self.parts.values())[source]
        inputs, targets = _sample(part, index - (self._ends[source - 1] if source else 0))
        return Batch(tuple(inputs), {**self.missing, **targets})

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Augment as in ``epoch`` of a run with ``seed``."""
        for part in self.parts.values():
            if hasattr(part, "set_epoch"):
                part.set_epoch(seed, epoch)

    def reference_targets(self, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """Labels of the objectives, each of its own source, in ``rows``."""
        found: dict[str, Tensor] = {}
        for end, part in zip(self._ends, self.parts.values(), strict=True):
            size = len(part)  # type: ignore[arg-type]
            own = [row - (end - size) for row in rows if end - size <= row < end]
            if own and hasattr(part, "reference_targets"):
                found |= part.reference_targets(own)
            elif own:
                found |= {name: labels[own] for name, labels in _labels(part).items()}
        return found


@register_task("union")
class Union(Task):
    """Several tasks as one, with data of their own for their objectives.

    Args:
        sources: Name -> ``{name: task, option: value, ...}``; of each, only what differs from its defaults is needed.
        turns: How often each source has its turn: ``proportional``, ``temperature``, ``round_robin`` or ``until_exhausted``; see
            :class:`tasks.batch_order.BatchOrder`.
        temperature: With ``turns=temperature``, at least 1.
        per_step: Whether a training batch holds samples of ``one`` source or of ``all``.

    Raises:
        ValueError: Fewer than two sources, an objective of the same name in two, or a task that is no set of labelled samples.
    """

    def __init__(
        self,
        sources: Mapping[str, Any] | None = None,
        turns: Turns = "proportional",
        temperature: float = 2.0,
        per_step: Literal["one", "all"] = "one",
    ) -> None:
        if sources is not None and len(sources) < 2:
            raise ValueError(_FEW)
        if not temperature >= 1:
            raise ValueError(f"union: temperature must be at least 1, got {temperature}")
        self.turns, self.temperature, self.per_step = turns, temperature, per_step
        self.sources = {name: _create(name, options) for name, options in (sources or {}).items()}
        owners: dict[str, str] = {}
        for source, task in self.sources.items():
            for objective in task.objectives:
                if objective.name in owners:
                    both = f"{owners[objective.name]} and {source}"
                    raise ValueError(
                        f"union: {both} both have an objective {objective.name!r}; rename one of the columns"
                    )
                owners[objective.name] = source
        self.owners = owners
        self._describe()

    def load(self, data_dir: Path) -> Splits:
        """Read all sources. Raises DataError if their inputs have different shapes."""
        if not self.sources:
            raise DataError(_FEW)
        loaded = {name: task.splits(data_dir) for name, task in self.sources.items()}
        shapes = {name: tuple(tuple(x.shape) for x in _sample(splits.val, 0).inputs) for name, splits in loaded.items()}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{name} {' '.join(map(str, shape))}" for name, shape in shapes.items())
            raise DataError(f"union: one model reads all sources, but their inputs have different shapes: {told}")
        samples = {name: _sample(splits.val, 0).targets for name, splits in loaded.items()}
        criteria = {o.name: o.criterion for o in self.objectives}
        missing = {
            key: _missing_label(key, criteria[key], label)
            for labels in samples.values()
            for key, label in labels.items()
        }
        sizes = [len(splits.train) for splits in loaded.values()]  # type: ignore[arg-type]
        order = BatchOrder(sizes, self.turns, self.temperature, self.per_step)

        def together(part: str, order: BatchOrder | None = None) -> Split:
            pieces = {name: getattr(splits, part) for name, splits in loaded.items()}
            return _joined(pieces, missing, order)

        state = {"sources": {name: dict(splits.state) for name, splits in loaded.items()}}
        notes = tuple(f"{name}: {note}" for name, splits in loaded.items() for note in splits.notes)
        return Splits(together("train", order), together("val"), together("test"), state=state, notes=notes)

    def state_dict(self) -> dict[str, Any]:
        """State of each source."""
        return {"sources": {name: task.state_dict() for name, task in self.sources.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of each source."""
        super().load_state_dict(state)
        for name, own in state["sources"].items():
            if own:
                self.sources[name].load_state_dict(own)
        self._describe()

    def auto_value(self, name: str, splits: Splits) -> Any:
        """As for all tasks; else what all sources say alike, such as the size of pictures with maps."""
        try:
            return super().auto_value(name, splits)
        except KeyError:
            states = splits.state["sources"]
            said = {
                key: task.auto_value(name, replace(splits, state=states[key])) for key, task in self.sources.items()
            }
        first = next(iter(said.values()))
        for source, value in said.items():
            _check_equal(name, source, value, first)
        return first

    def for_model(self, arguments: Collection[str]) -> Self:
        """With what the sources say to such a model."""
        task = copy.copy(self)
        task.info = self._merged_info({name: source.for_model(arguments) for name, source in self.sources.items()})
        return task

    def preprocess(self, path: Path) -> TensorData:
        """A file that the first source, or else a later one, can read."""
        problems = []
        for task in self.sources.values():
            try:
                return task.preprocess(path)
            except DataError as error:
                problems.append(str(error))
        raise DataError(f"union: no source can read {path}: {'; '.join(dict.fromkeys(problems))}")

    def annotate(self, data: TensorData, prediction: Prediction) -> Prediction:
        """What the source does that knows this kind of data."""
        for task in self.sources.values():
            if (annotated := task.annotate(data, prediction)) is not prediction:
                return annotated
        return prediction

    def decode(self, outputs: Mapping[str, Tensor]) -> Prediction:
        """What each source makes of its own outputs."""
        return self._decoded(outputs, lambda task, own: task.decode(own))

    def decode_windows(self, windows: Windows, outputs: Mapping[str, Tensor]) -> Prediction:
        """The same of a picture, with maps in its size."""
        center = slice(windows.center, windows.center + 1)

        def decode(task: Task, own: Mapping[str, Tensor]) -> Prediction:
            if isinstance(task, DenseTask):
                return task.decode_windows(windows, own)
            return task.decode({name: values[center] for name, values in own.items()})

        return self._decoded(outputs, decode)

    def _decoded(
        self, outputs: Mapping[str, Tensor], decode: Callable[[Task, Mapping[str, Tensor]], Prediction]
    ) -> Prediction:
        whole = Prediction()
        for source, task in self.sources.items():
            own = {name: values for name, values in outputs.items() if self.owners[name] == source}
            part = decode(task, own) if own else whole
            fields = ("cells", "maps", "pictures", "legends")
            merged: Any = {name: {**getattr(whole, name), **getattr(part, name)} for name in fields}
            whole = Prediction(**merged)
        return whole

    def pictures(self, model: Any, split: Split) -> Pictures:
        """Those of each source."""
        if not isinstance(split, UnionData):
            return {}
        return {
            f"{name}: {caption}": figure
            for name, task in self.sources.items()
            for caption, figure in task.pictures(model, split.parts[name]).items()
        }

    def _describe(self) -> None:
        """Set ``info``, and the objectives, of which every sample of another source lacks the label."""
        self.info = self._merged_info(self.sources)
        kept = {o.name for o in self.objectives} or {*self.owners}
        objectives = [o for task in self.sources.values() for o in task.objectives if o.name in kept]
        self.objectives = tuple(map(_incomplete, objectives))

    def _merged_info(self, tasks: Mapping[str, Task]) -> dict[str, Any]:
        """Facts of all sources; those of maps are told together, as their form depends on all names."""
        told = {name: task.info for name, task in tasks.items()}
        maps = [task.maps for task in tasks.values() if isinstance(task, DenseTask)]
        if not maps:
            return _merged(told)
        together = model_info({name: kind for own in maps for name, kind in own.items()})
        others = {name: {k: v for k, v in own.items() if k not in together} for name, own in told.items()}
        return {**_merged(others), **together}


def _create(source: str, options: Mapping[str, Any]) -> Task:
    name = options.get("name") if isinstance(options, Mapping) else None
    if not isinstance(name, str):
        raise ValueError(f"union: source {source!r} must be a mapping with the name of a task, got {options!r}")
    given = {str(key): value for key, value in options.items() if key != "name"}
    known = task_arguments(name)
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"union: source {source!r}: task {name} has no option {key!r}; it has {', '.join(known)}")
        raise_for_choice(f"union: source {source!r}", key, value, known[key].annotation)
    if name == "table":
        raise ValueError(
            f"union: source {source!r} is a table, and numbers and categories of two tables would have two meanings; put the rows of "
            "all tables into one, with empty cells for labels that a row lacks: task=table"
        )
    try:
        task = create_task(name, **given)
    except ValueError as error:
        raise ValueError(f"union: source {source!r}: {error}") from None
    for method in ("losses", "outputs", "evaluate"):
        if getattr(type(task), method) is not getattr(Task, method):
            raise ValueError(
                f"union: source {source!r}: task {name} has steps of its own, and cannot be one of several"
            )
    return task


def _sample(split: Split, index: int) -> Batch:
    if not isinstance(split, TensorData):
        return split[index]
    batch = split.batch(torch.tensor([index]))
    return Batch(tuple(x[0] for x in batch.inputs), {name: y[0] for name, y in batch.targets.items()})


def _labels(split: Split) -> Mapping[str, Tensor]:
    return Splits(split, split, split).train_labels()


def _incomplete(objective: Objective) -> Objective:
    complete = getattr(objective.criterion, "complete", False)
    return replace(objective, criterion=replace(objective.criterion, complete=False)) if complete else objective  # type: ignore[type-var]


def _missing_label(name: str, criterion: Criterion, label: Tensor) -> Tensor:
    """A label of the same shape that the criterion does not count."""
    for value in (math.nan, -1, 0) if label.is_floating_point() else (-1, 0):
        missing = torch.full_like(label, value)
        if int(criterion.num_labels(missing[None])) == 0:
            return missing
    raise DataError(f"union: the criterion of {name!r} knows no missing labels, and samples of other sources have none")


def _joined(parts: Mapping[str, Split], missing: Mapping[str, Tensor], order: BatchOrder | None) -> Split:
    """The samples of all parts: as tensors if they are such, which are read faster."""
    tables = [part for part in parts.values() if isinstance(part, TensorData)]
    if len(tables) < len(parts):
        return UnionData(parts, missing, order)
    inputs = tuple(map(torch.cat, zip(*(table.inputs for table in tables), strict=True)))
    targets = {
        name: torch.cat([t.targets.get(name, label.expand(len(t), *label.shape)) for t in tables])
        for name, label in missing.items()
    }
    return TensorData(inputs, targets, order)


def _merged(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of all sources. Raises ValueError where they contradict each other."""
    merged: dict[str, Any] = {}
    for source, own in facts.items():
        for key, value in own.items():
            former = merged.get(key, value)
            if isinstance(value, Mapping):
                merged[key] = {**former, **value}
            elif isinstance(value, tuple):
                merged[key] = tuple(dict.fromkeys([*former, *value]))
            else:
                _check_equal(key, source, value, former)
                merged[key] = value
    return merged


def _check_equal(key: str, source: str, value: Any, former: Any) -> None:
    if value != former:
        raise ValueError(
            f"union: one model reads all sources, but {key} is {value} in {source!r} and {former} before; make them equal"
        )
