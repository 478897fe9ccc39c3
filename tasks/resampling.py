"""Maps of a sample at another size.

A sample has ``image`` (H, W, 3) float32 in [0, 1] and maps: normals (3, H, W) float32 with 0 where unknown, and (H, W) of all
other kinds, see :mod:`tasks.map_kinds`.
"""

from __future__ import annotations

import numpy as np

Sample = dict[str, np.ndarray]


def planes(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 -> (3, H, W), faster than a transposed copy."""
    import cv2  # takes a moment, and tasks without pictures need none

    out = np.empty((3, *array.shape[:2]), np.float32)
    cv2.split(array, list(out))
    return out


def resize_sample(sample: Sample, height: int, width: int) -> Sample:
    """All maps at another size: the image averaged, normals unit, and all others nearest."""
    if sample["image"].shape[:2] == (height, width):
        return sample

    def resized(name: str, values: np.ndarray) -> np.ndarray:
        if name == "image":
            import cv2

            return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
        return (unit_normals if values.ndim == 3 else nearest)(values, height, width)

    return {name: resized(name, values) for name, values in sample.items()}


def crop_sample(sample: Sample, height: int, width: int) -> Sample:
    """The middle of all maps, of the shape that is asked for, at this size."""
    rows, columns = sample["image"].shape[:2]
    kept = kept_shape((rows, columns), (height, width))
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    window = (slice(top, top + kept[0]), slice(left, left + kept[1]))
    middle = {
        name: np.ascontiguousarray(
            values[(slice(None), *window)] if values.ndim == 3 and name != "image" else values[window]
        )
        for name, values in sample.items()
    }
    return resize_sample(middle, height, width)


def kept_shape(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Of a picture, height and width of the largest part with the shape of ``size``."""
    scale = min(shape[0] / size[0], shape[1] / size[1])
    return min(max(round(size[0] * scale), 1), shape[0]), min(max(round(size[1] * scale), 1), shape[1])


def nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The nearest of the (H, W) values at every new place."""
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    return values.take(rows, axis=0).take(columns, axis=1)


def unit_normals(normals: np.ndarray, height: int, width: int) -> np.ndarray:
    """Normals interpolated to length 1; 0 where the nearest is unknown or opposites cancel."""
    import cv2

    smooth = np.empty((3, height, width), np.float32)
    for plane, out in zip(normals, smooth, strict=True):
        cv2.resize(plane, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    length = np.sqrt(np.einsum("chw,chw->hw", smooth, smooth))
    known = nearest(np.asarray(normals.any(axis=0)), height, width) & (length > 0.01)
    length[~known] = np.inf
    smooth /= length
    return smooth
