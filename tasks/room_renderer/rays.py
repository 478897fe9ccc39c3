"""Where rays meet unit boxes, spheres and cylinders under affine maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .layout import Camera
from .scene import Part


def mix(weights: Sequence[float] | np.ndarray, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of weights times vectors; the order of summation in ``@`` depends on the processor."""
    total: np.ndarray | None = None
    for weight, vector in zip(weights, vectors, strict=True):
        if weight != 0:
            term = float(weight) * vector
            total = term if total is None else total + term
    return np.zeros_like(vectors[0]) if total is None else total


def _slab(o: np.ndarray | float, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave -1 <= x <= 1."""
    inverse = 1.0 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    a, b = (-1.0 - o) * inverse, (1.0 - o) * inverse
    return np.minimum(a, b), np.maximum(a, b)


def _round(o: Sequence[np.ndarray | float], d: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Entry and exit of rays in the unit ball (three coordinates) or unit cylinder (two)."""
    a = sum(x * x for x in d) + np.float32(1e-12)
    b = sum(x * y for x, y in zip(o, d, strict=True))
    c = sum(x * x for x in o) - 1.0
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0.0))
    near, far = (-b - root) / a, (root - b) / a
    return near, np.where(square > 0, far, -np.inf)


def _interval(shape: str, o: Sequence[np.ndarray | float], d: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave a unit shape; they miss it if they leave before they enter."""
    if shape == "sphere":
        return _round(o, d)
    enter, leave = _slab(o[2], d[2])
    for a, b in [_round(o[:2], d[:2])] if shape == "cylinder" else [_slab(o[0], d[0]), _slab(o[1], d[1])]:
        enter, leave = np.maximum(enter, a), np.minimum(leave, b)
    return enter, leave


def _window_of(part: Part, camera: Camera, height: int, width: int) -> tuple[slice, slice] | None:
    """Rows and columns that can see ``part``; ``None`` if none can."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * part.half
    points = [
        part.center + part.turn[:, 0] * c[0] + part.turn[:, 1] * c[1] + part.turn[:, 2] * c[2] - camera.eye
        for c in corners
    ]
    views = [tuple(float((axis * p).sum()) for axis in (camera.right, camera.up, camera.forward)) for p in points]
    if all(z < 0.05 for _, _, z in views):
        return None
    if any(z < 0.05 for _, _, z in views):
        return slice(0, height), slice(0, width)
    tall = camera.spread * height / width
    columns = [(1 + x / z / camera.spread) * width / 2 for x, _, z in views]
    rows = [(1 - y / z / tall) * height / 2 for _, y, z in views]
    top, bottom = max(math.floor(min(rows)) - 1, 0), min(math.ceil(max(rows)) + 1, height)
    left, right = max(math.floor(min(columns)) - 1, 0), min(math.ceil(max(columns)) + 1, width)
    return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def cast(parts: list[Part], camera: Camera, rays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Depth and index of the nearest part, (H, W) each."""
    height, width = rays[0].shape
    depth = np.full((height, width), np.inf, np.float32)
    owner = np.full((height, width), -1, np.int16)
    for index, part in enumerate(parts):
        window = _window_of(part, camera, height, width)
        if window is None:
            continue
        inverse, offset = part.inverse, camera.eye - part.center
        local = [float((row * offset).sum()) for row in inverse]
        enter, leave = _interval(part.shape, local, [mix(row, [r[window] for r in rays]) for row in inverse])
        nearer = (leave > enter) & (enter > 0.05) & (enter < depth[window])
        depth[window][nearer] = enter[nearer]
        owner[window][nearer] = index
    return depth, owner


def blocked(parts: list[Part], start: list[np.ndarray], way: list[np.ndarray]) -> np.ndarray:
    """Whether a part lies between ``start`` and ``start + way``."""
    hit = np.zeros(start[0].shape, bool)
    square = way[0] * way[0] + way[1] * way[1] + way[2] * way[2] + np.float32(1e-9)
    for part in parts:
        to = [float(c) - s for c, s in zip(part.center, start, strict=True)]
        along = (to[0] * way[0] + to[1] * way[1] + to[2] * way[2]) / square
        along = np.minimum(np.maximum(along, 0.0), 1.0)
        off = [t - along * w for t, w in zip(to, way, strict=True)]
        near = (off[0] * off[0] + off[1] * off[1] + off[2] * off[2] < part.radius**2) & ~hit
        rows = np.flatnonzero(near)
        if len(rows) == 0:
            continue
        to, directions = [-t[rows] for t in to], [w[rows] for w in way]
        enter, leave = _interval(
            part.shape, [mix(row, to) for row in part.inverse], [mix(row, directions) for row in part.inverse]
        )
        hit[rows] = (leave > np.maximum(enter, 0.0)) & (enter < 1.0)
    return hit
