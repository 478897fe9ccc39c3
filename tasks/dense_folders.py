"""NYUv2 and Cityscapes: pictures with a map per objective (labels, depth, normals).

    <root>/{train,val}/{image,label,depth,normal}/<i>.npy        the pre-processed NYUv2 and Cityscapes of MTAN
    <root>/{leftImg8bit,gtFine,disparity}/<split>/<city>/*.png   Cityscapes as it is published

There is no validation split in either benchmark, so a part of the training pictures is held out for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tasks.cityscapes_files import CATEGORIES, CLASSES, cityscapes_folder
from tasks.dense_task import DenseData, DenseTask
from tasks.file_checks import check_all
from tasks.map_files import MapFiles, npy_folder, pixels
from tasks.map_kinds import MapKind
from tasks.registry import register_task
from tasks.table_files import TextTable
from tasks.table_splits import kept_fingerprint
from tasks.task import DataError, Splits

NYU_CLASSES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv"),
    *("wall", "window"),
)


@register_task("nyuv2")
class NYUv2(DenseTask):
    """Segmentation (13 classes), depth and normals of indoor pictures.

    In MTAN's pre-processed files: 795 pictures to train on, and 654 to test on.

    Args:
        root: Folder of the set; ``null``: in ``data_dir``.
        protocol: ``pooled``: sums over all pixels. ``mtan``: averages over batches and augmentation as in public code.
        augment: Zoom and mirror training pictures.
        jitter: Largest relative change of brightness and contrast in training.
        rarity: A class counts in the loss as its frequency to the power of minus this; public code has 0.
        validation: Share of the training pictures held out to select on; 0 selects on the test pictures, as public code.
    """

    def __init__(
        self,
        root: str | None = None,
        protocol: Literal["pooled", "mtan"] = "pooled",
        augment: bool = True,
        jitter: float = 0.0,
        rarity: float = 0.0,
        validation: float = 0.1,
    ) -> None:
        maps = {
            "segmentation": MapKind("classes", NYU_CLASSES),
            "depth": MapKind("depth"),
            "normals": MapKind("normals"),
        }
        super().__init__(protocol, augment, jitter, maps, rarity)
        self.root, self.validation = root, check_validation(validation)

    def load(self, data_dir: Path) -> Splits:
        """Find the set and check its files."""
        places = [Path(self.root)] if self.root else [data_dir / "nyuv2", data_dir / "NYUv2", data_dir]
        root = find_set(self.name, places, ("train/image",), "https://github.com/lorenmt/mtan (NYUv2, 8.5 GB)")
        maps = {"image": "image", "segmentation": "label", "depth": "depth", "normals": "normal"}
        train, test = (npy_folder(root / split, maps, self.maps) for split in ("train", "val"))
        return held_out_splits(self, train, test, self.validation, data_dir)


@register_task("cityscapes")
class Cityscapes(DenseTask):
    """Segmentation and inverse depth of streets.

    In MTAN's files or as Cityscapes is published: 2,975 pictures to train on, and 500 to test on.
    Depth is the disparity picture divided by 65535, as in all public tables; the official split ``val`` is the test split.
    Arguments that are not named here are those of :class:`NYUv2`.

    Args:
        classes: 7 categories or 19 classes.
        height: Pictures of another size are resized.
        width: Pictures of another size are resized.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: Literal[7, 19] = 7,
        height: int = 128,
        width: int = 256,
        protocol: Literal["pooled", "mtan"] = "pooled",
        augment: bool = True,
        jitter: float = 0.0,
        rarity: float = 0.0,
        validation: float = 0.1,
    ) -> None:
        if min(height, width) < 1:
            raise ValueError(f"cityscapes: height and width must be at least 1, got {height} and {width}")
        names = CATEGORIES if classes == 7 else CLASSES
        disparity = MapKind("disparity", unit="disparity / 65535")
        maps = {"segmentation": MapKind("classes", names), "depth": disparity}
        super().__init__(protocol, augment, jitter, maps, rarity)
        self.root, self.size, self.validation = root, (height, width), check_validation(validation)

    def load(self, data_dir: Path) -> Splits:
        """Find the set, in either layout, and check its files."""
        places = [Path(self.root)] if self.root else [data_dir / "cityscapes", data_dir / "Cityscapes", data_dir]
        where = "https://github.com/lorenmt/mtan (pre-processed) or https://www.cityscapes-dataset.com (leftImg8bit, gtFine, disparity)"
        root = find_set(self.name, places, ("leftImg8bit/train", "train/image"), where)
        if (root / "leftImg8bit").is_dir():
            train, test = (cityscapes_folder(root, split, self.maps) for split in ("train", "val"))
        else:
            train, test = (self._npy(root / split) for split in ("train", "val"))
        return held_out_splits(self, train, test, self.validation, data_dir, self.size)

    def _npy(self, folder: Path) -> MapFiles:
        # public readers disagree on the name of the labels
        classes = len(self.maps["segmentation"].classes)
        named = f"label_{classes}"
        label = named if (folder / named).is_dir() or classes != 7 else "label"
        return npy_folder(folder, {"image": "image", "segmentation": label, "depth": "depth"}, self.maps)


def held_out_splits(
    task: DenseTask,
    train: MapFiles,
    test: MapFiles,
    share: float,
    data_dir: Path,
    size: tuple[int, int] | None = None,
) -> Splits:
    """Splits of a set without validation pictures: the last training pictures are taken.

    Neighbors often show the same place, so they are not drawn.
    Every file is read once. Raises DataError if one is damaged or, without a ``size``, of another size than the first, and if
    names or sizes of files are not those that the task knows from training.
    """
    rows, last = range(len(train)), DenseData(test, range(len(test)), size=size)
    count = max(round(share * len(train)), 1) if share else 0
    if count >= len(train):
        raise DataError(f"{task.name}: {len(train)} training samples are too few to hold out {count} of them")
    listing = listed_files(task.name, {"train": train, "test": test})
    seen = kept_fingerprint(listing, task.state_dict().get("table"), another=False)
    sizes = []
    for folder in (train, test):
        files = [list(row.values()) for row in folder.rows]
        sizes += check_all(files, folder.inspect, data_dir / ".checked", repr(task.maps), f"the files of {task.name}")
    for found, row in zip(sizes, [*train.rows, *test.rows], strict=True):
        if size is None and found["size"] != sizes[0]["size"]:
            raise DataError(
                f"{task.name}: {row['image']} is {pixels(found['size'])} pixels, but {train.rows[0]['image']} is "
                f"{pixels(sizes[0]['size'])}; all must have one size: unpack the set again, or use task=maps, which resizes"
            )
    val = DenseData(train, rows[-count:], size=size) if count else last
    splits = task.make_splits(DenseData(train, rows[: len(train) - count], task.transform, size), val, last)
    return replace(splits, state={**splits.state, "table": seen})


def listed_files(owner: str, parts: Mapping[str, MapFiles]) -> TextTable:
    """Names and sizes of all files, a column for each map, and the part of each sample."""
    folders = [str(path.parent) for files in parts.values() for row in files.rows[:1] for path in row.values()]
    root = os.path.commonpath(folders)

    def cell(path: Path) -> str:
        return f"{os.path.relpath(path, root)}, {path.stat().st_size:,} bytes".replace(os.sep, "/")

    rows = [(part, row) for part, files in parts.items() for row in files.rows]
    columns = {name: [cell(row[name]) for _, row in rows] for name in rows[0][1]}
    columns["split"] = [part for part, _ in rows]
    return TextTable.of_columns(owner, root, columns, "image")


def check_validation(validation: float) -> float:
    """The share. Raises ValueError if it is out of range."""
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1), got {validation}")
    return validation


def find_set(task: str, places: Sequence[Path], marks: Sequence[str], where: str) -> Path:
    """The first of ``places`` with one of the folders ``marks``.

    Raises DataError that says where to get the set.
    """
    for place in places:
        if any((place / mark).is_dir() for mark in marks):
            return place
    paths = ", ".join(str(place / mark) for place in places for mark in marks)
    raise DataError(
        f"{task}: no data; looked for {paths}. Get them from {where}, unpack them to {places[0]}, or set task.root"
    )
