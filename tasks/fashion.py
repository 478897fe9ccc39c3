"""Fashion-MNIST on disk: 60,000 + 10,000 gray garments, 28 x 28 pixels, in ten classes.

Four files in the IDX format, plain or gzipped, are looked for in ``data_dir``, in ``data_dir/FashionMNIST/raw`` (where
torchvision keeps them) and where Debian's package puts them; with ``download``, they are fetched. Whatever their source,
the bytes must be the published ones.

    IDX: 0 0 8 (bytes) dimensions (1 byte) | one 32-bit big-endian size per dimension | the values, last dimension fastest

Origin: H. Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import wrap_file
from torch import Tensor

from tasks.image_reading import read_pixels
from tasks.task import Batch, DataError, TensorData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DATA = "Fashion-MNIST of Zalando (MIT)"  # in cards of weights
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # plain http: the checksum verifies the bytes
_SHA256 = {  # of the decompressed files: gzip headers differ between sources
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class PixelData(TensorData):
    """Tensors whose uint8 inputs become numbers in [0, 1] batch by batch, to save memory."""

    def batch(self, index: Tensor) -> Batch:
        """The rows of ``index`` (B,)."""
        inputs, targets = super().batch(index)
        return Batch(tuple(t.float() / 255 if t.dtype == torch.uint8 else t for t in inputs), targets)


def read_fashion(
    data_dir: str | Path, split: Literal["train", "test"], download: bool = False
) -> tuple[Tensor, Tensor]:
    """Images (N, 28, 28) and labels (N,) as uint8. Raises DataError if missing or damaged."""
    prefix = {"train": "train", "test": "t10k"}[split]
    images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    first = _read(_find(Path(data_dir), images, download), dimensions=3)
    second = _read(_find(Path(data_dir), labels, download), dimensions=1)
    if len(first) != len(second):
        raise DataError(f"Fashion-MNIST: {images} has {len(first)} images, but {labels} {len(second)} labels")
    return first, second


def fashion_splits(data_dir: str | Path, download: bool = False) -> tuple[tuple[Tensor, Tensor], ...]:
    """(images, labels) of train, val and test.

    A twelfth of the training images, drawn with seed 0, validates.
    """
    (images, labels), test = read_fashion(data_dir, "train", download), read_fashion(data_dir, "test", download)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    val, train = order[: len(images) // 12], order[len(images) // 12 :]
    return (images[train], labels[train]), (images[val], labels[val]), test


def read_garment(path: str | Path, side: int = 28) -> Tensor:
    """(1, side, side) bytes of a gray picture, bright on black.

    Raises DataError if it is of another kind or size.
    """
    pixels = torch.from_numpy(read_pixels(path, 1)[..., 0])
    if pixels.shape != (side, side):
        height, width = pixels.shape
        raise DataError(
            f"{path} is {width} x {height} pixels, and the model takes {side} x {side}; cut it or scale it first"
        )
    return pixels[None]


def pad(images: Tensor, side: int) -> Tensor:
    """(N, H, W) bytes -> (N, 1, side, side) float32 from 0 to 255 with a black margin."""
    margin = side - images.shape[-1]
    return F.pad(images[:, None], (margin // 2, margin - margin // 2) * 2).float()


def draw_sheet(images: Tensor, names: Sequence[str], size: tuple[float, float], darkest: float) -> Figure:
    """Figure of (rows, columns, H, W) gray images in [darkest, 1], with names of columns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    sheet = images.float().cpu().transpose(1, 2).flatten(0, 1).flatten(1)
    axes.imshow(sheet.numpy(), cmap="gray", vmin=darkest, vmax=1)
    axes.grid(False)
    axes.set_yticks([])
    axes.set_xticks([(column + 0.5) * images.shape[-1] for column in range(len(names))], names, rotation=45, ha="right")
    return figure


def _find(data_dir: Path, name: str, download: bool) -> Path:
    """Where the file is, downloaded first if it may be."""
    folders = (data_dir, data_dir / "FashionMNIST" / "raw", _DEBIAN)
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    if download:
        return _download(folders[1] / f"{name}.gz", name)
    raise DataError(
        f"Fashion-MNIST: no {name}, plain or .gz, in {', '.join(map(str, folders))}; on Debian or Ubuntu, "
        "`apt-get install dataset-fashion-mnist` puts it there; anywhere, task.download=true fetches it (31 MB)"
    )


def _download(path: Path, name: str) -> Path:
    """Fetch ``path``, which appears only when it is complete and right."""
    url, partial = f"{_URL}{path.name}", path.with_name(f"{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            with wrap_file(answer, total=size, description=path.name) as stream, partial.open("wb") as file:
                while chunk := stream.read(1 << 16):
                    file.write(chunk)
        if hashlib.sha256(gzip.decompress(partial.read_bytes())).hexdigest() != _SHA256[name]:
            raise DataError(f"Fashion-MNIST: what {url} sent is not {name} (its checksum differs); try again later")
        partial.replace(path)
    except (OSError, EOFError, zlib.error) as error:  # OSError: also of urllib and of gzip
        raise DataError(
            f"Fashion-MNIST: cannot download {url} ({error}); try again, or put the file into {path.parent}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _read(path: Path, dimensions: int) -> Tensor:
    """Values of an IDX file of bytes. Raises DataError unless it is the published one."""
    remedy = "delete the file and get it again"
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Fashion-MNIST: cannot read {path} ({error}); {remedy}") from error
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"Fashion-MNIST: {path} is no IDX file of bytes in {dimensions} dimensions; {remedy}")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) != start + math.prod(shape):
        raise DataError(
            f"Fashion-MNIST: {path} announces {math.prod(shape)} values and has {len(data) - start}; {remedy}"
        )
    if hashlib.sha256(data).hexdigest() != _SHA256[path.name.removesuffix(".gz")]:
        raise DataError(f"Fashion-MNIST: {path} is damaged, or another data set (its checksum differs); {remedy}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).copy().reshape(shape))
