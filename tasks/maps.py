"""Maps: a user's own pictures with maps and labels, from folders or from a table of paths.

    photos/images/a.jpg   photos/ground/a.png   photos/height/a.tif
    task.root=photos 'task.maps={ground: {kind: classes, classes: [road, grass]}, height: {kind: depth, scale: 0.001}}'

Each map is an objective, and so is each label: a column of the table that says something of the whole picture.
:mod:`tasks.map_formats` has the kinds and how they are written in files, :mod:`tasks.map_sources` where the files are. All of
them are read once before a run begins. A sample may lack a map or a label; its others are used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from tasks.criteria import choose_criteria, create_criterion, default_criterion
from tasks.dense_task import DenseData, DenseTask
from tasks.file_checks import check_all
from tasks.image_reading import read_photo
from tasks.map_files import MapFiles, check_image, load_npy, pixels
from tasks.map_formats import map_format
from tasks.map_sources import MapRows, rows_of_folders, rows_of_table
from tasks.registry import register_task
from tasks.table_files import MISSING, SimilarClasses, missing_spellings
from tasks.table_inputs import Reader, Settings
from tasks.table_labels import Label, check_labelled, choose_labels, fit_label, known_rows, label_note, objective_name
from tasks.table_splits import PARTS, Shares, check_shares, kept_fingerprint
from tasks.task import DataError, Objective, Splits


@register_task("maps")
class Maps(DenseTask):
    """A user's own pictures, with an objective for every map and label.

    Args:
        root: Folder with the folders of images and maps.
        csv: A table of paths instead, with a column for the images and for each map.
        folder: Where the paths in the table start; the folder of the table if ``None``.
        images: Folder, or column, of the images.
        maps: Name -> ``kind`` and what the numbers in its files mean, see :mod:`tasks.map_formats`.
        labels: Column of the table -> what its cells say of the whole picture: ``classes``, ``ordered``, ``tags``, ``number`` or
            ``count``, or a mapping with this ``kind`` and options, as for :class:`tasks.table.Table`.
        height: Size to which samples are brought; ``None``: they have one size.
        width: Likewise.
        fit: Samples of another shape: ``crop`` keeps their middle, ``stretch`` distorts them.
        mirror: Probability of mirroring a training sample. Set it to 0 if left and right have a meaning.
        zoom: Zoom in on training samples, by 1, 1.2 or 1.5; depths are divided by it.
        jitter: Largest relative change of brightness and contrast in training.
        criteria: Map or label -> criterion, a name or a mapping with a name and options, where it is not the usual one.
        missing: Spellings of a missing label besides the empty cell, without case.
        similar_classes: Of labels, classes that differ in case or spelling of numbers only: ``refuse``, ``join`` or ``keep``.
        val_share: Share of the samples to validate on, where no folder or column says it.
        test_share: Share of the samples to test on, likewise.
        split_seed: Seed of that split, which is drawn by the names of the images.

    Raises:
        ValueError: A value out of range, or a map or label that is not described well.
    """

    def __init__(
        self,
        root: str | None = None,
        csv: str | None = None,
        folder: str | None = None,
        images: str = "images",
        maps: Mapping[str, Any] | None = None,
        labels: Mapping[str, str | Mapping[str, Any]] | Sequence[str] | str | None = None,
        height: int | None = None,
        width: int | None = None,
        fit: Literal["crop", "stretch"] = "crop",
        mirror: float = 0.5,
        zoom: bool = True,
        jitter: float = 0.0,
        criteria: Mapping[str, Any] | None = None,
        missing: Sequence[str] = MISSING[1:],
        similar_classes: SimilarClasses = "refuse",
        val_share: float = 0.15,
        test_share: float = 0.15,
        split_seed: int = 0,
    ) -> None:
        self.labels = choose_labels("maps", labels, "labels")
        _check_names([str(name) for name in maps or {}], [choice.column for choice in self.labels.values()])
        self.formats = {str(name): map_format(str(name), options) for name, options in (maps or {}).items()}
        kinds = {name: form.kind for name, form in self.formats.items()}
        criteria = criteria or {}
        others = {name: chosen for name, chosen in criteria.items() if name not in kinds} if self.labels else {}
        of_maps = {name: chosen for name, chosen in criteria.items() if name not in others}
        super().__init__("pooled", True, jitter, kinds, zoom=zoom, mirror=mirror, criteria=of_maps)
        self.chosen = choose_criteria("task.criteria", others, self.labels)
        self.missing, self.similar_classes = missing_spellings(missing), similar_classes
        self.objectives += tuple(map(self._unfitted, self.labels))
        self._labels: tuple[Label, ...] = ()
        self.shares = Shares(val_share, test_share)
        check_shares("maps", self.shares)
        if (height is None) != (width is None) or any(side is not None and side < 1 for side in (height, width)):
            raise ValueError(f"maps: height and width must both be at least 1, or both null, got {height} and {width}")
        if root is not None and csv is not None:
            raise ValueError("maps: give task.root or task.csv, not both")
        if root is not None and self.labels:
            raise ValueError("maps: task.labels are columns of a table of paths; give task.csv instead of task.root")
        self.root, self.csv, self.folder, self.images, self.split_seed = root, csv, folder, images, split_seed
        self.size, self.crop = None if height is None or width is None else (height, width), fit == "crop"

    def load(self, data_dir: Path) -> Splits:
        """Find the files, read each of them once, and split."""
        found, notes = self._find()
        if not self.formats:
            raise DataError(
                "maps: say which maps there are: 'task.maps={ground: {kind: classes, classes: [road, grass]}, height: {kind: depth}}'; "
                "see docs/your_own_maps.md"
            )
        return self._splits(data_dir, found, notes, kept_fingerprint(found.table, self._state.get("table")))

    def labelled(self, path: Path) -> Splits:
        """The samples of another table of paths, as all three parts."""
        folder = None if self.folder is None else Path(self.folder)
        found, notes = rows_of_table(path, folder, self.images, self.formats, None, 0, self._columns)
        return self._splits(None, found, notes, self._state.get("table", {}))

    def _splits(self, data_dir: Path | None, found: MapRows, notes: Sequence[str], seen: Mapping[str, Any]) -> Splits:
        reader = Reader(found.source, Settings(self.missing, "median", 1))
        fitted = self._labels or [
            fit_label(reader, name, choice, self.chosen.get(name), found.parts["train"], self.similar_classes)
            for name, choice in self.labels.items()
        ]
        labels = {label.name: label.targets(reader, self.similar_classes) for label in fitted}
        for label in fitted:
            for part, rows in found.parts.items():
                known = known_rows(labels[label.name])[torch.from_numpy(rows)]
                check_labelled(label, known, part, f"maps: {found.source.source}")
        reads = {"image": read_image, **{name: form.read for name, form in self.formats.items()}}
        files = MapFiles(
            found.rows, reads, self.maps, "mend or replace it, or remove the sample", "maps: {} cannot be used"
        )
        paths = [list(row.values()) for row in found.rows]
        memory = None if data_dir is None else data_dir / ".checked"
        about = check_all(paths, files.inspect, memory, repr(self.formats), "images and maps")
        depths = self._state.get("depths") or self._mean_depths(found, about)
        files.reads |= {name: replace(self.formats[name], unit_depth=depth).read for name, depth in depths.items()}
        before = self._state.get("size")
        size = self.size or (before and (before[0], before[1])) or self._common_size(found, about)
        self._check_parts(found, about)
        notes = [*notes, *self._notes(found, about, size)]
        notes += [label_note(label, labels[label.name], found.parts["train"]) for label in fitted]
        lacking = [
            next((i for i, n in enumerate(found.parts["train"]) if not about[n]["maps"][m]["known"]), -1)
            for m in self.maps
        ]

        def part_of(part: str) -> DenseData:
            rows = found.parts[part].tolist()
            train = part == "train"
            unlabelled = [row for row in lacking if row >= 0] if train else ()
            return DenseData(files, rows, self.transform if train else None, size, self.crop, unlabelled, labels)

        splits = self.make_splits(*map(part_of, PARTS))
        weights = self._state.get("class_weights") or splits.state["class_weights"]
        state = {"size": list(size), "depths": depths, "class_weights": weights, "table": seen}
        state |= {"labels": [label.state() for label in fitted]} if fitted else {}
        return replace(splits, state=state, notes=tuple(notes))

    def state_dict(self) -> dict[str, Any]:
        """Size of pictures, depths that are 1 for the model, class weights, labels, files."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the size, the depths that are 1 for the model, and what labels mean."""
        super().load_state_dict(state)
        self._labels = tuple(map(Label.restored, state.get("labels", ())))
        self._update_objectives(label.objective() for label in self._labels)
        sizes = {label.name: create_criterion(**label.criterion).outputs for label in self._labels}
        self.info = {**self.info, "labels": sizes}
        self._update_objectives(
            _in_units(o, self.maps[o.name].unit, state["depths"][o.name])
            for o in self.objectives
            if o.name in state["depths"]
        )

    def for_model(self, arguments: Collection[str]) -> Self:
        """As for other tasks. Raises DataError for labels that the model has no heads for."""
        if self.labels and "labels" not in arguments and not {"maps", "classifiers"} <= {*arguments}:
            raise DataError(
                f"maps: this model has no heads for labels of the whole picture, and task.labels names {', '.join(self._columns)}; "
                "choose model=dense or another dense model with model.labels=auto, or leave the labels out"
            )
        return super().for_model(arguments)

    def read_image(self, path: Path) -> np.ndarray:
        """(H, W, 3) in [0, 1] of a picture, or of an .npy file like those of the set."""
        return read_image(path)

    @property
    def _columns(self) -> list[str]:
        return [choice.column for choice in self.labels.values()]

    def _unfitted(self, name: str) -> Objective:
        """Objective of a label before the table is read."""
        kind = self.labels[name].kind or "classes"
        return Objective(name, default_criterion(f"task.criteria.{name}", kind).build(kind, classes=()), {})

    def _find(self) -> tuple[MapRows, Sequence[str]]:
        if self.root is not None:
            return rows_of_folders(Path(self.root), self.images, self.formats, self.shares, self.split_seed), ()
        if self.csv is None:
            raise DataError(
                "maps: say where the images are: task.root=photos, a folder, or task.csv=photos/paths.csv; see docs/your_own_maps.md"
            )
        folder = None if self.folder is None else Path(self.folder)
        return rows_of_table(
            Path(self.csv), folder, self.images, self.formats, self.shares, self.split_seed, self._columns
        )

    def _mean_depths(self, found: MapRows, about: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Mean depth of the training maps, that of a model's first outputs, whatever the unit."""
        depths = {}
        for name, kind in self.maps.items():
            if kind.kind in ("depth", "disparity"):
                means = [about[row]["maps"][name].get("mean") for row in found.parts["train"]]
                depths[name] = float(np.mean([mean for mean in means if mean is not None] or [1.0]))
        return depths

    def _common_size(self, found: MapRows, about: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        sizes = {tuple(each["size"]): row["image"] for each, row in zip(about, found.rows, strict=True)}
        if len(sizes) > 1:
            (first, a), (second, b) = list(sizes.items())[:2]
            raise DataError(
                f"maps: images have {len(sizes)} sizes, such as {pixels(first)} ({a}) and {pixels(second)} ({b}); say to which they "
                "are brought: task.height and task.width, and task.fit=crop (their middle) or stretch"
            )
        height, width = next(iter(sizes))
        return height, width

    def _check_parts(self, found: MapRows, about: Sequence[Mapping[str, Any]]) -> None:
        for part, rows in found.parts.items():
            if not len(rows):
                raise DataError(
                    f"maps: there are no images in the split {part}; add some, or change task.val_share and task.test_share"
                )
            for name in self.maps:
                if not any(about[row]["maps"][name]["known"] for row in rows):
                    raise DataError(
                        f"maps: no pixel of {name!r} is known in the split {part!r} ({len(rows)} images); add maps, or leave it out"
                    )

    def _notes(self, found: MapRows, about: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[str]:
        """What was found, and what a user may not know."""
        counts = ", ".join(f"{len(rows)} {part}" for part, rows in found.parts.items())
        sizes = sorted({tuple(each["size"]) for each in about})
        notes = [f"{len(found.rows)} images ({counts}) of {pixels(sizes[0])} pixels"]
        if sizes != [size]:
            until = f" to {pixels(sizes[-1])}" if len(sizes) > 1 else ""
            way = "resized after their middle is cut out" if self.crop else "stretched"
            notes = [f"{len(found.rows)} images ({counts}) of {pixels(sizes[0])}{until} pixels, {way}: {pixels(size)}"]
        for name, kind in self.maps.items():
            maps = [each["maps"][name] for each in about]
            words = [kind.kind if kind.kind != "classes" else f"{len(kind.classes)} classes"]
            ranges = [each["range"] for each in maps if "range" in each]
            if ranges:
                low, high = min(a for a, _ in ranges), max(b for _, b in ranges)
                words.append(f"{low:.4g} to {high:.4g} {kind.unit}".rstrip())
            missing = sum(name not in row for row in found.rows)
            empty = sum(not each["known"] for each in maps) - missing
            words += [f"none for {missing} of the images"] if missing else []
            words += [f"no known pixel in {empty} of the maps"] if empty else []
            notes.append(f"{name}: {', '.join(words)}")
            if kind.kind in ("classes", "binary"):
                names = kind.classes if kind.kind == "classes" else ("0", "1")
                seen = {
                    p: {c for row in rows for c in about[row]["maps"][name]["classes"]}
                    for p, rows in found.parts.items()
                }
                for code, word in enumerate(names):
                    where = [part for part in PARTS if code in seen[part]]
                    if "train" not in where:
                        told = f"only in {' and '.join(where)}, and cannot be learnt" if where else "nowhere"
                        notes.append(f"{name}: the class {word!r} occurs {told}")
        return notes


def _in_units(objective: Objective, unit: str, depth: float) -> Objective:
    """The objective with metrics and predictions in the unit of the files."""
    inverse = partial(torch.mul, other=depth)
    metrics = {key: replace(metric, transform=inverse) for key, metric in objective.metrics.items()}
    criterion: Any = objective.criterion
    criterion = replace(criterion, unit=f"in {unit or 'units'}, divided by {depth:.6g}")
    return replace(objective, criterion=criterion, metrics=metrics, inverse_transform=inverse)


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) in [0, 1]. Raises what damaged files raise, see ``tasks.map_files.DAMAGE``."""
    return check_image(load_npy(path) if path.suffix.lower() == ".npy" else read_photo(path))


def _check_names(maps: Sequence[str], labels: Sequence[str]) -> None:
    """Raise ValueError for a name that a map or a label cannot have."""
    for name in maps:
        if not name.isidentifier() or objective_name(name) != name or name in ("image", "split"):
            raise ValueError(f"task.maps: a map cannot be called {name!r}; take another name, of letters, digits and _")
    for column in labels:
        if objective_name(column) in maps:
            raise ValueError(
                f"task.labels: a map is called {column!r} already; rename the map, and name its column: folder"
            )
        if column.casefold() in ("image", "split"):
            raise ValueError(
                f"task.labels: the column {column!r} has another meaning, and cannot be a label; rename it"
            )
