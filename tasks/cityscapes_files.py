"""Cityscapes as it is published.

    <root>/{leftImg8bit,gtFine,disparity}/<split>/<city>/*.png

Ids in the label pictures stand for 35 classes, of which public code keeps 19, or adds up most to 7 categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tasks.file_checks import is_hidden
from tasks.image_reading import opened
from tasks.map_files import MapFiles, Read, check_depth, check_image
from tasks.map_kinds import MapKind
from tasks.task import DataError

# fmt: off
_CLASS_IDS = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}
# category -> first and last of its ids
_CATEGORY_IDS = {
    "flat": (7, 10), "construction": (11, 16), "object": (17, 20), "nature": (21, 22), "sky": (23, 23), "human": (24, 25),
    "vehicle": (26, 33),
}
# fmt: on
CLASSES = tuple(_CLASS_IDS.values())
CATEGORIES = tuple(_CATEGORY_IDS)


def cityscapes_folder(root: Path, split: str, kinds: Mapping[str, MapKind]) -> MapFiles:
    """One split of Cityscapes as it is published.

    Depth is the disparity picture / 65535, as in MTAN's files.

    Args:
        root: Holds ``leftImg8bit``, ``gtFine`` and ``disparity``.
        split: ``train`` or ``val``.
        kinds: Those of ``segmentation``, 19 classes or 7 categories, and ``depth``.

    Raises:
        DataError: A folder has no pictures, or a picture has no labels or no disparity.
    """
    found = (root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")
    images = sorted(image for image in found if not is_hidden(image))
    if not images:
        raise DataError(f"{root / 'leftImg8bit' / split} has no <city>/*_leftImg8bit.png; unpack the set again")
    table = np.full(256, -1, np.int16)
    categories = len(kinds["segmentation"].classes) == len(CATEGORIES)
    for index, (first, last) in enumerate(_CATEGORY_IDS.values() if categories else [(i, i) for i in _CLASS_IDS]):
        table[first : last + 1] = index
    rows = [{"image": image, **_others(image)} for image in images]
    for row in rows:
        for path in row.values():
            if not path.is_file():
                raise DataError(f"{path} is missing, but {row['image']} is there; unpack the set again")
    reads: dict[str, Read] = {
        "image": _read_image,
        "segmentation": partial(_read_labels, table=table),
        "depth": _read_disparity,
    }
    return MapFiles(rows, reads, kinds)


def _read_image(path: Path) -> np.ndarray:
    return check_image(_picture(path))


def _read_labels(path: Path, table: np.ndarray) -> np.ndarray:
    array = _picture(path)
    if array.ndim != 2 or array.dtype != np.uint8 or array.max() > 33:
        raise ValueError("label ids must be one channel of bytes up to 33")
    return table[array]


def _read_disparity(path: Path) -> np.ndarray:
    return check_depth(_picture(path) / np.float32(65535))


def _picture(path: Path) -> np.ndarray:
    with opened(path) as picture:
        return np.asarray(picture)


def _others(image: Path) -> dict[str, Path]:
    """Files of the labels and of the disparity of an image."""
    root, split, city = image.parents[3], image.parent.parent.name, image.parent.name
    places = {"segmentation": ("gtFine", "gtFine_labelIds"), "depth": ("disparity", "disparity")}
    return {
        name: root / folder / split / city / image.name.replace("leftImg8bit", ending)
        for name, (folder, ending) in places.items()
    }
