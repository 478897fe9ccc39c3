"""Your own table: a CSV or Parquet file, or a data frame, with any columns as objectives.

    customer,age,city,joined,churn,spend,tags
    C1,31,Oslo,2024-03-01,no,120.5,vip;mail
    C2,,Bergen,2025-11-12,yes,18,

Columns that are no objectives are inputs: numbers, dates and categories, recognized by their cells. Missing numbers are filled
in, with an input that says so; rare and unseen categories are one. Models of the zoo embed categories; others get indicators. An
empty label is missing: the row still trains the other objectives. What was taken from the training rows is the run's.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.criteria import choose_criteria
from tasks.registry import register_task
from tasks.table_files import MISSING, SimilarClasses, TextTable, missing_spellings
from tasks.table_frames import read_any
from tasks.table_inputs import (
    CategoryInput,
    Impute,
    Input,
    InputType,
    NumberInput,
    Reader,
    Settings,
    describe_cells,
    encode_inputs,
    fit_input,
    infer_type,
    input_state,
    restore_input,
)
from tasks.table_labels import (
    Label,
    check_labelled,
    choose_labels,
    fit_label,
    infer_kind,
    known_rows,
    label_note,
)
from tasks.table_splits import (
    PARTS,
    Shares,
    SplitRule,
    check_shares,
    check_unchanged,
    difference,
    fingerprint,
    row_keys,
    split_rows,
)
from tasks.task import Batch, DataError, Pictures, Prediction, Split, Splits, Task, TensorData


@dataclass(frozen=True)
class TableRows(TensorData):
    """Rows of a user's table as inputs, with the table itself, and remarks on its cells."""

    table: TextTable | None = field(default=None, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)


@register_task("table")
class Table(Task):
    """A table of your own, with the objectives that you name.

    Args:
        csv: A CSV or Parquet file.
        objectives: Column -> what its cells mean: ``classes``, ``ordered``, ``tags``, ``number`` or ``count``, or a mapping with
            this ``kind`` and options (``log`` of a number; ``order``; ``separator`` and ``empty`` of tags). Or one column, or a list:
            columns as their cells suggest, ``column: kind``, or mappings with ``column`` and these keys.
        types: Input column -> ``number``, ``category`` or ``date``, where the cells suggest another one.
        ignore: Columns that are neither inputs nor objectives.
        criteria: Objective -> criterion, a name or a mapping with a name and options; see docs/adding.md.
        missing: Spellings of a missing cell, besides an empty one.
        similar_classes: Classes that differ in case or spelling of numbers only: ``refuse``, ``join`` or ``keep``.
        min_count: Training rows that a category needs; rarer ones are one category, with those that are not seen in training.
        impute: What takes the place of a missing number: ``median`` or ``mean`` of the training rows.
        split: For a table without a column ``split``: ``random``, ``stratified`` by classes, by ``group`` or by ``time``.
        split_by: Column of the classes, groups or times; for ``stratified`` also ``None``: the first objective with classes.
        val_share: Share of the rows to validate on.
        test_share: Share of the rows to test on.
        split_seed: Seed of that split.
        frame: A data frame of pandas or polars instead of a file, in Python.

    Raises:
        ValueError: A value out of range, a column in two roles, or an unknown criterion.
    """

    def __init__(
        self,
        csv: str | None = None,
        objectives: Mapping[str, str | Mapping[str, Any]] | Sequence[str | Mapping[str, Any]] | str | None = None,
        types: Mapping[str, InputType] | None = None,
        ignore: Sequence[str] = (),
        criteria: Mapping[str, str | Mapping[str, Any]] | None = None,
        missing: Sequence[str] = MISSING[1:],
        similar_classes: SimilarClasses = "refuse",
        min_count: int = 10,
        impute: Impute = "median",
        split: SplitRule = "random",
        split_by: str | None = None,
        val_share: float = 0.15,
        test_share: float = 0.15,
        split_seed: int = 0,
        frame: Any = None,
    ) -> None:
        self.shares = Shares(val_share, test_share)
        check_shares("table", self.shares)
        if csv is not None and frame is not None:
            raise ValueError("table: give either csv or frame, not both")
        if min_count < 1:
            raise ValueError(f"table: min_count must be at least 1, got {min_count}")
        self.csv, self.frame, self.ignore, self.similar_classes = csv, frame, tuple(ignore), similar_classes
        self.types: Mapping[str, InputType] = types or {}
        self.settings = Settings(missing_spellings(missing), impute, min_count)
        self.split, self.split_by, self.split_seed = split, split_by, split_seed
        self.labels = choose_labels("table", objectives)
        self.chosen = choose_criteria("task.criteria", criteria or {}, self.labels)
        for name, chosen in self.chosen.items():
            kind = self.labels[name].kind
            if kind is not None:
                chosen.build(kind, classes=())
        for column, wanted in self.types.items():
            if wanted not in get_args(InputType):
                raise ValueError(f"table: types.{column} must be number, category or date, got {wanted!r}")
        label_columns = [choice.column for choice in self.labels.values()]
        for column in (*self.ignore, *self.types):
            if column in label_columns or (column in self.ignore and column in self.types):
                raise ValueError(f"table: {column!r} is named in two of objectives, types and ignore; keep one")
        self._inputs: tuple[Input, ...] = ()
        self._labels: tuple[Label, ...] = ()

    # ---- data --------------------------------------------------------------------------------------------------------

    def load(self, data_dir: Path) -> Splits:
        """Read the table, fit inputs and labels to its training rows; ``data_dir`` is not needed."""
        table = self._read()
        reader = Reader(table, self.settings)
        columns = self._input_columns(table)
        if self._state:
            check_unchanged(table, self._fingerprinted(table, columns), self._state["table"])
        parts = self._parts(reader, columns)
        if self._state:
            return self._splits(reader, self._inputs, self._labels, parts)
        inputs, left_out = self._fit_inputs(reader, columns, parts["train"])
        labels = [
            fit_label(reader, name, choice, self.chosen.get(name), parts["train"], self.similar_classes)
            for name, choice in self.labels.items()
        ]
        return self._splits(
            reader, inputs, labels, parts, left_out, fingerprint(table, self._fingerprinted(table, columns))
        )

    def labelled(self, path: Path) -> Splits:
        """The rows of another table, prepared as in training, as all three parts.

        The parts of training, if it is the same table in another place.
        """
        table = self._table(str(path))
        reader = Reader(table, self.settings)
        for column in self._inputs:
            table.column(column.name)
        columns = self._input_columns(table)
        if not difference(table, self._fingerprinted(table, columns), self._state["table"]):
            splits = self._splits(reader, self._inputs, self._labels, self._parts(reader, columns))
            return replace(splits, notes=(f"{table.source} is the table of the run, whose parts are kept",))
        rows = np.arange(len(table))
        splits = self._splits(reader, self._inputs, self._labels, dict.fromkeys(PARTS, rows))
        notes = [*describe_cells(reader, self._inputs), self._trained_rows(splits.test)]
        return replace(splits, notes=tuple(filter(None, notes)))

    def _trained_rows(self, rows: Split) -> str:
        """How many rows are also training rows, in words; "" if none is."""
        fresh = copy.copy(self)
        try:
            train = fresh.load(Path()).train
        except DataError as error:
            return f"whether rows were trained on cannot be told: {error}"
        known = set(_row_bytes(train))
        count = sum(row in known for row in _row_bytes(rows))
        if not count:
            return ""
        share = f"{count:,} of {len(rows):,} rows have the inputs and labels of a training row"  # type: ignore[arg-type]
        return f"{share}; such rows say little about new ones"

    def _splits(
        self,
        reader: Reader,
        inputs: Sequence[Input],
        labels: Sequence[Label],
        parts: Mapping[str, np.ndarray],
        left_out: Mapping[str, str] | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> Splits:
        """Tensors of the parts; ``left_out``: columns with reasons, ``seen``: a fingerprint."""
        table = reader.table
        targets = {label.name: label.targets(reader, self.similar_classes) for label in labels}
        for label in labels:
            known = known_rows(targets[label.name])
            for part, rows in parts.items():
                check_labelled(label, known[torch.from_numpy(rows)], part, f"table: {table.source}")
        tensors = self._tensors(reader, inputs)

        def part_of(part: str) -> TensorData:
            rows = torch.from_numpy(parts[part])
            own = {name: values.index_select(0, rows) for name, values in targets.items()}
            return TensorData(tuple(tensor.index_select(0, rows) for tensor in tensors), own)

        state = {
            "inputs": [input_state(column) for column in inputs],
            "labels": [label.state() for label in labels],
            "table": seen or self._state["table"],
        }
        notes = _notes(table, inputs, labels, left_out or {}, targets, parts)
        return Splits(*map(part_of, PARTS), state=state, notes=tuple(notes))

    def _fit_inputs(
        self, reader: Reader, columns: Sequence[str], train: np.ndarray
    ) -> tuple[list[Input], dict[str, str]]:
        """Inputs, and the reasons for which other columns are none."""
        table = reader.table
        types = {table.column(name): kind for name, kind in self.types.items()}
        for name in types:
            if name not in columns:
                raise DataError(f"table: task.types names {name!r}, which is no input; leave it out")
        inputs, left_out = [], {}
        for name in columns:
            kind, reason = (types[name], "") if name in types else infer_type(reader, name)
            column = None if kind is None else fit_input(reader, name, kind, train)
            if column is not None:
                inputs.append(column)
            elif name in types:
                raise DataError(
                    f"table: {table.source}: {name!r} is the same in all training rows; leave it out of task.types"
                )
            else:
                left_out[name] = reason or "the same in all training rows"
        if not inputs:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise DataError(f"table: {table.source} has no input to learn from ({reasons}); see task.types")
        return inputs, left_out

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over how inputs are prepared, and what labels mean."""
        super().load_state_dict(state)
        self._inputs = tuple(map(restore_input, state["inputs"]))
        self._labels = tuple(map(Label.restored, state["labels"]))
        kept = {objective.name for objective in self.objectives}  # of a restricted task
        objectives = tuple(label.objective() for label in self._labels)
        self.objectives = tuple(each for each in objectives if not kept or each.name in kept)
        heads: dict[str, dict[str, int]] = {"classification": {}, "regression": {}}
        for objective in objectives:
            criterion: Any = objective.criterion
            heads[criterion.kind][objective.name] = criterion.outputs
        numbers = sum(column.width for column in self._inputs if isinstance(column, NumberInput))
        codes = tuple(column.codes for column in self._inputs if isinstance(column, CategoryInput))
        self.info = {
            "in_features": numbers,
            "categories": codes,
            "classifiers": heads["classification"],
            "regressors": heads["regression"],
        }

    def for_model(self, arguments: Collection[str]) -> Self:
        """For a model that takes no categories, the indicators of these are numbers."""
        if "categories" in arguments or not self.info.get("categories"):
            return self
        task = copy.copy(self)
        indicators = sum(size - 1 for size in self.info["categories"])
        task.info = {**self.info, "in_features": self.info["in_features"] + indicators}
        return task

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Inputs as fitted to the training rows; none before."""
        return self._inputs

    def _read(self) -> TextTable:
        if not self.labels:
            raise DataError(
                "table: say what to learn: 'task.objectives={churn: classes, spend: number}', or 'task.objectives=[churn,spend]'"
            )
        if self.csv is None and self.frame is None:
            raise DataError("table: say which table to read: task.csv=customers.csv; see docs/your_own_table.md")
        table = self._table(self.csv if self.frame is None else self.frame)
        if table.names and not len(table):
            raise DataError(
                f"table: {table.source} has no rows below the names of its columns; it needs one for each sample"
            )
        for name in (*(choice.column for choice in self.labels.values()), *self.ignore, *self.types):
            table.column(name)
        return table

    def _table(self, source: Any) -> TextTable:
        separators = [choice.separator for choice in self.labels.values() if choice.kind in ("tags", None)]
        return read_any(source, "table", (separators or [";"])[0])

    def _input_columns(self, table: TextTable) -> list[str]:
        """All columns but the objectives, those to ignore, and those that say where rows belong."""
        others = {table.find(choice.column) for choice in self.labels.values()} | set(map(table.find, self.ignore))
        others.add(table.find("split"))
        if self.split == "group" and self.split_by is not None:
            others.add(table.find(self.split_by))
        columns = [name for name in table.names if name not in others]
        if not columns:
            raise DataError(f"table: {table.source} has no column left as an input; look at task.ignore")
        return columns

    def _fingerprinted(self, table: TextTable, columns: Sequence[str]) -> list[str]:
        """Names of the columns that training depends on."""
        places = [table.find(name) for name in ("split", *([self.split_by] if self.split_by else ()))]
        labels = [table.column(choice.column) for choice in self.labels.values()]
        return list(dict.fromkeys([*columns, *labels, *filter(None, places)]))

    def _parts(self, reader: Reader, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Row numbers of train, val and test, drawn by the cells of the inputs."""
        table, by = reader.table, self.split_by
        if self.split == "stratified" and by is None:
            kinds = (
                (c, c.kind or infer_kind(reader, table.column(c.column), c.separator)) for c in self.labels.values()
            )
            by = next((choice.column for choice, kind in kinds if kind in ("classes", "ordered")), None)
        return split_rows(table, row_keys(table, columns), self.split, by, self.shares, self.split_seed)

    def _tensors(self, reader: Reader, inputs: Sequence[Input]) -> tuple[Tensor, ...]:
        """Numbers, and codes if there are categories."""
        x, codes = encode_inputs(reader, inputs)
        return (torch.from_numpy(x), torch.from_numpy(codes)) if codes.shape[1] else (torch.from_numpy(x),)

    # ---- training ----------------------------------------------------------------------------------------------------

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """Loss per objective, and the features that the heads read."""
        return super().losses(model, Batch(self._inputs_of(model, batch), batch.targets), phase)

    def outputs(self, model: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Outputs for a batch."""
        return model(*self._inputs_of(model, batch))

    def _inputs_of(self, model: Any, batch: Batch) -> tuple[Tensor, ...]:
        """Numbers and codes; for a model that takes no categories, numbers alone."""
        embedded = getattr(model, "categories", ())
        if embedded or len(batch.inputs) == 1:
            return batch.inputs
        x, codes = batch.inputs
        sizes = self.info["categories"]
        # code 0, for what was not seen in training, has no indicator
        indicators = [F.one_hot(codes[:, i], size)[:, 1:] for i, size in enumerate(sizes)]
        return (torch.cat([x, *(each.to(x.dtype) for each in indicators)], dim=1),)

    # ---- presentation ------------------------------------------------------------------------------------------------

    def preprocess(self, path: Path | Any) -> TableRows:
        """Rows of a CSV or Parquet file, or of a data frame; their labels are not read."""
        table = self._table(path)
        if not len(table):
            raise DataError(f"table: {table.source} has no rows after the header; it needs one for each prediction")
        for column in self._inputs:
            table.column(column.name)
        reader = Reader(table, self.settings)
        notes = tuple(describe_cells(reader, self._inputs))
        return TableRows(self._tensors(reader, self._inputs), {}, table=table, notes=notes)

    def annotate(self, data: TensorData, prediction: Prediction) -> Prediction:
        """The prediction with the columns of the table, and names that do not occur there."""
        if not isinstance(data, TableRows) or (table := data.table) is None:
            return prediction
        own = {name: table.cells(name) for name in table.names}
        cells = {}
        for name, column in prediction.cells.items():
            free = f"predicted_{name}"
            while free in own:
                free = f"{free}_"
            cells[free] = column
        return Prediction(cells, own=own, notes=data.notes)

    def pictures(self, model: Any, split: Split) -> Pictures:
        """Distributions of the inputs in the training rows, and shares of missing cells."""
        from tasks.table_figures import distributions, missing_shares

        pictures = {
            "Inputs in the training rows: numbers by value, categories by frequency.": distributions(self._inputs)
        }
        if any(column.missing for column in self._inputs):
            pictures["Share of training rows in which an input is missing."] = missing_shares(self._inputs)
        return pictures


def _row_bytes(rows: Any) -> list[bytes]:
    """Inputs and labels of each row of a TensorData, as bytes."""
    tensors = [*rows.inputs, *(rows.targets[name] for name in sorted(rows.targets))]
    whole = np.hstack([x.reshape(len(rows), -1).contiguous().numpy().view(np.uint8) for x in tensors])
    return list(map(bytes, whole))


def _notes(
    table: TextTable,
    inputs: Sequence[Input],
    labels: Sequence[Label],
    left_out: Mapping[str, str],
    targets: Mapping[str, Tensor],
    parts: Mapping[str, Any],
) -> list[str]:
    """How the table was understood, in a few lines."""

    def missing(share: float) -> str:
        return f", {100 * share:.2g} % missing" if share else ""

    sizes = ", ".join(f"{len(rows):,} {part}" for part, rows in parts.items())
    extra = "".join(f"; {note}" for note in table.notes)
    notes = [f"{table.source}: {len(table):,} rows ({sizes}){extra}"]
    notes += ["inputs: " + "; ".join(f"{c.name} {c.summary()}{missing(c.missing)}" for c in inputs)]
    if left_out:
        notes.append("left out: " + "; ".join(f"{name} ({reason})" for name, reason in left_out.items()))
    notes += [label_note(label, targets[label.name], parts["train"]) for label in labels]
    return notes
