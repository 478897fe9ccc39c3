"""Augmentations that move an image and its maps (labels, depth, normals) together.

Albumentations draws the numbers, applies the colors and composes; what geometry does to depth and normals is written here,
as it supports neither: zooming in by s brings everything s times closer (metric depth / s, disparity * s), a mirror
negates the x of normals, and normals have length 1 again after they were interpolated.

    sample {"image", "segmentation", "depth", ...} -> zoom and crop -> mirror -> brightness, contrast -> sample

The result is a pure function of the sample and a seed. With :func:`tasks.task.sample_seed` it depends on (seed, epoch, index) alone, so
workers never repeat one another, and a resumed run gets the samples of an uninterrupted one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import queries a server for the newest version

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F

from tasks.resampling import Sample, nearest, unit_normals

_ROOMS = {"segmentation": "classes", "depth": "depth", "normals": "normals"}


class JointTransform:
    """Random zoom, mirror, brightness and contrast for a sample of aligned maps.

    Args:
        kinds: Map -> kind, see :mod:`tasks.map_kinds`.
        zooms: One of these factors is drawn, a window smaller by it cropped at random, and brought back to full size.
        mirror: Probability of a horizontal flip.
        jitter: Largest relative change of brightness and of contrast.
        protocol: ``pooled``: the geometry above. ``mtan``: as public code does, which aligns corners when it interpolates,
            does not bring normals back to length 1, and divides a disparity too.

    Raises:
        ValueError: A zoom below 1, or a probability or jitter outside [0, 1].
    """

    def __init__(
        self,
        kinds: Mapping[str, str] = MappingProxyType(_ROOMS),
        zooms: Sequence[float] = (1.0, 1.2, 1.5),
        mirror: float = 0.5,
        jitter: float = 0.0,
        protocol: Literal["pooled", "mtan"] = "pooled",
    ) -> None:
        if not zooms or min(zooms) < 1:
            raise ValueError(f"zooms must be at least 1, got {tuple(zooms)}")
        if not 0 <= mirror <= 1 or not 0 <= jitter <= 1:
            raise ValueError(f"mirror and jitter must be in [0, 1], got {mirror} and {jitter}")
        # some words mean something to Compose
        self._keys = {name: f"map_{name}" for name in kinds} | {"image": "image"}
        moved = {self._keys[name]: kind for name, kind in kinds.items()}
        steps: list[A.BasicTransform] = [_Zoom(moved, tuple(zooms), protocol == "mtan"), _Mirror(moved, mirror)]
        if jitter > 0:
            steps.append(A.RandomBrightnessContrast(brightness_limit=jitter, contrast_limit=jitter, p=1.0))
        # strict: an unknown argument or map is an error, not ignored
        self._compose = A.Compose(steps, strict=True)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample after the augmentation that ``seed`` decides."""
        self._compose.set_random_seed(seed)
        moved = self._compose(**{self._keys.get(name, name): values for name, values in sample.items()})
        return {name: moved[self._keys[name]] for name in sample}


class _Joint(A.DualTransform):
    """A transform that knows the maps of a sample by name, with the kind of each."""

    def __init__(self, kinds: Mapping[str, str], p: float) -> None:
        self.kinds = dict(kinds)  # first, as the base class asks for the targets
        super().__init__(p=p)

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        others: dict[str, Callable[..., Any]] = {
            "depth": self.apply_to_depth,
            "disparity": self.apply_to_disparity,
            "normals": self.apply_to_normals,
        }
        return {
            "image": self.apply,
            **{name: others.get(kind, self.apply_to_mask) for name, kind in self.kinds.items()},
        }

    def apply_to_depth(self, depth: np.ndarray, **parameters: Any) -> np.ndarray:
        return self.apply_to_mask(depth, **parameters)

    def apply_to_disparity(self, disparity: np.ndarray, **parameters: Any) -> np.ndarray:
        return self.apply_to_mask(disparity, **parameters)

    def apply_to_normals(self, normals: np.ndarray, **parameters: Any) -> np.ndarray:
        raise NotImplementedError


class _Mirror(_Joint):
    def apply(self, img: np.ndarray, **parameters: Any) -> np.ndarray:
        return cv2.flip(img, 1)

    def apply_to_normals(self, normals: np.ndarray, **parameters: Any) -> np.ndarray:
        mirrored = np.empty_like(normals)
        for plane, out in zip(normals, mirrored, strict=True):
            cv2.flip(plane, 1, dst=out)
        mirrored[0] *= -1
        return mirrored


class _Zoom(_Joint):
    def __init__(self, kinds: Mapping[str, str], zooms: tuple[float, ...], mtan: bool) -> None:
        super().__init__(kinds, p=1.0)
        self.zooms, self.mtan = zooms, mtan

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        zoom = self.py_random.choice(self.zooms)
        rows, columns = max(int(height / zoom), 1), max(int(width / zoom), 1)
        top, left = self.py_random.randint(0, height - rows), self.py_random.randint(0, width - columns)
        return {"zoom": zoom, "window": (slice(top, top + rows), slice(left, left + columns)), "size": (height, width)}

    def apply(self, img: np.ndarray, **parameters: Any) -> np.ndarray:
        window, size = parameters["window"], parameters["size"]
        if parameters["zoom"] == 1:
            return img
        if self.mtan:
            return _corners(img[window].transpose(2, 0, 1), *size).transpose(1, 2, 0)
        return cv2.resize(img[window], size[::-1], interpolation=cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, **parameters: Any) -> np.ndarray:
        return mask if parameters["zoom"] == 1 else nearest(mask[parameters["window"]], *parameters["size"])

    def apply_to_depth(self, depth: np.ndarray, **parameters: Any) -> np.ndarray:
        return self._scaled(depth, 1 / parameters["zoom"], parameters)

    def apply_to_disparity(self, disparity: np.ndarray, **parameters: Any) -> np.ndarray:
        return self._scaled(disparity, 1 / parameters["zoom"] if self.mtan else parameters["zoom"], parameters)

    def _scaled(self, values: np.ndarray, factor: float, parameters: dict[str, Any]) -> np.ndarray:
        near = self.apply_to_mask(values, **parameters)
        return near if parameters["zoom"] == 1 else near * np.float32(factor)

    def apply_to_normals(self, normals: np.ndarray, **parameters: Any) -> np.ndarray:
        if parameters["zoom"] == 1:
            return normals
        near = normals[(slice(None), *parameters["window"])]
        return (_corners if self.mtan else unit_normals)(near, *parameters["size"])


def _corners(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """As public code interpolates (C, H, W): the first and last pixels stay where they are."""
    batch = torch.from_numpy(values)[None]
    return F.interpolate(batch, (height, width), mode="bilinear", align_corners=True)[0].numpy()
