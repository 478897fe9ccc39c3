"""Images of your own with any number of labels each, from a folder and a CSV file.

    path,split,species,weight
    cats/001.jpg,train,lynx,18.2
    cats/002.jpg,train,lynx,
    cats/003.jpg,val,ocelot,11.0

``path`` counts from the folder of the CSV file. ``split`` (train, val or test) is optional; without it the split is drawn, by
the paths and not by the lines they are on, so that a longer table leaves each image in its part. Runs of versions before that
keep their own draw, ``split=position``. Any other column can be a label, an objective of its own. An empty cell is a missing
label: the image still trains the other objectives. Class names are sorted, numbers by value. Numbers to predict are
standardized with the training mean and deviation; errors are reported in their own unit.

A run keeps classes, scales and a fingerprint of the table. It is resumed and evaluated with these, and refuses a table that
has changed. The pixels of the images are not part of the fingerprint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.criteria import LabelKind, choose_criteria, create_criterion, criterion_state, default_criterion
from tasks.file_checks import file_identity
from tasks.image_reading import ImageFiles, View, unreadable_images
from tasks.marks import CROSS, WRONG
from tasks.metrics import identity
from tasks.registry import register_task
from tasks.table_files import (
    MISSING,
    Labels,
    SimilarClasses,
    TextTable,
    class_labels,
    describe_labels,
    describe_numbers,
    missing_spellings,
    read_table,
)
from tasks.table_labels import objective_name
from tasks.table_splits import PARTS, Shares, check_shares, check_unchanged, difference, fingerprint, split_rows
from tasks.task import DataError, Objective, Pictures, Split, Splits, Task, TensorData


@register_task("image_table")
class ImageTable(Task):
    """Your own images, with the label columns of a CSV file.

    Args:
        csv: The table. Commas, semicolons or tabs between cells.
        classification: Columns with class names.
        regression: Columns with numbers.
        folder: Where the paths in the table start; the folder of the table if ``None``.
        image_size: Height and width that every image is brought to.
        fit: What happens to images that are no squares: ``crop`` keeps their middle, ``stretch`` distorts them.
        flip: Probability of mirroring a training image. Set it to 0 if left and right have a meaning.
        crop: Smallest share of a training image's area that a random crop keeps. Set it to 1, for no random crops, if the size or
            the number of things is a label.
        missing: Spellings of a missing label besides the empty cell, without case.
        similar_classes: Classes whose names are one number in two spellings, or differ in case or spaces only: ``refuse`` them,
            ``join`` them under the more frequent name, or ``keep`` them apart.
        split: How the split of a table without a column ``split`` is drawn: ``random``; ``stratified``, random within each class
            of the column ``split_by``; ``group``, images of the same ``split_by`` on one side; ``time``, the latest ones test;
            ``position``, at random by the number of the line.
        split_by: Column of classes, groups or times (numbers, or dates in ISO 8601).
        val_share: Share of the images to validate on.
        test_share: Share of the images to test on.
        split_seed: Seed of the draw.
        unreadable: Images that cannot be read: ``stop`` before the training, or ``skip`` them and say how many; the others stay
            where they are in the split.
        criteria: Label column -> criterion, a name or a mapping with a name and options; see docs/adding.md.

    Raises:
        ValueError: A value out of range, or a column named twice.
    """

    def __init__(
        self,
        csv: str | None = None,
        classification: Sequence[str] = (),
        regression: Sequence[str] = (),
        folder: str | None = None,
        image_size: int = 64,
        fit: Literal["crop", "stretch"] = "crop",
        flip: float = 0.5,
        crop: float = 0.8,
        missing: Sequence[str] = MISSING[1:],
        similar_classes: SimilarClasses = "refuse",
        split: Literal["random", "stratified", "group", "time", "position"] = "random",
        split_by: str | None = None,
        val_share: float = 0.15,
        test_share: float = 0.15,
        split_seed: int = 0,
        unreadable: Literal["stop", "skip"] = "stop",
        criteria: Mapping[str, str | Mapping[str, Any]] | None = None,
    ) -> None:
        self.shares = Shares(val_share, test_share)
        check_shares(self.name, self.shares)
        self.unreadable = unreadable
        self.missing, self.similar_classes = missing_spellings(missing), similar_classes
        self.split, self.split_by, self.split_seed = split, split_by, split_seed
        self.csv, self.folder, self.view = csv, folder, View(image_size, fit, flip, crop)
        self.classification = {objective_name(column): column for column in classification}
        self.regression = {objective_name(column): column for column in regression}
        self.columns = {**self.classification, **self.regression}
        if len(self.columns) < len(classification) + len(regression):
            raise ValueError(_same_names([*classification, *regression]))
        if {"path", "split"} & {column.casefold() for column in self.columns.values()}:
            raise ValueError("image_table: the columns path and split cannot be label columns")
        self.chosen = choose_criteria("task.criteria", criteria or {}, self.columns)
        classes: dict[str, tuple[str, ...]] = dict.fromkeys(self.classification, ())
        self.objectives = self._describe(classes, dict.fromkeys(self.regression, (0.0, 1.0)), {})

    def load(self, data_dir: Path) -> Splits:
        """Read the table, check every image, and split; ``data_dir`` remembers checked images."""
        table = self._table(self.csv)
        if "table" in self._state:
            check_unchanged(table, self._fingerprinted(table), self._state["table"])
        return self._splits(table, self._parts(table), data_dir / ".checked")

    def labelled(self, path: Path) -> Splits:
        """The images of another table, with the classes and scales of training, as all three parts.

        The parts of training, if it is the same table in another place.
        """
        table = self._table(str(path))
        known = self._state.get("table")
        if known is not None and not difference(table, self._fingerprinted(table), known):
            return self._splits(table, self._parts(table))
        return self._splits(table, dict.fromkeys(PARTS, np.arange(len(table))))

    def _splits(self, table: TextTable, parts: Mapping[str, np.ndarray], memory: Path | None = None) -> Splits:
        known = self._state or {"classes": {}, "scales": {}}
        images = self._images(table)
        paths = [image.path for image in images]
        unreadable = unreadable_images("image_table", paths, memory)
        parts = self._readable(table, parts, unreadable)
        train = parts["train"]
        classes: dict[str, Sequence[str]] = {}
        scales: dict[str, Sequence[float]] = {}
        targets: dict[str, Tensor] = {}
        notes = [f"{table.source}: {note}" for note in table.notes]
        if unreadable:
            first = next(iter(unreadable.values()))
            notes.append(f"{table.source}: {len(unreadable):,} of {len(images):,} images left out, first: {first}")
        for name, column in self.columns.items():
            column = table.column(column)
            if name in self.classification:
                labels = self._labels(table, column, known["classes"].get(name))
                self._check_labels(table, column, labels.codes >= 0, parts)
                classes[name], targets[name] = labels.classes, torch.from_numpy(labels.codes)
                notes += describe_labels(column, labels, parts)
                trained = labels.codes[train][labels.codes[train] >= 0]
                constant, value = len(np.unique(trained)) < 2, labels.classes[trained[0]]
            else:
                numbers = table.numbers(column, self.missing, ", or name the column in task.classification")
                self._check_labels(table, column, ~np.isnan(numbers), parts)
                measured = float(np.nanmean(numbers[train])), float(np.nanstd(numbers[train]))
                own = measured if self._criterion(name).standardized else (0.0, 1.0)
                mean, std = scales[name] = known["scales"].get(name, own)
                targets[name] = torch.tensor((numbers - mean) / (std or 1), dtype=torch.float32)[:, None]
                notes.append(describe_numbers(column, numbers))
                constant, value = measured[1] == 0, f"{measured[0]:g}"
            if constant and not self._state:
                raise DataError(
                    f"image_table: in {table.source} every training image has {column} {value}, so there is nothing to learn; "
                    "leave the column out, or add images that differ"
                )
        if train is not parts["test"]:
            counts = ", ".join(f"{len(index):,} {part}" for part, index in parts.items())
            notes.append(f"split: {counts}; {self._origin(table)}")

        def part_of(part: str) -> ImageFiles:
            index = parts[part]
            labels = {name: values[torch.from_numpy(index)] for name, values in targets.items()}
            return ImageFiles([paths[i] for i in index], labels, self.view, augment=part == "train")

        seen = known.get("table") or fingerprint(table, self._fingerprinted(table))
        state = {"classes": classes, "scales": scales, "table": seen}
        if self.chosen:
            state["criteria"] = known.get("criteria") or self._fitted(table, classes, targets, train)
        return Splits(*map(part_of, PARTS), state=state, notes=tuple(notes))

    def _readable(
        self, table: TextTable, parts: Mapping[str, np.ndarray], unreadable: Mapping[int, str]
    ) -> Mapping[str, np.ndarray]:
        """The parts without ``unreadable`` rows.

        Raises DataError if there are some, unless they are skipped.
        """
        if not unreadable:
            return parts
        if self.unreadable == "stop":
            row, problem = next(iter(unreadable.items()))
            more = f" (and {len(unreadable) - 1:,} more that cannot be read)" if len(unreadable) > 1 else ""
            start = f"(paths count from {self._root(table).resolve()}, or from task.folder)"
            remedy = f"mend it, remove the line, or set task.unreadable=skip {start}"
            raise table.error(row, f"{problem}{more}; {remedy}")
        left = np.array([row not in unreadable for row in range(len(table))])
        whole = {id(index): index[left[index]] for index in parts.values()}
        return {part: whole[id(index)] for part, index in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the names of the classes, and mean and deviation of the numbers."""
        super().load_state_dict(state)
        self._update_objectives(self._describe(state["classes"], state["scales"], state.get("criteria", {})))

    def preprocess(self, path: Path) -> TensorData:
        """One image."""
        return TensorData((self.view.tensor(path)[None],), {})

    def pictures(self, model: Any, split: Split) -> Pictures:
        """A dozen images of the split with predictions and labels."""
        if not isinstance(split, ImageFiles):
            return {}
        from matplotlib.figure import Figure

        chosen = torch.linspace(0, len(split) - 1, min(len(split), 12)).long().tolist()
        device = next(model.parameters()).device
        inputs = torch.stack([split.view.tensor(split.paths[i]) for i in chosen]).to(device)
        outputs = {name: output.float().cpu() for name, output in model(inputs).items()}
        objectives = self.objectives[:4]
        columns = min(len(chosen), 6)
        lines = -(-len(chosen) // columns)
        figure = Figure(figsize=(1.9 * columns, (1.6 + 0.2 * len(objectives)) * lines), layout="constrained")
        for axes in figure.subplots(lines, columns, squeeze=False).flat:
            axes.set_axis_off()
        for row, (axes, index) in enumerate(zip(figure.axes, chosen, strict=False)):
            axes.imshow(split.view.pixels(split.paths[index]))
            captions = [_caption(o, outputs[o.name][row], split.targets[o.name][index]) for o in objectives]
            color = WRONG if any(caption.startswith(CROSS) for caption in captions) else "black"
            axes.set_title("\n".join(captions), fontsize=7, fontweight="normal", loc="left", color=color)
        return {f"Images of the test split: prediction, and the true label in brackets. {CROSS}a wrong class.": figure}

    def _describe(
        self,
        classes: Mapping[str, Sequence[str]],
        scales: Mapping[str, Sequence[float]],
        criteria: Mapping[str, Mapping[str, Any]],
    ) -> tuple[Objective, ...]:
        """Set ``info``; an objective per class list and per (mean, deviation) of numbers.

        ``criteria`` are those fitted to the labels of training, by name and arguments.
        """
        heads: dict[str, dict[str, int]] = {"classifiers": {}, "regressors": {}}
        objectives = []
        for name in (*classes, *scales):
            criterion = (
                create_criterion(**criteria[name]) if name in criteria else self._criterion(name, classes.get(name, ()))
            )
            mean, std = scales.get(name, (0.0, 1.0))
            inverse = identity if name in classes else partial(_destandardize, mean=mean, std=std)
            heads["classifiers" if name in classes else "regressors"][name] = criterion.outputs
            unit = "" if name in classes else self.columns[name]
            objectives.append(Objective(name, criterion, criterion.metrics(inverse), inverse, unit))
        self.info = {"in_channels": 3, "image_size": self.view.size, **heads}
        return tuple(objectives)

    def _criterion(self, name: str, classes: Sequence[str] = ()) -> Any:
        """The criterion of an objective, not yet fitted. Raises ValueError if it does not fit it."""
        labels: LabelKind = "classes" if name in self.classification else "number"
        choice = self.chosen.get(name) or default_criterion(f"task.criteria.{name}", labels)
        unit = f"{self.columns[name]}, standardised" if choice.standardized else self.columns[name]
        return choice.build(labels, classes=tuple(classes), unit=unit)

    def _fitted(
        self, table: TextTable, classes: Mapping[str, Sequence[str]], targets: Mapping[str, Tensor], train: np.ndarray
    ) -> dict[str, Any]:
        """Name and arguments of the chosen criteria, with what they take from the training labels."""
        try:
            return {
                name: criterion_state(
                    choice.fit(self._criterion(name, classes.get(name, ())), targets[name][torch.from_numpy(train)])
                )
                for name, choice in self.chosen.items()
            }
        except ValueError as error:
            raise DataError(f"image_table: {table.source}: {error}") from None

    # ---- the table -------------------------------------------------------------------------------------------------

    def _table(self, path: str | None) -> TextTable:
        """The table, checked for its columns."""
        if path is None:
            raise DataError(
                "image_table: say which table to read: task.csv=photos/labels.csv; see docs/your_own_images.md"
            )
        table = read_table(path, self.name)
        if table.find("path") is None:
            raise DataError(
                f"image_table: {path} has no column 'path'; rename the one that names the image files, "
                f"or add a header line (its columns: {', '.join(table.names)})"
            )
        if not self.columns:
            known = ", ".join(name for name in table.names if name.casefold() not in ("path", "split"))
            raise DataError(
                "image_table: say which columns to learn: 'task.classification=[...]' for classes, "
                f"'task.regression=[...]' for numbers ({path} has {known})"
            )
        for column in self.columns.values():
            table.column(column)
        if not len(table):
            raise DataError(f"image_table: {path} has no lines after the header; it needs one for each image")
        return table

    def _fingerprinted(self, table: TextTable) -> list[str]:
        """Names of the columns that training depends on."""
        by = self.split_by if self.split not in ("random", "position") else None
        wanted = ["path", "split" if table.find("split") else by, *self.columns.values()]
        found = [table.find(name) for name in wanted if name is not None]
        return list(dict.fromkeys(name for name in found if name is not None))

    def _root(self, table: TextTable) -> Path:
        """Where the paths start."""
        return Path(self.folder) if self.folder is not None else Path(table.source).parent

    def _images(self, table: TextTable) -> list[_Image]:
        """The file of each row; no file is in two rows, however its path is written."""
        root = os.path.abspath(self._root(table))
        images: list[_Image] = []
        rows: dict[object, int] = {}
        cells = table.cells(table.column("path"))
        for row, cell in enumerate(cells):
            if not cell:
                raise table.error(row, "the path is empty; remove the line")
            path = os.path.normpath(os.path.join(root, cell))
            if "\\" in cell and not os.path.exists(path):  # written by Windows
                path = os.path.normpath(os.path.join(root, cell.replace("\\", "/")))
            if os.path.basename(path).startswith("._"):
                raise table.error(row, f"{cell} has attributes of macOS, and no picture; remove the line")
            inside = path.removeprefix(os.path.join(root, ""))
            first = rows.setdefault(file_identity(path), row)
            if first != row:
                line = first + 1 if table.lines is None else table.lines[first]
                start = f"{cell} is" if cells[first] == cell else f"{cell} is the file {cells[first]}, which is"
                raise table.error(
                    row, f"{start} on line {line} already; keep one line for each image, with all its labels"
                )
            images.append(_Image(path, inside.replace(os.sep, "/")))
        return images

    def _parts(self, table: TextTable) -> dict[str, np.ndarray]:
        """Row numbers of train, val and test."""
        if self.split == "position" and table.find("split") is None:
            # RandomState, unlike Generator, draws the same numbers in every NumPy version
            order = np.random.RandomState(self.split_seed).permutation(len(table))
            val, test = (round(share * len(table)) for share in self.shares)
            drawn = (order[val + test :], order[:val], order[val : val + test])
            return {name: np.sort(index) for name, index in zip(PARTS, drawn, strict=True)}
        rule = "random" if self.split == "position" else self.split
        keys = [image.key for image in self._images(table)]
        return split_rows(table, keys, rule, self.split_by, self.shares, self.split_seed)

    def _origin(self, table: TextTable) -> str:
        """How the split came about."""
        named = table.find("split")
        if named is not None:
            return f"from the column {named!r}"
        by = f" by {self.split_by!r}" if self.split in ("stratified", "group", "time") else ""
        return f"drawn (task.split={self.split}{by}, task.split_seed={self.split_seed})"

    def _labels(self, table: TextTable, column: str, known: Sequence[str] | None) -> Labels:
        labels = class_labels(table, column, known, self.missing, self.similar_classes)
        count = int((labels.codes >= 0).sum())
        if known is None and len(labels.classes) > 2 and 2 * len(labels.classes) > count:
            raise DataError(
                f"image_table: column {column!r} of {table.source} has {len(labels.classes)} classes in {count} labels, fewer "
                f"than two images for each; if it holds numbers, name it in task.regression"
            )
        return labels

    def _check_labels(
        self, table: TextTable, column: str, present: np.ndarray, parts: Mapping[str, np.ndarray]
    ) -> None:
        """Raise DataError unless there are two labels in each part."""
        for part, index in parts.items():
            count = int(present[index].sum())
            if count < 2:
                drawn = "" if table.find("split") else ", or choose another task.split_seed"
                raise DataError(
                    f"image_table: {table.source} has {count} labels of {column!r} in the split {part!r}, and needs at least 2; "
                    f"label more images, or leave the column out{drawn}"
                )


class _Image(NamedTuple):
    """The file of a row, and its path from the folder, by which the split is drawn."""

    path: str
    key: str


def _same_names(columns: Sequence[str]) -> str:
    """Message about two columns that would be one objective."""
    names = [objective_name(column) for column in columns]
    name = next(name for name in names if names.count(name) > 1)
    first, second, *_ = (column for column in columns if objective_name(column) == name)
    if first == second:
        return f"image_table: the column {first!r} is named twice in task.classification and task.regression; keep one"
    return (
        f"image_table: {first!r} and {second!r} would be two objectives of one name ({name}); rename one of the columns"
    )


def _destandardize(values: Tensor, mean: float, std: float) -> Tensor:
    return values * std + mean


def _caption(objective: Objective, output: Tensor, label: Tensor) -> str:
    """``objective: prediction (label)``, with a cross before a wrong class."""
    criterion: Any = objective.criterion
    cell = criterion.decode("", output[None], objective.inverse_transform)[""][0]
    predicted = f"{cell:.3g}" if isinstance(cell, float) else cell
    wrong = ""
    if criterion.kind == "classification":
        actual = criterion.classes[int(label)] if label >= 0 else "unknown"
        wrong = CROSS if label >= 0 and cell != actual else ""
    else:
        actual = "unknown" if label.isnan() else f"{objective.inverse_transform(label).item():.3g}"
    return f"{wrong}{objective.name}: {predicted} ({actual})"
