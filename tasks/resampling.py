"""Maps of a sample at another size.

A sample has ``image`` (H, W, 3) float32 in [0, 1] and any of ``segmentation`` (H, W) int16, ``depth`` (H, W) float32 with 0
where unknown, ``normals`` (3, H, W) float32 with 0 where unknown.
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
    """All maps at another size: the image averaged, labels and depth nearest, normals unit."""
    if sample["image"].shape[:2] == (height, width):
        return sample
    import cv2

    methods = {
        "image": lambda image: cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA),
        "segmentation": lambda labels: nearest(labels, height, width),
        "depth": lambda depth: nearest(depth, height, width),
        "normals": lambda normals: unit_normals(normals, height, width),
    }
    return {name: methods[name](values) for name, values in sample.items()}


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
