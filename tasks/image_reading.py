"""Images on disk as a data set: labels in memory, pixels read on access.

    file -> upright RGB -> resized (antialiased) -> [random flip and crop] -> (3, size, size) -> standardized

What is random about a sample is drawn from (seed, epoch, index) alone, so that no two loader processes repeat each
other and a resumed run gets the samples of an uninterrupted one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from balancing.choices import check_choices
from tasks.file_checks import MAX_PIXELS, check_all, check_regular, limit
from tasks.task import Batch, DataError, sample_seed

_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet
_TABLES = (".csv", ".tsv", ".txt", ".json", ".xlsx", ".xls", ".ods", ".parquet")
_DAMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises for damaged files


@check_choices()
@dataclass(frozen=True)
class View:
    """How a file becomes a tensor.

    Args:
        size: Height and width in pixels.
        fit: What happens to images that are no squares: ``crop`` keeps their middle, ``stretch`` distorts them.
        flip: Probability of mirroring left and right.
        crop: Smallest share of the area that a random crop keeps; 1 for no random crops.
        standardize: Subtract the mean of ImageNet's colors and divide by their deviation; otherwise values are in [0, 1].
    """

    size: int
    fit: Literal["crop", "stretch"] = "crop"
    flip: float = 0.0
    crop: float = 1.0
    standardize: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.size}")
        if not (0 <= self.flip <= 1 and 0 < self.crop <= 1):
            raise ValueError(f"flip must be in [0, 1] and crop in (0, 1], got {self.flip} and {self.crop}")

    def tensor(self, path: str | Path, key: Sequence[int] | None = None) -> Tensor:
        """(3, size, size); random in the way that ``key`` decides, or not random if it is ``None``."""
        image = torch.from_numpy(self.pixels(path, key)).permute(2, 0, 1).float() / 255
        return (image - _MEAN[:, None, None]) / _STD[:, None, None] if self.standardize else image

    def pixels(self, path: str | Path, key: Sequence[int] | None = None) -> np.ndarray:
        """The same as (size, size, 3) bytes. Raises DataError naming the file."""
        if key is None or (self.flip == 0 and self.crop == 1):
            return _read(path, self.size, self.fit, square=True)
        # larger by as much as the smallest crop is enlarged afterwards
        image = _read(path, math.ceil(self.size / math.sqrt(self.crop)), self.fit, square=self.crop == 1)
        augment = _augmentation(self.size, self.flip, self.crop)
        augment.set_random_seed(sample_seed(*key))
        return np.ascontiguousarray(augment(image=image)["image"])


class ImageFiles(Dataset[Batch]):
    """One split: a file and a label per objective for each sample.

    Args:
        paths: Files.
        targets: Labels by objective, as many as files.
        view: How they are read.
        augment: Whether flips and crops are drawn, anew in every epoch.
    """

    def __init__(self, paths: Sequence[str], targets: dict[str, Tensor], view: View, augment: bool = False) -> None:
        self.paths, self.targets, self.view, self.augment = list(paths), targets, view, augment
        self.moment = (0, 0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Batch:
        key = (*self.moment, index) if self.augment else None
        image = self.view.tensor(self.paths[index], key)
        return Batch((image,), {name: labels[index] for name, labels in self.targets.items()})

    def set_epoch(self, seed: int, epoch: int) -> None:
        """What the augmentations of the coming epoch follow from, besides the index."""
        self.moment = (seed, epoch)


def check_image(path: str | Path) -> None:
    """Raise DataError if the file is no image of 8 bits a pixel, or cannot be decoded whole.

    The checksums of a PNG are compared; a JPEG is decoded to an eighth of its size, for which all of it is read.
    """
    with _data_errors(f"image {path}"):
        with opened(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("more than 8 bits a pixel; convert it to 8 bits first")
            image.draft("RGB", (1, 1))
            image.load()
            checksums = image.format == "PNG"
        if checksums:
            with opened(path) as image:
                image.verify()


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """A picture, not yet decoded.

    Raises OSError for what is no regular file, and ValueError for more pixels than the limit.
    """
    check_regular(path)
    most = limit("MOZOO_MAX_PIXELS", MAX_PIXELS)
    Image.MAX_IMAGE_PIXELS = None  # the check below is instead of Pillow's, which warns before it refuses
    with Image.open(path) as image:
        width, height = image.size
        if width * height > most:
            raise ValueError(
                f"it has {width} x {height} pixels, more than {most:,.0f}; make it smaller, or set "
                f"MOZOO_MAX_PIXELS={width * height} in the environment"
            )
        yield image


def check_images(task: str, paths: Sequence[str], memory: Path, remedy: str) -> None:
    """:func:`check_image` for all files of a set; results are kept in the folder ``memory``.

    Raises DataError with the first of the unreadable files, and how many there are.
    """
    problems = list(unreadable_images(task, paths, memory).values())
    if problems:
        more = f" (and {len(problems) - 1} more that cannot be read)" if len(problems) > 1 else ""
        raise DataError(f"{task}: {problems[0]}{more}; {remedy}")


def unreadable_images(task: str, paths: Sequence[str], memory: Path | None) -> dict[int, str]:
    """Place in ``paths`` -> what is wrong, for the files that :func:`check_image` refuses."""

    def check(index: int) -> str:
        try:
            check_image(paths[index])
        except DataError as error:
            return str(error)
        return ""

    there = [index for index, path in enumerate(paths) if os.path.exists(path)]
    files = [[Path(paths[index])] for index in there]
    found = (
        check_all(files, lambda i: check(there[i]), memory, "image decoded", f"the images of {task}") if files else []
    )
    problems = dict(zip(there, found, strict=True))
    problems |= {index: check(index) for index in range(len(paths)) if index not in problems}  # of missing ones
    return {index: problems[index] for index in range(len(paths)) if problems[index]}


def read_pixels(path: str | Path, channels: Literal[1, 3]) -> np.ndarray:
    """Bytes (H, W, channels) of an upright picture. Raises DataError for other channels."""
    mode = {1: "L", 3: "RGB"}[channels]
    with _data_errors(f"picture {path}"), opened(path) as file:
        image = ImageOps.exif_transpose(file)
        image.load()
    if image.mode != mode:
        raise DataError(
            f"{path} has {len(image.getbands())} channels ({image.mode}), and the model takes pictures of {channels} ({mode}, "
            f"8 bits each); convert it first"
        )
    return np.array(image).reshape(image.height, image.width, channels)


def read_photo(path: str | Path) -> np.ndarray:
    """Bytes (H, W, 3) of an upright picture of 8 bits. Raises ValueError for more bits."""
    with opened(path) as file:
        return np.array(_upright(file))


def _upright(file: Image.Image) -> Image.Image:
    """The picture as its camera was held, in RGB."""
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith(("I", "F")):
        raise ValueError("more than 8 bits a pixel; convert it to 8 bits first")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextmanager
def _data_errors(what: str, missing: str = "", damaged: str = "") -> Iterator[None]:
    """Convert errors of Pillow to DataErrors that name the file, with a remedy for each kind."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no {what}{missing}") from None
    except _DAMAGE as error:
        raise DataError(f"cannot read {what} ({reason_of(error, what)}){damaged}") from None


def reason_of(error: BaseException, path: str) -> str:
    """Why the file cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError) and path.lower().endswith(_TABLES):
        return "a table or a text, no picture; name a picture, or a folder of pictures"
    if isinstance(error, UnidentifiedImageError) and path.lower().endswith((".tif", ".tiff")):
        return "a damaged TIFF, or one of floats or of more channels than red, green and blue; write 8 bits of three channels"
    return str(error)


def _read(path: str | Path, short: int, fit: str, square: bool) -> np.ndarray:
    """Bytes (H, W, 3), the shorter side ``short`` long; cut or stretched to a square on request."""
    remedies = "; was it moved since the run began?", "; replace it, or take it out of the list"
    with _data_errors(f"image {path}", *remedies), opened(path) as file:
        file.draft(None, (2 * short, 2 * short))  # JPEG: decode no more than is needed; other formats ignore it
        image = _upright(file)
    width, height = image.size
    if fit == "stretch":
        return np.array(image.resize((short, short), Image.Resampling.BILINEAR))
    scale = short / min(width, height)
    size = max(round(width * scale), short), max(round(height * scale), short)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    if square:
        left, top = (resized.width - short) // 2, (resized.height - short) // 2
        resized = resized.crop((left, top, left + short, top + short))
    return np.array(resized)


@lru_cache
def _augmentation(size: int, flip: float, crop: float) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import queries a server for the newest version
    import albumentations

    steps: list[Any] = [albumentations.HorizontalFlip(p=flip)]
    if crop < 1:
        steps.append(albumentations.RandomResizedCrop((size, size), scale=(crop, 1.0), area_for_downscale="image"))
    return albumentations.Compose(steps, strict=True)
