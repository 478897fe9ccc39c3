"""Samples with a map per objective, as files: checks of maps, and MTAN's layout.

    <root>/{image,label,depth,normal}/<i>.npy       channels last, images in [0, 1], label -1 and depth 0 and normal 0 = unknown

A sample is checked when it is read: a truncated file, a wrong shape, a class out of range or a NaN is a DataError that names
the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from tasks.resampling import Sample, planes
from tasks.task import DataError


class Folder(Protocol):
    """Samples on a disk."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Checked ``image`` (H, W, 3), ``segmentation``, ``depth`` (H, W), ``normals`` (3, H, W)."""


class NpyFolder:
    """One split in MTAN's layout: a folder per map, ``<i>.npy`` in each, i = 0 ... N - 1.

    Arrays have channels last and any real dtype.

    Args:
        root: Holds the folders of the maps.
        maps: Name in the sample -> name of the folder, such as ``{"image": "image", "segmentation": "label"}``.
        classes: Labels are -1 or in [0, classes).
        remedy: What to do about a damaged file, for error messages.
        count: Use only the first ones.

    Raises:
        DataError: A folder is missing or empty, or has another number of files than the images have.
    """

    def __init__(
        self,
        root: Path,
        maps: Mapping[str, str],
        classes: int,
        remedy: str = "unpack the set again",
        count: int | None = None,
    ) -> None:
        self.root, self.maps, self.classes, self.remedy = root, dict(maps), classes, remedy
        counts: dict[Path, int] = {}
        for kind in self.maps.values():
            folder = root / kind
            if not folder.is_dir():
                raise DataError(f"{folder} is missing; {remedy}")
            names = {path.name for path in folder.glob("*.npy")}
            size = len(names) if count is None else count
            absent = next((i for i in range(size) if f"{i}.npy" not in names), None)
            if not names or absent is not None:
                raise DataError(f"{folder} has {f'no {absent}.npy' if names else 'no .npy files'}; {remedy}")
            counts[folder] = size
        (first, size), *others = counts.items()
        for folder, other in others:
            if other != size:
                raise DataError(f"{folder} has {other} files, but {first} has {size}; {remedy}")
        self._size = size
        # a large block that was freed: from now on glibc keeps memory for the next sample, which halves the time to read one
        np.empty(31 << 20, np.uint8)

    def __len__(self) -> int:
        return self._size

    def read(self, index: int) -> Sample:
        """Sample number ``index``. Raises DataError naming the file that is damaged."""
        sample: Sample = {}
        for name, kind in self.maps.items():
            path = self.root / kind / f"{index}.npy"
            try:
                array = np.load(path, allow_pickle=False)
                if not isinstance(array, np.ndarray):
                    raise ValueError("it holds no array")
                sample[name] = _CHECKS[name](array, self.classes)
                if array.shape[:2] != sample["image"].shape[:2]:
                    raise ValueError(f"it is {pixels(array)} pixels, its image {pixels(sample['image'])}")
            except (OSError, ValueError, EOFError, MemoryError) as error:
                raise DataError(f"{path} is damaged ({error}); {self.remedy}") from None
        return sample


# ---- checks of maps: (array, classes) -> the array in our dtype; ValueError if it is no such map --------------------------


def check_image(array: np.ndarray, _: int) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"an image must be (H, W, 3), not {array.shape}")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    array = _real(array)
    if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):  # false for NaN
        raise ValueError(f"an image must be in [0, 1], not in [{array.min():.4g}, {array.max():.4g}]")
    return array


def _segmentation(array: np.ndarray, classes: int) -> np.ndarray:
    array = _real(_plane(array, "labels"))
    labels = array.astype(np.int16) if np.isfinite(array.sum()) else np.zeros(0, np.int16)
    if labels.size == 0 or labels.min() < -1 or labels.max() >= classes or not np.array_equal(labels, array):
        raise ValueError(f"labels must be whole numbers from -1 to {classes - 1}; {_range(array)}")
    return labels


def check_depth(array: np.ndarray, _: int) -> np.ndarray:
    """(H, W) float32, 0 where unknown."""
    array = _real(_plane(array, "depth"))
    if not (array.min() >= 0 and array.max() < np.inf):
        raise ValueError(f"depth must be finite and not negative, 0 where unknown; {_range(array)}")
    return array


def _normals(array: np.ndarray, _: int) -> np.ndarray:
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"normals must be (H, W, 3), not {array.shape}")
    array = _real(array)
    if not (array.min() >= -1.01 and array.max() <= 1.01):
        raise ValueError(f"normals must have length 1, or 0 where unknown; {_range(array)}")
    return planes(array)


def _plane(array: np.ndarray, what: str) -> np.ndarray:
    plane = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if plane.ndim != 2 or plane.size == 0:
        raise ValueError(f"{what} must be (H, W) or (H, W, 1), not {array.shape}")
    return plane


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"its numbers are {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _range(array: np.ndarray) -> str:
    return f"found {array.min():.4g} to {array.max():.4g}"


def pixels(array: np.ndarray) -> str:
    """Size of a picture in words."""
    return " x ".join(str(side) for side in array.shape[:2])


_CHECKS = {"image": check_image, "segmentation": _segmentation, "depth": check_depth, "normals": _normals}
