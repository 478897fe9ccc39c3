"""Images of your own with any number of labels each, from a folder and a CSV file.

    path,split,species,weight
    cats/001.jpg,train,lynx,18.2
    cats/002.jpg,train,lynx,
    cats/003.jpg,val,ocelot,11.0

``path`` counts from the folder of the CSV file. ``split`` (train, val or test) is optional; without it the split is
drawn at random. Any other column can be a label, an objective of its own. An empty cell is a missing label: the
image still trains the other objectives. Class names are sorted, numbers by value. Numbers to predict are standardized
with the training mean and deviation; errors are reported in their own unit.
"""

from __future__ import annotations

import csv as csv_module
import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from balancing.registry import suggestion
from tasks.criteria import CrossEntropy, SquaredError
from tasks.image_reading import ImageFiles, View, check_image
from tasks.metrics import absolute_error, accuracy, macro_f1, r2
from tasks.registry import register_task
from tasks.task import DataError, Objective, Pictures, Split, Splits, Task, TensorData

_SPLITS = ("train", "val", "test")


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
        val_share: Share of the images to validate on, for a table without a column ``split``.
        test_share: Share of the images to test on, likewise.
        split_seed: Seed of that split.

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
        val_share: float = 0.15,
        test_share: float = 0.15,
        split_seed: int = 0,
    ) -> None:
        if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
            raise ValueError(
                f"image_table: val_share and test_share must be positive and leave some for training, got {val_share} and {test_share}"
            )
        self.csv, self.folder, self.view = csv, folder, View(image_size, fit, flip, crop)
        self.shares, self.split_seed = (val_share, test_share), split_seed
        self.classification = {_objective_name(column): column for column in classification}
        self.regression = {_objective_name(column): column for column in regression}
        self.columns = {**self.classification, **self.regression}
        if len(self.columns) < len(classification) + len(regression):
            raise ValueError("image_table: two label columns have the same name; every objective needs one of its own")
        if {"path", "split"} & set(self.columns.values()):
            raise ValueError("image_table: the columns path and split cannot be label columns")
        classes: dict[str, tuple[str, ...]] = dict.fromkeys(self.classification, ())
        self.objectives = self._describe(classes, dict.fromkeys(self.regression, (0.0, 1.0)))

    def load(self, data_dir: Path) -> Splits:
        """Read the table, look at both ends of every image, and split; ``data_dir`` is not needed."""
        rows = self._rows()
        parts = self._parts(rows)
        train = parts["train"]
        classes: dict[str, Sequence[str]] = {}
        scales: dict[str, tuple[float, float]] = {}
        targets: dict[str, Tensor] = {}
        for name, column in self.columns.items():
            cells = [row.cells[column] for row in rows]
            for part, index in parts.items():
                self._check_labels(column, part, [cells[i] for i in index])
            if name in self.classification:
                classes[name] = self._classes(column, cells)
                codes = {text: code for code, text in enumerate(classes[name])} | {"": -1}
                targets[name] = torch.tensor([codes[text] for text in cells])
            else:
                numbers = np.array([self._number(row, column) for row in rows])
                scales[name] = (float(np.nanmean(numbers[train])), float(np.nanstd(numbers[train])))
                mean, std = scales[name]
                if std == 0:
                    raise DataError(self._constant(column, mean))
                targets[name] = torch.tensor((numbers - mean) / std, dtype=torch.float32)[:, None]
        root = Path(self.folder) if self.folder is not None else Path(str(self.csv)).parent
        for row in rows:
            try:
                check_image(root / row.path)
            except DataError as error:
                start = f"(paths count from {root.resolve()}, or from task.folder)"
                raise self._error(row.line, f"{error}; mend it or remove the line {start}") from None

        def part_of(part: str) -> ImageFiles:
            index = parts[part]
            labels = {name: values[torch.from_numpy(index)] for name, values in targets.items()}
            return ImageFiles([str(root / rows[i].path) for i in index], labels, self.view, augment=part == "train")

        return Splits(*map(part_of, _SPLITS), state={"classes": classes, "scales": scales})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the names of the classes, and mean and deviation of the numbers."""
        super().load_state_dict(state)
        self._update_objectives(self._describe(state["classes"], state["scales"]))

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
            axes.set_title("\n".join(captions), fontsize=7, fontweight="normal", loc="left")
        return {"Images of the test split: prediction, and the true label in brackets.": figure}

    def _describe(
        self, classes: Mapping[str, Sequence[str]], scales: Mapping[str, Sequence[float]]
    ) -> tuple[Objective, ...]:
        """Set ``info``; an objective per class list and per (mean, deviation) of numbers."""
        heads = {"classifiers": {name: len(names) for name, names in classes.items()}}
        regressors = dict.fromkeys(self.regression, 1)
        self.info = {"in_channels": 3, "image_size": self.view.size, **heads, "regressors": regressors}
        objectives = []
        for name, names in classes.items():
            count = max(len(names), 2)  # their names are only known once the table is read
            metrics = {"accuracy": accuracy(count), "macro_f1": macro_f1(count)}
            objectives.append(Objective(name, CrossEntropy(tuple(names)), metrics))
        for name, (mean, std) in scales.items():
            inverse = partial(_destandardize, mean=mean, std=std)
            metrics, unit = {"r2": r2(), "mae": absolute_error(inverse)}, f"{self.regression[name]}, standardised"
            objectives.append(Objective(name, SquaredError(unit), metrics, inverse))
        return tuple(objectives)

    # ---- the table -------------------------------------------------------------------------------------------------

    def _rows(self) -> list[_Row]:
        """Lines of the table, checked for everything but the labels themselves."""
        if self.csv is None:
            raise DataError(
                "image_table: say which table to read: task.csv=photos/labels.csv; see docs/your_own_images.md"
            )
        path = Path(self.csv)
        if not path.is_file():
            raise DataError(f"image_table: there is no file {path}; task.csv must name a CSV file with a column path")
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"image_table: {path} is not UTF-8 text ({error}); save it as CSV UTF-8") from None
        header = text.partition("\n")[0]
        reader = csv_module.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        self._check_columns(names)
        rows: list[_Row] = []
        lines: dict[str, int] = {}
        try:
            for cells in reader:
                if None in cells or None in cells.values():
                    message = "not as many cells as the header has; a cell with a comma in it needs quotes"
                    raise self._error(reader.line_num, message)
                row = _Row(reader.line_num, {name: cell.strip() for name, cell in cells.items()})
                if not row.path:
                    raise self._error(row.line, "the path is empty; remove the line")
                if row.path in lines:
                    message = f"{row.path} is on line {lines[row.path]} already; keep one line for each image, with all its labels"
                    raise self._error(row.line, message)
                lines[row.path] = row.line
                rows.append(row)
        except csv_module.Error as error:
            raise self._error(reader.line_num, f"{error}; is it a CSV file?") from None
        if not rows:
            raise DataError(f"image_table: {path} has no lines after the header; it needs one for each image")
        return rows

    def _error(self, line: int, message: str) -> DataError:
        return DataError(f"image_table: {self.csv}, line {line}: {message}")

    def _check_columns(self, names: Sequence[str]) -> None:
        known = ", ".join(name for name in names if name not in ("path", "split"))
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise DataError(f"image_table: {self.csv} has two columns {twice[0]!r}; rename one")
        if "path" not in names:
            raise DataError(
                f"image_table: {self.csv} has no column 'path'; rename the one that names the image files, "
                f"or add a header line (its columns: {', '.join(names)})"
            )
        if not self.columns:
            raise DataError(
                "image_table: say which columns to learn: 'task.classification=[...]' for classes, "
                f"'task.regression=[...]' for numbers ({self.csv} has {known})"
            )
        for column in self.columns.values():
            if column not in names:
                near = suggestion(column, names, "it has {}")
                raise DataError(f"image_table: {self.csv} has no column {column!r}; {near}")

    def _parts(self, rows: Sequence[_Row]) -> dict[str, np.ndarray]:
        """Row numbers of train, val and test."""
        if rows[0].split is None:
            # RandomState, unlike Generator, draws the same numbers in every NumPy version
            order = np.random.RandomState(self.split_seed).permutation(len(rows))
            val, test = (round(share * len(rows)) for share in self.shares)
            drawn = (order[val + test :], order[:val], order[val : val + test])
            parts = {name: np.sort(index) for name, index in zip(_SPLITS, drawn, strict=True)}
            remedy = f"{len(rows)} images are too few to split; add more, or change task.val_share and task.test_share"
        else:
            for row in rows:
                if row.split not in _SPLITS:
                    raise self._error(row.line, f"split must be train, val or test, got {row.split!r}")
            parts = {n: np.array([i for i, row in enumerate(rows) if row.split == n], int) for n in _SPLITS}
            remedy = "write it on some lines, or remove the column split to have the split drawn at random"
        for name, index in parts.items():
            if len(index) == 0:
                raise DataError(f"image_table: {self.csv} has no images in the split {name!r}; {remedy}")
        return parts

    def _check_labels(self, column: str, part: str, cells: Sequence[str]) -> None:
        """Raise DataError unless there are two labels in each part, and in training different ones."""
        known = [cell for cell in cells if cell]
        if len(known) < 2:
            raise DataError(
                f"image_table: {self.csv} has {len(known)} labels of {column!r} in the split {part!r}, and needs at least 2; "
                "label more images, or leave the column out"
            )
        if part == "train" and len(set(known)) < 2:
            raise DataError(self._constant(column, known[0]))

    def _constant(self, column: str, value: object) -> str:
        return (
            f"image_table: in {self.csv} every training image has {column} {value}, so there is nothing to learn; "
            "leave the column out, or add images that differ"
        )

    def _classes(self, column: str, cells: Sequence[str]) -> tuple[str, ...]:
        known = [cell for cell in cells if cell]
        names = set(known)
        if len(names) > 2 and 2 * len(names) > len(known):
            raise DataError(
                f"image_table: column {column!r} of {self.csv} has {len(names)} classes in {len(known)} labels, fewer than two "
                f"images for each; if it holds numbers, name it in task.regression"
            )
        numbers = all(re.fullmatch(r"-?\d+(\.\d*)?", name) for name in names)
        return tuple(sorted(names, key=lambda name: (float(name), name)) if numbers else sorted(names))

    def _number(self, row: _Row, column: str) -> float:
        text = row.cells[column]
        try:
            number = float(text) if text else math.nan
        except ValueError:
            number = math.inf
        if math.isinf(number) or (text and math.isnan(number)):
            remedy = "leave the cell empty if the label is missing, or name the column in task.classification"
            raise self._error(row.line, f"{text!r} is no {column}, which must be a number; {remedy}")
        return number


class _Row(NamedTuple):
    """One line of the table."""

    line: int
    cells: dict[str, str]

    @property
    def path(self) -> str:
        return self.cells["path"]

    @property
    def split(self) -> str | None:
        return self.cells["split"].lower() if "split" in self.cells else None


def _objective_name(column: str) -> str:
    """The column's name as a key: results are <objective>/<metric>, and heads are modules."""
    name = re.sub(r"\W", "_", column)
    return f"{name}_" if hasattr(nn.ModuleDict(), name) else name


def _destandardize(values: Tensor, mean: float, std: float) -> Tensor:
    return values * std + mean


def _caption(objective: Objective, output: Tensor, label: Tensor) -> str:
    """``objective: prediction (label)``."""
    if isinstance(objective.criterion, CrossEntropy):
        classes = objective.criterion.classes
        predicted, actual = classes[int(output.argmax())], classes[int(label)] if label >= 0 else "unknown"
    else:
        predicted = f"{objective.inverse_transform(output).item():.3g}"
        actual = "unknown" if label.isnan() else f"{objective.inverse_transform(label).item():.3g}"
    # a dollar sign would begin a formula
    return f"{objective.name}: {predicted} ({actual})".replace("$", r"\$")
