"""Pictures with a map per objective (labels, depth, normals) in the layouts that the benchmarks of the field have.

    <root>/{train,val}/{image,label,depth,normal}/<i>.npy        the pre-processed NYUv2 and Cityscapes of MTAN: channels last,
                                                                 images in [0, 1], label -1 and depth 0 and normal 0 = unknown
    <root>/{leftImg8bit,gtFine,disparity}/<split>/<city>/*.png   Cityscapes as it is published

    folder -> sample (NumPy, checked) -> augmentation (training only) -> Batch((image,), {segmentation, depth, normals})

A sample is checked when it is read: a truncated file, a wrong shape, a class out of range or a NaN is a DataError that names
the file. There is no validation split in either benchmark, so a part of the training pictures is held out for it.

    train, val, test = create_task("nyuv2").splits("data")
    (image,), targets = train[0]                # (3, 288, 384), {"segmentation": (288, 384), "depth": (1, 288, 384), ...}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tasks.dense_criteria import DepthError, NormalCosine, Segmentation, rarity_weights
from tasks.dense_metrics import depth_measures, normal_measures, segmentation_measures
from tasks.joint_transforms import JointTransform, Sample, planes, resize_sample
from tasks.registry import register_task
from tasks.task import Batch, DataError, Objective, Splits, Task, TensorData, sample_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NYU_CLASSES", "Cityscapes", "CityscapesFolder", "DenseData", "DenseTask", "NYUv2", "NpyFolder"]

NYU_CLASSES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv"),
    *("wall", "window"),
)
_CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
_STREET_CLASSES = (
    *(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
    ),
    *("sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
_STREET_IDS = (
    7,
    8,
    11,
    12,
    13,
    17,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    31,
    32,
    33,
)  # of _STREET_CLASSES in labelIds
_CATEGORY_IDS = ((7, 10), (11, 16), (17, 20), (21, 22), (23, 23), (24, 25), (26, 33))  # first and last of _CATEGORIES


class Folder(Protocol):
    """Samples on a disk."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """``image`` (H, W, 3), ``segmentation`` (H, W), ``depth`` (H, W), ``normals`` (3, H, W); checked."""


class NpyFolder:
    """One split in MTAN's layout: a folder per map, ``<i>.npy`` in each, i = 0 ... N - 1, channels last, any real dtype.

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
            found = len(names) if count is None else count
            absent = next((i for i in range(found) if f"{i}.npy" not in names), None)
            if not names or absent is not None:
                raise DataError(f"{folder} has {f'no {absent}.npy' if names else 'no .npy files'}; {remedy}")
            counts[folder] = found
        (first, size), *others = counts.items()
        for folder, other in others:
            if other != size:
                raise DataError(f"{folder} has {other} files, but {first} has {size}; {remedy}")
        self._size = size

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
                    raise ValueError(f"it is {_size(array)} pixels, its image {_size(sample['image'])}")
            except (OSError, ValueError, EOFError, MemoryError) as error:
                raise DataError(f"{path} is damaged ({error}); {self.remedy}") from None
        return sample


class CityscapesFolder:
    """One split of Cityscapes as it is published; depth is the disparity picture / 65535, as in MTAN's files.

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
        for index, (first, last) in enumerate(_CATEGORY_IDS if classes == 7 else [(i, i) for i in _STREET_IDS]):
            self._table[first : last + 1] = index
        for image in self.images:
            for path in (self._other(image, "gtFine", "gtFine_labelIds"), self._other(image, "disparity", "disparity")):
                if not path.is_file():
                    raise DataError(f"{path} is missing, but {image} is there; unpack the set again")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Sample:
        """Sample number ``index``. Raises DataError naming the file that is damaged."""
        image = self.images[index]
        labels, disparity = (
            self._other(image, "gtFine", "gtFine_labelIds"),
            self._other(image, "disparity", "disparity"),
        )
        return {
            "image": _picture(image, lambda a: _image(a, 0)),
            "segmentation": _picture(labels, self._labels, image),
            "depth": _picture(disparity, lambda a: _depth(a / np.float32(65535), 0), image),
        }

    def _labels(self, array: np.ndarray) -> np.ndarray:
        if array.ndim != 2 or array.dtype != np.uint8 or array.max() > 33:
            raise ValueError("label ids must be one channel of bytes up to 33")
        return self._table[array]

    @staticmethod
    def _other(image: Path, folder: str, kind: str) -> Path:
        split, city = image.parent.parent.name, image.parent.name
        return image.parents[3] / folder / split / city / image.name.replace("leftImg8bit", kind)


class DenseData(Dataset[Batch]):
    """Samples of a folder as batches of one.

    Args:
        folder: Where samples come from.
        rows: Which of them.
        augment: Applied with a seed that follows from ``set_epoch`` and the row; ``None`` for none.
        size: Height and width to bring everything to; ``None`` leaves it.
    """

    def __init__(
        self,
        folder: Folder,
        rows: Sequence[int],
        augment: JointTransform | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.folder, self.rows, self.augment, self.size = folder, rows, augment, size
        self._seed, self._epoch = 0, 0

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, seed: int, epoch: int) -> None:
        """From now on augment as in ``epoch`` of a run with ``seed``."""
        self._seed, self._epoch = seed, epoch

    def __getitem__(self, index: int) -> Batch:
        return self.get(index, self.augment)

    def get(self, index: int, augment: JointTransform | None = None) -> Batch:
        """Sample ``index``, augmented with ``augment`` whatever this data set does. Raises DataError if it is damaged."""
        if not 0 <= index < len(self.rows):
            raise IndexError(f"no sample {index} among {len(self.rows)}")
        sample = self.folder.read(self.rows[index])
        if self.size is not None:
            sample = resize_sample(sample, *self.size)
        if augment is not None:
            sample = augment(sample, sample_seed(self._seed, self._epoch, index))
        image = _tensor(planes(sample.pop("image")))
        return Batch((image,), {name: _tensor(values) for name, values in sample.items()})


def _tensor(values: np.ndarray) -> Tensor:
    if values.dtype == np.int16:
        return torch.from_numpy(values.astype(np.int64))
    return torch.from_numpy(np.ascontiguousarray(values[None] if values.ndim == 2 else values))


# ---- what a map must look like: (array, classes) -> checked and of our dtype; ValueError says what is wrong ---------------


def _image(array: np.ndarray, _: int) -> np.ndarray:
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


def _depth(array: np.ndarray, _: int) -> np.ndarray:
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


def _size(array: np.ndarray) -> str:
    return " x ".join(str(side) for side in array.shape[:2])


_CHECKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "image": _image,
    "segmentation": _segmentation,
    "depth": _depth,
    "normals": _normals,
}


def _picture(path: Path, check: Callable[[np.ndarray], np.ndarray], like: Path | None = None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            array = check(np.asarray(picture))
        if like is not None:
            with Image.open(like) as other:
                if array.shape[1::-1] != other.size:
                    raise ValueError(f"it is {_size(array)} pixels, its image {other.size[1]} x {other.size[0]}")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is damaged ({error}); unpack the set again") from None
    return array


# ---- tasks -----------------------------------------------------------------------------------------------------------


class DenseTask(Task):
    """What tasks with maps have in common: augmentation, reference losses from a sample of the labels, pictures.

    Args:
        protocol: ``pooled``: sums over all pixels of a split. ``mtan``: means per batch and the augmentation, as public code.
        augment: Zoom and mirror training samples.
        jitter: Largest relative change of brightness and of contrast in training.
        classes: Names of the classes.
        maps: Objectives among ``segmentation``, ``depth`` and ``normals``.
        rarity: A class counts in the loss as its frequency to the power of minus this; 0: every pixel counts the same.
        inverse_depth: Depth is a disparity.
    """

    def __init__(
        self,
        protocol: Literal["pooled", "mtan"],
        augment: bool,
        jitter: float,
        classes: Sequence[str],
        maps: Sequence[str],
        rarity: float = 0.0,
        inverse_depth: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= rarity <= 1:
            raise ValueError(f"{self.name}: rarity must be in [0, 1], got {rarity}")
        if protocol not in ("pooled", "mtan"):
            raise ValueError(f"{self.name}: protocol must be pooled or mtan, got {protocol!r}")
        self.protocol, self.classes, self.rarity = protocol, tuple(classes), rarity
        self.facts = {"in_channels": 3, "segmentation_classes": len(self.classes), "maps": tuple(maps)}
        self.objectives = _objectives(self.classes, maps, protocol, "disparity / 65535" if inverse_depth else "m")
        try:
            transform = JointTransform(jitter=jitter, inverse_depth=inverse_depth, protocol=protocol)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.transform = transform if augment else None
        self._references: dict[str, Tensor] = {}

    def splits(self, data_dir: str | Path = "data") -> Splits:
        """The data, found once. Weighs classes by how rare they are in training. Raises DataError as :meth:`load` does."""
        known = self._splits is not None
        found = super().splits(data_dir)
        if self.rarity > 0 and not known:
            weights = tuple(rarity_weights(self._train_labels("segmentation"), len(self.classes), self.rarity))
            criterion = Segmentation(self.classes, weights)
            self.objectives = tuple(
                replace(o, criterion=criterion) if o.name == "segmentation" else o for o in self.objectives
            )
        return found

    def hold_out(
        self, folder: Folder, share: float, size: tuple[int, int] | None = None
    ) -> tuple[DenseData, DenseData]:
        """Training and validation data from one folder: the last pictures, as neighbours often show the same place."""
        held = max(round(share * len(folder)), 1)
        if held >= len(folder):
            raise DataError(f"{self.name}: {len(folder)} training samples are too few to hold out {held} of them")
        rows = range(len(folder))
        return DenseData(folder, rows[:-held], self.transform, size), DenseData(folder, rows[-held:], size=size)

    def pictures(self, model: Any, split: TensorData | Dataset[Batch]) -> dict[str, Figure]:
        """Image, prediction and truth of four samples."""
        from tasks.dense_pictures import compare

        device = next(model.parameters()).device
        rows = torch.linspace(0, len(split) - 1, min(4, len(split))).long().tolist()  # type: ignore[arg-type]
        samples = [split[i] for i in rows]  # type: ignore[index]
        outputs = [
            {name: value[0].float().cpu() for name, value in model(batch.inputs[0][None].to(device)).items()}
            for batch in samples
        ]
        names = [objective.name for objective in self.objectives]
        return {"Image, then prediction and truth of each map.": compare(samples, outputs, names, len(self.classes))}

    def _train_labels(self, objective: str) -> Tensor:
        """Labels of at most 64 training samples, evenly spread, thinned and not augmented: enough for a mean over pixels."""
        if self._splits is None:
            return super()._train_labels(objective)
        if not self._references:
            train = self._splits.train
            assert isinstance(train, DenseData)
            rows = torch.linspace(0, len(train) - 1, min(64, len(train))).long().tolist()
            samples = [train.get(i).targets for i in rows]
            step = max(min(samples[0]["segmentation"].shape) // 96, 1)
            self._references = {
                name: torch.stack([sample[name][..., ::step, ::step] for sample in samples]) for name in samples[0]
            }
        return self._references[objective]


@register_task("nyuv2")
class NYUv2(DenseTask):
    """Segmentation (13 classes), depth and normals of indoor pictures, in MTAN's pre-processed files (795 and 654).

    Args:
        root: Folder of the set; ``null`` looks in ``data_dir``.
        protocol: ``pooled``: sums over all pixels. ``mtan``: averages over batches and augmentation as in public code.
        augment: Zoom and mirror training pictures.
        jitter: Largest relative change of brightness and contrast in training.
        rarity: A class counts in the loss as its frequency to the power of minus this; public code has 0.
        validation: Share of the training pictures held out to select on; 0 selects on the test pictures, as public code.

    Raises:
        ValueError: A value out of range.
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
        super().__init__(protocol, augment, jitter, NYU_CLASSES, ("segmentation", "depth", "normals"), rarity)
        self.root, self.validation = root, _share(validation)

    def load(self, data_dir: Path) -> Splits:
        """Find the set and count its files."""
        places = [Path(self.root)] if self.root else [data_dir / "nyuv2", data_dir / "NYUv2", data_dir]
        root = _find(self.name, places, ("train/image",), "https://github.com/lorenmt/mtan (NYUv2, 8.5 GB)")
        maps = {"image": "image", "segmentation": "label", "depth": "depth", "normals": "normal"}
        train, test = (NpyFolder(root / split, maps, len(self.classes)) for split in ("train", "val"))
        return _splits(self, train, test, self.validation)


@register_task("cityscapes")
class Cityscapes(DenseTask):
    """Segmentation and inverse depth of streets, in MTAN's files or as Cityscapes is published (2,975 and 500).

    Depth is the disparity picture divided by 65535, as in all public tables; the official split ``val`` is the test split.

    Args:
        root: Folder of the set; ``null`` looks in ``data_dir``.
        classes: 7 categories or 19 classes.
        height: Pictures of another size are resized.
        width: Pictures of another size are resized.
        protocol: ``pooled``: sums over all pixels. ``mtan``: averages over batches and augmentation as in public code.
        augment: Zoom and mirror training pictures.
        jitter: Largest relative change of brightness and contrast in training.
        rarity: A class counts in the loss as its frequency to the power of minus this; public code has 0.
        validation: Share of the training pictures held out to select on; 0 selects on the test pictures, as public code.

    Raises:
        ValueError: A value out of range.
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
        if classes not in (7, 19):
            raise ValueError(f"cityscapes: classes must be 7 or 19, got {classes}")
        if min(height, width) < 1:
            raise ValueError(f"cityscapes: height and width must be at least 1, got {height} and {width}")
        names = _CATEGORIES if classes == 7 else _STREET_CLASSES
        super().__init__(protocol, augment, jitter, names, ("segmentation", "depth"), rarity, inverse_depth=True)
        self.root, self.size, self.validation = root, (height, width), _share(validation)

    def load(self, data_dir: Path) -> Splits:
        """Find the set, in either layout, and count its files."""
        places = [Path(self.root)] if self.root else [data_dir / "cityscapes", data_dir / "Cityscapes", data_dir]
        where = "https://github.com/lorenmt/mtan (pre-processed) or https://www.cityscapes-dataset.com (leftImg8bit, gtFine, disparity)"
        root = _find(self.name, places, ("leftImg8bit/train", "train/image"), where)
        train: Folder
        test: Folder
        if (root / "leftImg8bit").is_dir():
            train, test = (CityscapesFolder(root, split, len(self.classes)) for split in ("train", "val"))
        else:
            train, test = (self._npy(root / split) for split in ("train", "val"))
        return _splits(self, train, test, self.validation, self.size)

    def _npy(self, folder: Path) -> NpyFolder:
        # public readers disagree on the name of the labels
        named = f"label_{len(self.classes)}"
        label = named if (folder / named).is_dir() or len(self.classes) != 7 else "label"
        return NpyFolder(folder, {"image": "image", "segmentation": label, "depth": "depth"}, len(self.classes))


def _splits(task: DenseTask, train: Folder, test: Folder, share: float, size: tuple[int, int] | None = None) -> Splits:
    tested = DenseData(test, range(len(test)), size=size)
    if share == 0:
        return Splits(DenseData(train, range(len(train)), task.transform, size), tested, tested)
    return Splits(*task.hold_out(train, share, size), tested)


def _share(validation: float) -> float:
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1), got {validation}")
    return validation


def _find(task: str, places: Sequence[Path], marks: Sequence[str], where: str) -> Path:
    for place in places:
        if any((place / mark).is_dir() for mark in marks):
            return place
    looked = ", ".join(str(place / mark) for place in places for mark in marks)
    raise DataError(
        f"{task}: no data; looked for {looked}. Get them from {where}, unpack them to {places[0]}, or set task.root"
    )


def _objectives(
    classes: Sequence[str], maps: Sequence[str], protocol: Literal["pooled", "mtan"], unit: str
) -> tuple[Objective, ...]:
    found = {
        "segmentation": Objective("segmentation", Segmentation(classes), segmentation_measures(len(classes), protocol)),
        "depth": Objective("depth", DepthError(unit=unit), depth_measures(protocol)),
        "normals": Objective("normals", NormalCosine(), normal_measures(protocol)),
    }
    return tuple(found[name] for name in maps)
