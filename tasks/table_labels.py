"""Labels of a table: columns as targets, and what the cells of each mean."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from balancing.registry import suggestion
from tasks.criteria import LABEL_KINDS, CriterionChoice, LabelKind, create_criterion, criterion_state, default_criterion
from tasks.table_files import SimilarClasses, class_labels, is_missing
from tasks.table_inputs import Reader
from tasks.task import DataError, Objective

Empty = Literal["none", "missing"]
_OPTIONS: Mapping[str, tuple[str, ...]] = {"number": ("log",), "ordered": ("order",), "tags": ("separator", "empty")}
_MOST_TAGS = 1000


@dataclass(frozen=True)
class LabelChoice:
    """What a configuration says of a label column.

    Args:
        column: Its name.
        kind: What its cells mean; ``None``: to be seen from them.
        log: Whether logarithms of the numbers are learned.
        order: Of the classes, from the lowest.
        separator: Between tags.
        empty: Whether a cell without tags says that there are none, or that they are not known.
        key: Of the configuration, as messages name it.
    """

    column: str
    kind: LabelKind | None = None
    log: bool = False
    order: tuple[str, ...] = ()
    separator: str = ";"
    empty: Empty = "none"
    key: str = "task.objectives"


def objective_name(column: str) -> str:
    """The column's name as a key: results are <objective>/<metric>, and heads are modules."""
    name = re.sub(r"\W", "_", column)
    return f"{name}_" if hasattr(nn.ModuleDict(), name) else name


def choose_labels(
    owner: str, objectives: Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None, key: str = "objectives"
) -> dict[str, LabelChoice]:
    """Objective -> choice, from the option ``key`` of a task.

    A mapping from columns; or a list of columns, of texts ``column: kind``, or of mappings with the key ``column``. Raises
    ValueError for an unknown kind or option, or a name twice.
    """
    if isinstance(objectives, Mapping):
        chosen = [(str(column), said) for column, said in objectives.items()]
    else:
        listed = [objectives] if isinstance(objectives, str) else objectives or ()
        if not isinstance(listed, Sequence):
            raise ValueError(f"{owner}: {key} must be a mapping from columns, or a list of them, got {objectives!r}")
        chosen = [_with_kind(owner, each) for each in listed]
    choices = {objective_name(column): _choice(owner, key, column, said) for column, said in chosen}
    for name in choices:
        same = [repr(column) for column, _ in chosen if objective_name(column) == name]
        if len(same) > 1:
            raise ValueError(f"{owner}: {' and '.join(same)} would be two objectives of one name ({name}); rename one")
    return choices


def _with_kind(owner: str, said: str | Mapping[str, Any]) -> tuple[str, Any]:
    """Column, and kind or options; a column alone has no kind."""
    if isinstance(said, Mapping):
        options = {str(key): value for key, value in said.items()}
        if "column" not in options:
            raise ValueError(f"{owner}: in a list, {options} needs the name of its column: {{column: ..., kind: ...}}")
        return str(options.pop("column")), options
    column, _, kind = str(said).rpartition(": ")
    start, braces, options_ = str(said).partition(": {")
    if braces and options_.endswith("}"):
        raise ValueError(f'{owner}: in a list, write options as {{column: "{start}", {options_}')
    return (column, kind) if column and kind in LABEL_KINDS else (str(said), None)


def _choice(owner: str, option: str, column: str, said: Any) -> LabelChoice:
    key = f"{owner}: {option}.{column}"
    section = dict(said) if isinstance(said, Mapping) else {"kind": said}
    kind = section.pop("kind", None)
    if kind is not None and kind not in LABEL_KINDS:
        near = suggestion(str(kind), LABEL_KINDS, "choose from {}")
        raise ValueError(f"{key}: there is no kind {kind!r} of labels; {near}")
    known = _OPTIONS.get(str(kind), ()) if kind else sorted({name for names in _OPTIONS.values() for name in names})
    for name, value in section.items():
        if name not in known:
            raise ValueError(f"{key}: {kind or 'it'} has no option {name!r}; it has {', '.join(known) or 'none'}")
        fits = {
            "log": isinstance(value, bool),
            "order": isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1,
            "separator": isinstance(value, str) and len(value) > 0,
            "empty": value in get_args(Empty),
        }
        if not fits[name]:
            wanted = {
                "log": "true or false",
                "order": "a list of all classes, from the lowest",
                "separator": "a text",
                "empty": "none or missing",
            }
            raise ValueError(f"{key}: {name} must be {wanted[name]}, got {value!r}")
    if "order" in section:
        section["order"] = tuple(map(str, section["order"]))
    return LabelChoice(column, kind, **section, key=f"task.{option}")


@dataclass(frozen=True)
class Label:
    """A label column fitted to the training rows.

    Args:
        name: Of the objective.
        column: In the table.
        kind: What its cells mean.
        criterion: Name and arguments of the criterion.
        classes: Names of classes or tags.
        separator: Between tags.
        empty: See :class:`LabelChoice`.
        mean: Subtracted from numbers, or from their logarithms.
        std: By which they are divided.
        log: Whether logarithms are learned.
        limit: Largest logarithm that a prediction may have.
    """

    name: str
    column: str
    kind: LabelKind
    criterion: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    separator: str = ";"
    empty: Empty = "none"
    mean: float = 0.0
    std: float = 1.0
    log: bool = False
    limit: float = 0.0

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Label:
        """Inverse of :meth:`state`."""
        return cls(**{**state, "classes": tuple(state["classes"])})

    def objective(self) -> Objective:
        """Criterion, metrics and unit."""
        criterion = create_criterion(**self.criterion)
        inverse = partial(restore_numbers, mean=self.mean, std=self.std, limit=self.limit if self.log else None)
        numbers = self.kind in ("number", "count")
        unit = self.column if numbers else ""
        return Objective(self.name, criterion, criterion.metrics(inverse), inverse, unit)

    def targets(self, reader: Reader, similar: SimilarClasses) -> Tensor:
        """(N,) classes, (N, C) tags or (N, 1) numbers. Raises DataError for labels that do not fit."""
        table, missing = reader.table, reader.settings.missing
        column = table.column(self.column)
        if self.kind in ("classes", "ordered"):
            return torch.from_numpy(class_labels(table, column, self.classes, missing, similar).codes)
        if self.kind == "tags":
            places = {tag: place for place, tag in enumerate(self.classes)}
            cells = table.cells(column)
            rows: dict[str, np.ndarray] = {}
            for cell in set(cells):
                absent = is_missing(cell, missing)
                row = np.full(len(places), math.nan if absent and self.empty == "missing" else 0.0, np.float32)
                if not absent:
                    row[[places[tag] for tag in split_tags(cell, self.separator) if tag in places]] = 1
                rows[cell] = row
            return torch.from_numpy(np.stack([rows[cell] for cell in cells]))
        values = label_numbers(reader, column, self.kind, self.log)
        return torch.tensor((values - self.mean) / self.std, dtype=torch.float32)[:, None]


def restore_numbers(values: Tensor, mean: float, std: float, limit: float | None) -> Tensor:
    """Standardized numbers in their unit; with a ``limit``, they are logarithms of at most this."""
    numbers = values * std + mean
    return numbers if limit is None else numbers.clamp(max=limit).exp()


def split_tags(cell: str, separator: str) -> list[str]:
    """The tags of a cell."""
    return [tag for tag in map(str.strip, cell.split(separator)) if tag]


def label_numbers(reader: Reader, column: str, kind: str, log: bool = False) -> np.ndarray:
    """(N,) numbers or logarithms, NaN where missing. Raises DataError for a cell that is none."""
    table = reader.table
    values = reader.numbers(column, ", or make it an objective of classes")
    known = np.where(np.isnan(values), 1.0, values)
    if kind == "count":
        wrong = np.flatnonzero((known < 0) | (known != np.floor(known)))
        if len(wrong):
            row = int(wrong[0])
            raise table.error(
                row, f"{column} is {values[row]:g}, and counts are whole numbers from 0; make it a number"
            )
    if log:
        wrong = np.flatnonzero(known <= 0)
        if len(wrong):
            row = int(wrong[0])
            raise table.error(row, f"{column} is {values[row]:g}, which has no logarithm; leave out log, or the row")
        return np.log(values)
    return values


def infer_kind(reader: Reader, column: str, separator: str, key: str = "task.objectives") -> LabelKind:
    """Numbers, classes (texts, or two different numbers), or tags (texts with separators)."""
    table, missing = reader.table, reader.settings.missing
    if reader.is_number(column):
        numbers = reader.numbers(column)
        return "classes" if len(np.unique(numbers[~np.isnan(numbers)])) == 2 else "number"
    cells = {cell: count for cell, count in Counter(table.cells(column)).items() if not is_missing(cell, missing)}
    if any(separator in cell for cell in cells):
        return "tags"
    reader.check_alike(column, cells, f"set {key}={{{column}: classes}}")
    return "classes"


def fit_label(
    reader: Reader,
    name: str,
    choice: LabelChoice,
    criterion: CriterionChoice | None,
    train: np.ndarray,
    similar: SimilarClasses,
) -> Label:
    """A label fitted to the training rows. Raises DataError for a column that cannot be learned."""
    table, missing = reader.table, reader.settings.missing
    column = table.column(choice.column)
    kind = choice.kind or infer_kind(reader, column, choice.separator, choice.key)
    chosen = criterion or default_criterion(f"task.criteria.{name}", kind)
    start = f"{table.owner}: {table.source}"
    facts: dict[str, Any] = {"unit": f"{choice.column}, standardised" if chosen.standardized else choice.column}
    numbers: dict[str, Any] = {}
    if kind in ("classes", "ordered"):
        if choice.order:
            cells = table.cells(column)
            for cell in dict.fromkeys(cells):
                if cell not in choice.order and not is_missing(cell, missing):
                    raise table.error(
                        cells.index(cell), f"{column} is {cell!r}, which is not in its order; add it there"
                    )
            facts["classes"] = choice.order
        else:
            found = class_labels(table, column, None, missing, similar)
            facts["classes"] = found.classes
            count = int((found.codes >= 0).sum())
            if kind == "ordered" and not all(re.fullmatch(r"[+-]?\d+(\.\d*)?", text) for text in found.classes):
                words = ", ".join(found.classes[:8])
                raise DataError(
                    f"{start}: {column!r} needs the order of its classes ({words}), from the lowest: "
                    f"{choice.key}={{{choice.column}: {{kind: ordered, order: [...]}}}}"
                )
            if len(found.classes) > 2 and 2 * len(found.classes) > count:
                raise DataError(
                    f"{start}: column {column!r} has {len(found.classes)} classes in {count} labels, fewer than two rows for each; "
                    f"if it holds numbers, write {choice.column}: number"
                )
    elif kind == "tags":
        tags: Counter[str] = Counter()
        cells = table.cells(column)
        for cell, rows in Counter(cells[row] for row in train.tolist()).items():
            if not is_missing(cell, missing):
                tags.update(dict.fromkeys(split_tags(cell, choice.separator), rows))
        if not tags or len(tags) > _MOST_TAGS:
            raise DataError(
                f"{start}: column {column!r} has {len(tags)} tags in its training rows, and needs 1 to {_MOST_TAGS}; "
                f"are they separated by {choice.separator!r}? Set {choice.key}={{{choice.column}: {{kind: tags, separator: ...}}}}"
            )
        facts |= {"classes": tuple(sorted(tags)), "separator": choice.separator}
    try:
        loss: Any = chosen.build(kind, **facts)
        if kind in ("number", "count"):
            values = label_numbers(reader, column, kind, choice.log)
            known = values[train][~np.isnan(values[train])]
            if loss.standardized and len(known) and known.std() > 0:
                numbers = {"mean": float(known.mean()), "std": float(known.std())}
            elif choice.log:
                raise ValueError(f"{chosen.key}: {chosen.name} has logarithms of its own; leave out log")
            if choice.log and len(known):
                numbers |= {"log": True, "limit": float(known.max()) + 1}
        label = Label(
            name,
            choice.column,
            kind,
            criterion_state(loss),
            tuple(facts.get("classes", ())),
            choice.separator,
            choice.empty,
            **numbers,
        )
        targets = label.targets(reader, similar)
        _check(label, targets, train, start)
        fitted = chosen.fit(loss, targets[torch.from_numpy(train)])
    except ValueError as error:
        raise DataError(f"{start}: {error}") from None
    return Label(**{**vars(label), "criterion": criterion_state(fitted)})


def _check(label: Label, targets: Tensor, train: np.ndarray, start: str) -> None:
    rows = targets[torch.from_numpy(train)]
    rows = rows[known_rows(rows)]
    if len(rows) < 2:
        raise DataError(
            f"{start}: {label.column!r} has {len(rows)} labels in the training rows, and needs at least 2; "
            "label more rows, or leave the objective out"
        )
    if (rows == rows[0]).all():
        raise DataError(
            f"{start}: every training row has the same {label.column}, so there is nothing to learn; leave the objective out"
        )


def known_rows(targets: Tensor) -> Tensor:
    """(N,) which rows have a label."""
    return ~targets.isnan().any(1) if targets.is_floating_point() else targets != -1


def check_labelled(label: Label, known: Tensor, part: str, start: str) -> None:
    """Raise DataError unless two rows of a part have a label; ``start`` begins the message."""
    count = int(known.sum())
    if count < 2:
        raise DataError(
            f"{start} has {count} labels of {label.column!r} in the split {part!r}, and needs at least 2; label more rows, or leave "
            "the objective out"
        )


def label_note(label: Label, targets: Tensor, train: np.ndarray) -> str:
    """How a column was understood, in a line."""
    absent = 1 - float(known_rows(targets).double().mean())
    names = ", ".join(label.classes[:8]) + (f" and {len(label.classes) - 8} more" if len(label.classes) > 8 else "")
    what = f": {names}" if names else ""
    trained = targets[torch.from_numpy(train)]
    if label.kind in ("classes", "ordered"):
        unseen = [name for code, name in enumerate(label.classes) if not bool((trained == code).any())]
        what += f" (not in the training rows: {', '.join(unseen)})" if unseen else ""
        mark = next((m for m in ",|/" if 2 * sum(m in name for name in label.classes) > len(label.classes) > 4), "")
        what += f" (several in a cell? {{kind: tags, separator: '{mark}'}} tells them apart)" if mark else ""
    elif label.kind == "tags":
        without = float((trained == 0).all(1).double().mean())
        what += f"; {100 * without:.2g} % of rows without any" if without else ""
    missing = f", {100 * absent:.2g} % missing" if absent else ""
    return f"objective {label.column}: {label.kind}{what}{missing}; {label.criterion['name']}"
