"""Samples with a map per objective, as files, and checks of what is in the files.

    rows: image and maps of a sample, a path each -> a function per map from a path to a checked array -> sample

MTAN's layout is one of its recipes:

    <root>/{image,label,depth,normal}/<i>.npy       channels last, images in [0, 1], label -1 and depth 0 and normal 0 = unknown

A sample is checked when it is read: a truncated file, a wrong shape, a class out of range or a NaN is a DataError that names
the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tasks.file_checks import check_regular, is_hidden
from tasks.map_kinds import MapKind
from tasks.resampling import Sample, planes
from tasks.task import DataError

Read = Callable[[Path], np.ndarray]
_FARTHEST = 1e5  # larger than any depth or disparity that is meant
DAMAGE = (OSError, ValueError, EOFError, MemoryError, SyntaxError, Image.DecompressionBombError)


class Folder(Protocol):
    """Samples on a disk."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Checked ``image`` (H, W, 3), and maps; see :mod:`tasks.map_kinds`."""


class MapFiles:
    """Samples whose image and maps are files.

    Args:
        rows: Name -> file of each sample, ``image`` among them; a map without a file is unknown.
        reads: Name -> function that reads such a file and checks it; it raises ValueError with what is wrong.
        kinds: Name -> kind, of the maps; those that may lack a file need one.
        remedy: What to do about a damaged file, for error messages.
        problem: What these begin with, with ``{}`` for the file.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Path]],
        reads: Mapping[str, Read],
        kinds: Mapping[str, MapKind] | None = None,
        remedy: str = "unpack the set again",
        problem: str = "{} is damaged",
    ) -> None:
        self.rows, self.reads, self.kinds = rows, dict(reads), dict(kinds or {})
        self.remedy, self.problem = remedy, problem
        # a large block that was freed: from now on glibc keeps memory for the next sample, which halves the time to read one
        np.empty(31 << 20, np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Sample:
        """Sample number ``index``. Raises DataError naming the file that is damaged."""
        sample: Sample = {}
        for name, read in self.reads.items():
            path = self.rows[index].get(name)
            if path is None:
                sample[name] = self.kinds[name].unknown(*sample["image"].shape[:2])
                continue
            try:
                sample[name] = read(path)
                shape = sample[name].shape[:2] if name == "image" else sample[name].shape[-2:]
                if shape != sample["image"].shape[:2]:
                    raise ValueError(f"it is {pixels(shape)} pixels, its image {pixels(sample['image'].shape)}")
            except DAMAGE as error:
                raise DataError(f"{self.problem.format(path)} ({error}); {self.remedy}") from None
        return sample

    def inspect(self, index: int) -> dict[str, Any]:
        """Size of a sample; known pixels of each map, and their classes or range."""
        sample = self.read(index)
        found: dict[str, Any] = {"size": list(sample["image"].shape[:2]), "maps": {}}
        for name, kind in self.kinds.items():
            try:
                check_plausible(sample[name], kind)
            except ValueError as error:
                raise DataError(f"{self.problem.format(self.rows[index][name])} ({error}); {self.remedy}") from None
            values, known = sample[name], kind.known(sample[name])
            about: dict[str, Any] = {"known": int(known.sum())}
            if kind.kind in ("classes", "binary"):
                about["classes"] = np.unique(values[known]).astype(int).tolist()
            elif kind.kind != "normals" and known.any():
                about["range"] = [float(values[known].min()), float(values[known].max())]
                about["mean"] = float(values[known].mean(dtype=np.float64))
            found["maps"][name] = about
        return found


def npy_folder(
    root: Path,
    maps: Mapping[str, str],
    kinds: Mapping[str, MapKind],
    remedy: str = "unpack the set again",
    count: int | None = None,
) -> MapFiles:
    """One split in MTAN's layout: a folder per map, ``<i>.npy`` in each, i = 0 ... N - 1.

    Arrays have channels last and any real dtype.

    Args:
        root: Holds the folders of the maps.
        maps: Name in the sample -> name of the folder, such as ``{"image": "image", "segmentation": "label"}``.
        kinds: Kinds of the maps; labels are -1 or a class.
        remedy: What to do about a damaged file, for error messages.
        count: Use only the first ones.

    Raises:
        DataError: A folder is missing or empty, or has another number of files than the images have.
    """
    counts: dict[Path, int] = {}
    for folder in (root / name for name in maps.values()):
        if not folder.is_dir():
            raise DataError(f"{folder} is missing; {remedy}")
        names = {path.name for path in folder.glob("*.npy") if not is_hidden(path)}
        size = len(names) if count is None else count
        absent = next((i for i in range(size) if f"{i}.npy" not in names), None)
        if not names or absent is not None:
            raise DataError(f"{folder} has {f'no {absent}.npy' if names else 'no .npy files'}; {remedy}")
        counts[folder] = size
    (first, size), *others = counts.items()
    for folder, other in others:
        if other != size:
            raise DataError(f"{folder} has {other} files, but {first} has {size}; {remedy}")
    rows = [{name: root / folder / f"{i}.npy" for name, folder in maps.items()} for i in range(size)]
    return MapFiles(rows, {name: npy_reader(kinds.get(name)) for name in maps}, kinds, remedy)


def npy_reader(kind: MapKind | None) -> Read:
    """Function that reads a map of this kind from an .npy file; ``None``: an image."""
    if kind is None:
        return partial(_read_npy, check=check_image)
    if kind.kind == "classes":
        return partial(_read_npy, check=partial(check_labels, classes=len(kind.classes)))
    return partial(_read_npy, check=check_normals if kind.kind == "normals" else check_depth)


#: numpy reads a header by ``ast.literal_eval``, which fails at times when threads of Python 3.11 call it at once.
_PARSING = Lock()


def _read_npy(path: Path, check: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return check(load_npy(path))


def load_npy(path: Path) -> np.ndarray:
    """The array of an .npy file. Raises ValueError if it holds none."""
    check_regular(path)
    with _PARSING:
        array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds no array")
    return array


# ---- checks of maps: array -> the array in our dtype; ValueError if it is no such map -------------------------------------


def check_image(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"an image must be (H, W, 3), not {array.shape}")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    array = real(array)
    if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):  # false for NaN
        raise ValueError(f"an image must be in [0, 1], not in [{array.min():.4g}, {array.max():.4g}]")
    return array


def check_labels(array: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) int16, -1 where unknown."""
    array = real(plane(array, "labels"))
    labels = array.astype(np.int16) if np.isfinite(array.sum()) else np.zeros(0, np.int16)
    if labels.size == 0 or labels.min() < -1 or labels.max() >= classes or not np.array_equal(labels, array):
        raise ValueError(f"labels must be whole numbers from -1 to {classes - 1}; {span(array)}")
    return labels


def check_depth(array: np.ndarray) -> np.ndarray:
    """(H, W) float32, 0 where unknown."""
    array = real(plane(array, "depth"))
    if not (array.min() >= 0 and array.max() < np.inf):
        raise ValueError(f"depth must be finite and not negative, 0 where unknown; {span(array)}")
    return array


def check_normals(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) of length 1, 0 where unknown -> (3, H, W) float32."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"normals must be (H, W, 3), not {array.shape}")
    array = real(array)
    if not (array.min() >= -1.01 and array.max() <= 1.01):
        raise ValueError(f"normals must have length 1, or 0 where unknown; {span(array)}")
    return planes(array)


def check_plausible(values: np.ndarray, kind: MapKind) -> None:
    """Raise ValueError for a map of a sample that cannot be meant.

    Too slow for every time that it is read. Normals whose length is not 1, and depths above 100,000.
    """
    if kind.kind in ("depth", "disparity") and values.max() > _FARTHEST:
        raise ValueError(f"its {kind.kind} must be at most {_FARTHEST:g}, and 0 where unknown; {span(values)}")
    if kind.kind == "normals":
        length = np.sqrt(np.einsum("chw,chw->hw", values, values))
        length = length[length > 0]
        if length.size and (np.abs(length - 1) > 0.1).mean() > 0.1:
            low, high = np.percentile(length, (5, 95))
            reason = "do its numbers from 0 to 1 stand for -1 to 1?" if values.min() >= 0 else "divide by the length"
            raise ValueError(
                f"normals must have length 1, or 0 where unknown; most are {low:.3g} to {high:.3g} long: {reason}"
            )


def plane(array: np.ndarray, what: str) -> np.ndarray:
    """(H, W) or (H, W, 1) as (H, W)."""
    flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if flat.ndim != 2 or flat.size == 0:
        raise ValueError(f"{what} must be (H, W) or (H, W, 1), not {array.shape}")
    return flat


def real(array: np.ndarray) -> np.ndarray:
    """Real numbers as float32."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"its numbers are {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def span(array: np.ndarray) -> str:
    """Smallest and largest number in words."""
    return f"found {array.min():.4g} to {array.max():.4g}"


def pixels(shape: Sequence[int]) -> str:
    """Size of a picture in words."""
    return " x ".join(str(side) for side in shape[:2])
