"""Cityscapes as it is published.

    <root>/{leftImg8bit,gtFine,disparity}/<split>/<city>/*.png

Ids in the label pictures stand for 35 classes, of which public code keeps 19, or adds up most to 7 categories.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.map_files import check_depth, check_image, pixels
from tasks.resampling import Sample
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


class CityscapesFolder:
    """One split of Cityscapes as it is published.

    Depth is the disparity picture / 65535, as in MTAN's files.

    Args:
        root: Holds ``leftImg8bit``, ``gtFine`` and ``disparity``.
        split: ``train`` or ``val``.
        classes: 19 classes, or 7 categories.

    Raises:
        DataError: A folder has no pictures, or a picture has no labels or no disparity.
    """

    def __init__(self, root: Path, split: str, classes: int) -> None:
        self.classes = classes
        self.images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        if not self.images:
            raise DataError(f"{root / 'leftImg8bit' / split} has no <city>/*_leftImg8bit.png; unpack the set again")
        self._table = np.full(256, -1, np.int16)
        for index, (first, last) in enumerate(_CATEGORY_IDS.values() if classes == 7 else [(i, i) for i in _CLASS_IDS]):
            self._table[first : last + 1] = index
        for image in self.images:
            for path in self._others(image):
                if not path.is_file():
                    raise DataError(f"{path} is missing, but {image} is there; unpack the set again")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Sample:
        """Sample number ``index``. Raises DataError naming the file that is damaged."""
        image = self.images[index]
        labels, disparity = self._others(image)
        return {
            "image": _picture(image, lambda a: check_image(a, 0)),
            "segmentation": _picture(labels, self._labels, image),
            "depth": _picture(disparity, lambda a: check_depth(a / np.float32(65535), 0), image),
        }

    def _labels(self, array: np.ndarray) -> np.ndarray:
        if array.ndim != 2 or array.dtype != np.uint8 or array.max() > 33:
            raise ValueError("label ids must be one channel of bytes up to 33")
        return self._table[array]

    @staticmethod
    def _others(image: Path) -> list[Path]:
        """Files of the labels and of the disparity of an image."""
        root, split, city = image.parents[3], image.parent.parent.name, image.parent.name
        kinds = {"gtFine": "gtFine_labelIds", "disparity": "disparity"}
        return [root / key / split / city / image.name.replace("leftImg8bit", kind) for key, kind in kinds.items()]


def _picture(path: Path, check: Callable[[np.ndarray], np.ndarray], like: Path | None = None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            array = check(np.asarray(picture))
        if like is not None:
            with Image.open(like) as other:
                if array.shape[1::-1] != other.size:
                    raise ValueError(f"it is {pixels(array)} pixels, its image {other.size[1]} x {other.size[0]}")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is damaged ({error}); unpack the set again") from None
    return array
