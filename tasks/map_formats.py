"""Maps of a user's own: what the numbers in their files mean, as ``task.maps`` says.

    ground: {kind: classes, classes: [road, grass], void: 255}                ids, in PNG files with or without a palette
    ground: {kind: classes, classes: {road: [128, 64, 128], grass: [0, 255, 0]}}   colors
    height: {kind: depth, scale: 0.001, unit: m, valid: [0.1, 80]}            16-bit PNG, TIFF, EXR, .npy
    normal: {kind: normals}                                                   bytes 0 to 255, or numbers from -1 to 1
    border: {kind: binary}                                                    0, and 1 or 255
    saliency: {kind: share}                                                   0 to 255, or numbers from 0 to 1

What is not known, and not refused: NaN everywhere; 255 and -1 among ids, where no class has them; depth 0; normals (0, 0, 0), in
bytes black and gray; and what ``void`` and ``valid`` say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from balancing.registry import suggestion
from tasks.file_checks import check_regular
from tasks.image_reading import opened
from tasks.map_files import load_npy, plane, real, span
from tasks.map_kinds import KINDS, MapKind
from tasks.resampling import planes

#: Endings of files that can hold an image, and a map.
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".avif", ".jp2")
ARRAYS = (".npy", ".exr")
_PLACE = {"folder", "suffix"}
_STRANGE = -2  # of no class
_LARGEST = 2**16  # id up to which classes are looked up in a table
_OPTIONS = {
    "classes": {"classes", "void", "first"},
    "binary": {"void", "threshold"},
    "share": {"void", "scale"},
    "depth": {"scale", "unit", "void", "valid"},
    "disparity": {"scale", "unit", "void", "valid"},
    "normals": {"range", "void", "normalize"},
}


@dataclass(frozen=True)
class MapFormat:
    """How files of one map are found and read.

    Args:
        kind: What the map holds.
        folder: Name of the folder, or of the column, of its files.
        suffix: What names of its files have after that of the image.
        ids: Id, or color as one number, of each class.
        colored: ``ids`` are colors.
        void: Numbers, or colors, that stand for unknown.
        valid: Smallest and largest number that is not unknown.
        scale: Factor of the numbers in the files.
        span: Numbers that stand for -1 and 1 in normals; ``None``: all of an integer type, or -1 and 1.
        normalize: Bring normals to length 1.
        unit_depth: Depth that is 1 in samples.
        threshold: A binary map is a yes above it; ``None``: there are two numbers only.
    """

    kind: MapKind
    folder: str
    suffix: str = ""
    ids: tuple[int, ...] = ()
    colored: bool = False
    void: tuple[float, ...] = ()
    valid: tuple[float, float] | None = None
    scale: float = 1.0
    span: tuple[float, float] | None = None
    normalize: bool = False
    threshold: float | None = None
    unit_depth: float = 1.0

    def read(self, path: Path) -> np.ndarray:
        """A map as in samples, see :mod:`tasks.map_kinds`. Raises ValueError with what is wrong."""
        kind = self.kind.kind
        if kind == "classes" and path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
            raise ValueError(f"{path.suffix} changes ids and colors; save classes as PNG")
        array = load_map(path, colored=self.colored)
        if kind == "classes":
            return self._classes(array)
        if kind == "normals":
            return self._normals(array)
        array = one_channel(array)
        return (
            self._binary(array) if kind == "binary" else self._share(array) if kind == "share" else self._depth(array)
        )

    def _classes(self, array: np.ndarray) -> np.ndarray:
        if self.colored:
            if array.ndim != 3 or array.shape[2] < 3 or array.dtype != np.uint8:
                raise ValueError("it has ids, or no colors of 8 bits; its classes are colors")
            channels = array.astype(np.int32)
            found: np.ndarray = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
        else:
            found = one_channel(array, "it has colors; say which color each class has: classes: {road: [128, 64, 128]}")
            if found.dtype.kind == "f":
                found = np.where(np.isnan(found), -1, found)
            whole: np.ndarray = found.astype(np.int32 if found.dtype.itemsize < 4 else np.int64)
            if found.dtype.kind == "f" and not np.array_equal(whole, found):
                raise ValueError("ids of classes must be whole numbers")
            found = whole
        index = self._looked_up(found)
        strange = index == _STRANGE
        if strange.any():
            values, counts = np.unique(found[strange], return_counts=True)
            shown = ", ".join(self._name(v) for v in values[np.argsort(-counts)][:5].tolist())
            more = f" and {len(values) - 5} more" if len(values) > 5 else ""
            what = "colors" if self.colored else "ids"
            raise ValueError(
                f"{counts.sum()} pixels have {what} of no class: {shown}{more}; add them to classes, or to void: [...]"
            )
        return index

    def _looked_up(self, found: np.ndarray) -> np.ndarray:
        """(H, W) int16 classes of ids or colors: -1 unknown, -2 of no class."""
        codes = np.array([*self.ids, *map(int, self.void)])
        if self._table is not None:
            return self._table[np.clip(found, -2, len(self._table) - 3) + 2]
        order = np.argsort(codes, kind="stable")
        place = np.searchsorted(codes[order], found).clip(max=len(codes) - 1)
        index = order[place]
        classes = np.where(index < len(self.ids), index, -1)
        unknown = _STRANGE if self.colored else np.where(found == -1, -1, _STRANGE)
        return np.where(codes[index] == found, classes, unknown).astype(np.int16)

    @cached_property
    def _table(self) -> np.ndarray | None:
        """Class of every id from -2 to one above the largest; ``None`` for colors and huge ids."""
        codes = [*self.ids, *map(int, self.void)]
        if self.colored or min(codes) < -1 or max(codes) > _LARGEST:
            return None
        table = np.full(max(codes) + 4, _STRANGE, np.int16)
        table[1] = -1
        table[np.array(codes) + 2] = [i if i < len(self.ids) else -1 for i in range(len(codes))]
        return table

    def _name(self, code: int) -> str:
        return f"[{code >> 16}, {code >> 8 & 255}, {code & 255}]" if self.colored else str(code)

    def _depth(self, array: np.ndarray) -> np.ndarray:
        raw = real(array)
        unknown = np.isnan(raw) | (raw == 0) | np.isin(raw, np.array(self.void, np.float32))
        values = raw * np.float32(self.scale)
        if self.valid is not None:
            unknown |= (values < self.valid[0]) | (values > self.valid[1])
        left = raw[~unknown]
        if left.size and (left.min() < 0 or not left.max() < np.inf):
            raise ValueError(f"{span(left)}; {self.kind.kind} must be greater than 0 and finite: {_SAY}")
        if left.size and left.max() >= _TOPS.get(array.dtype.name, np.inf):
            raise ValueError(f"it has {left.max():.8g}, the largest number that such a file holds: {_SAY}")
        return np.where(unknown, np.float32(0), values / np.float32(self.unit_depth))

    def _binary(self, array: np.ndarray) -> np.ndarray:
        raw = real(array.astype(np.uint8) if array.dtype == bool else array)
        unknown = np.isnan(raw) | np.isin(raw, np.array(self.void, np.float32))
        if self.threshold is not None:
            return np.where(unknown, np.float32(np.nan), raw > self.threshold).astype(np.float32)
        found = np.unique(raw[~unknown])
        top = 255.0 if 255 in found else 1.0
        if not set(found.tolist()) <= {0.0, top}:
            shown = ", ".join(f"{value:g}" for value in found[:5])
            raise ValueError(
                f"it has {shown}{', ...' if len(found) > 5 else ''}; a binary map has 0, and 1 or 255: say void: or threshold:"
            )
        return np.where(unknown, np.float32(np.nan), raw == top).astype(np.float32)

    def _share(self, array: np.ndarray) -> np.ndarray:
        raw = real(array.astype(np.uint8) * np.uint8(255) if array.dtype == bool else array)
        unknown = np.isnan(raw) | np.isin(raw, np.array(self.void, np.float32))
        whole = np.iinfo(array.dtype).max if array.dtype.kind in "iu" and self.scale == 1 else 1.0
        values = raw / np.float32(whole) * np.float32(self.scale)
        left = values[~unknown]
        if left.size and (left.min() < 0 or left.max() > 1 + 1e-6):
            raise ValueError(f"{span(left)}; a share must be from 0 to 1: say scale: or void:")
        return np.where(unknown, np.float32(np.nan), values.clip(max=1)).astype(np.float32)

    def _normals(self, array: np.ndarray) -> np.ndarray:
        if array.ndim != 3 or array.shape[2] not in (3, 4) or 0 in array.shape:
            raise ValueError(f"normals must have three channels, not {array.shape}")
        whole = array.dtype.kind in "iu"
        raw = planes(real(array[..., :3]))
        low, high = self.span or ((0.0, float(np.iinfo(array.dtype).max)) if whole else (-1.0, 1.0))
        values = (raw - np.float32((low + high) / 2)) * np.float32(2 / (high - low))
        unknown = np.isnan(raw).any(0) | ~raw.any(0)
        if self.void:
            unknown |= (raw == np.array(self.void, np.float32)[:, None, None]).all(0)
        if whole:
            unknown |= (np.abs(values) <= 1.01 / (high - low)).all(0)  # gray
        values[:, unknown] = 0
        if not np.abs(values).max() <= 1.01 and not self.normalize:
            raise ValueError(
                f"{span(raw[:, ~unknown])}; normals have numbers from {low:g} to {high:g} here: say range: or normalize: true"
            )
        if whole or self.normalize:
            length = np.sqrt(np.einsum("chw,chw->hw", values, values))
            if not self.normalize and (~unknown).any() and (np.abs(length[~unknown] - 1) > 0.25).mean() > 0.1:
                raise ValueError("most of its normals have not length 1: say range:, or normalize: true")
            values /= np.maximum(length, 1e-6)
        return values


_SAY = "say void: [...] or valid: [low, high]"
_TOPS = {"uint16": 65535, "uint32": 2**32 - 1, "int32": 65535, "float32": 1e30, "float64": 1e30}


def map_format(name: str, options: Mapping[str, Any]) -> MapFormat:
    """The format that ``task.maps.<name>`` describes. Raises ValueError with this key."""
    key = f"task.maps.{name}"
    if not isinstance(options, Mapping):
        raise ValueError(f"{key} must be a mapping such as {{kind: depth}}, got {options!r}")
    if options.get("kind") not in KINDS:
        raise ValueError(f"{key} needs a kind: {suggestion(str(options.get('kind')), KINDS, 'one of {}')}")
    kind = options["kind"]
    known = {"kind"} | _PLACE | _OPTIONS[kind]
    for option in options:
        if option not in known:
            raise ValueError(f"{key}: {kind} has no option {option!r}; {suggestion(str(option), known, 'it has {}')}")
    names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    colored = False
    if kind == "classes":
        names, ids, colored = _class_codes(key, options)
    void = _void(key, kind, colored, ids, options.get("void"))
    for value in set(ids) & set(void) if kind == "classes" else ():
        raise ValueError(
            f"{key}: void {value} is the id of {names[ids.index(int(value))]!r}; does the first class have the id 1? first: 1"
        )
    return MapFormat(
        MapKind(kind, names, str(options.get("unit", "m" if kind == "depth" else ""))),
        folder=str(options.get("folder", name)),
        suffix=str(options.get("suffix", "")),
        ids=ids,
        colored=colored,
        void=void,
        valid=_pair(f"{key}.valid", options.get("valid")),
        scale=_number(f"{key}.scale", options.get("scale", 1.0), above=0),
        span=_pair(f"{key}.range", options.get("range")),
        normalize=bool(options.get("normalize", False)),
        threshold=None if options.get("threshold") is None else _number(f"{key}.threshold", options["threshold"]),
    )


def _class_codes(key: str, options: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...], bool]:
    """Names, ids and whether these are colors."""
    classes, first = options.get("classes"), options.get("first", 0)
    if isinstance(classes, bool) or not isinstance(first, int):
        classes = None
    if isinstance(classes, int) and classes >= 1:
        names = tuple(str(first + i) for i in range(classes))
    elif isinstance(classes, Sequence) and not isinstance(classes, str) and classes:
        names = tuple(map(str, classes))
    elif isinstance(classes, Mapping) and classes:
        names = tuple(map(str, classes))
        codes = list(classes.values())
        colored = all(_is_color(code) for code in codes)
        if "first" in options or not (colored or all(isinstance(code, int) and 0 <= code < 65536 for code in codes)):
            raise ValueError(
                f"{key}.classes: each name needs an id, or each a color such as [128, 64, 128], got {codes[:3]}"
            )
        ids = tuple(_color(code) if colored else int(code) for code in codes)
        _different(key, names, ids)
        return names, ids, colored
    else:
        raise ValueError(
            f"{key}.classes must say which classes there are: how many, [road, grass], or {{road: [128, 64, 128]}}; "
            f"got {options.get('classes')!r}"
        )
    ids = tuple(range(first, first + len(names)))
    _different(key, names, ids)
    return names, ids, False


def _different(key: str, names: Sequence[str], ids: Sequence[int]) -> None:
    for values in (names, ids):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"{key}.classes: two classes have {twice[0]!r}")


def _is_color(code: Any) -> bool:
    listed = isinstance(code, Sequence) and not isinstance(code, str) and len(code) == 3
    return listed and all(isinstance(part, int) and 0 <= part <= 255 for part in code)


def _color(code: Sequence[int]) -> int:
    return code[0] << 16 | code[1] << 8 | code[2]


def _void(key: str, kind: str, colored: bool, ids: Sequence[int], void: Any) -> tuple[float, ...]:
    if void is None:
        return (255.0,) if kind == "classes" and not colored and 255 not in ids else ()
    values = list(void) if isinstance(void, Sequence) and not isinstance(void, str) else [void]
    if colored:
        colors = [values] if _is_color(values) else values
        if not all(map(_is_color, colors)):
            raise ValueError(f"{key}.void must be a color or a list of colors, as its classes are colors, got {void!r}")
        return tuple(float(_color(color)) for color in colors)
    if kind == "normals" and len(values) != 3:
        raise ValueError(f"{key}.void must have three numbers, got {void!r}")
    return tuple(_number(f"{key}.void", value) for value in values)


def _number(key: str, value: Any, above: float | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or (above is not None and not value > above):
        raise ValueError(f"{key} must be a number{'' if above is None else f' greater than {above:g}'}, got {value!r}")
    return float(value)


def _pair(key: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    if not listed or not _number(key, value[0]) < _number(key, value[1]):
        raise ValueError(f"{key} must be two numbers, the smaller first, got {value!r}")
    return float(value[0]), float(value[1])


# ---- files -----------------------------------------------------------------------------------------------------------


def load_map(path: Path, colored: bool = False) -> np.ndarray:
    """Numbers (H, W) or (H, W, C) of an upright picture, .npy or EXR file.

    With ``colored``, those of a palette are colors.
    """
    check_regular(path)
    ending = path.suffix.lower()
    if ending == ".npy":
        return load_npy(path)
    if ending == ".exr":
        return _load_exr(path)
    try:
        with opened(path) as file:
            image = ImageOps.exif_transpose(file)
            if colored:
                image = image.convert("RGB")
            return np.asarray(image)
    except Image.UnidentifiedImageError:
        if ending not in (".tif", ".tiff"):
            raise
    return _load_tiff(path)


def _load_tiff(path: Path) -> np.ndarray:
    """Numbers that Pillow has no mode for, such as three channels of 16 or 32 bits."""
    import cv2

    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("neither Pillow nor OpenCV can read it")
    return array[..., ::-1] if array.ndim == 3 and array.shape[2] == 3 else array


def _load_exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError:
        raise ValueError("EXR files need a package: pip install OpenEXR; or save it as .npy") from None
    try:
        with OpenEXR.File(str(path)) as file:
            found = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot read it as EXR: {error}") from None
    ends = [name.rpartition(".")[2] for name in found]
    # programs write the names of layers before those of channels
    channels = dict(zip(ends, found.values(), strict=True)) if len(set(ends)) == len(ends) else found
    if {"X", "Y", "Z"} <= set(channels):
        return np.stack([channels[name] for name in "XYZ"], axis=-1)
    array = next((channels[name] for name in ("Z", "Y", "RGB", "RGBA", "R", "V") if name in channels), None)
    if array is None:
        raise ValueError(f"it has the channels {', '.join(found)}; one of Z, Y, R, V, RGB is needed")
    return np.asarray(array)


def one_channel(array: np.ndarray, otherwise: str = "it has colors, and should be gray") -> np.ndarray:
    """(H, W) of a map with one channel, or with three that are the same, without alpha."""
    if array.ndim == 3 and array.shape[2] in (2, 3, 4):
        shown = array[..., : 1 if array.shape[2] == 2 else 3]
        same = (shown == shown[..., :1]) | (
            (shown != shown) & (shown[..., :1] != shown[..., :1])
        )  # NaN is unlike itself
        if not same.all():
            raise ValueError(otherwise)
        array = shown[..., :1]
    return plane(array, "a map")
