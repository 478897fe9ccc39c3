"""The picture of a room, and its maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .layout import Plan, furnish, place_camera, shell
from .rays import cast, mix
from .scene import CLASSES, Builder
from .shading import shade, surface, texture

VERSION = 1  # of the recipe; any change of a single bit of a room is a new version
SPLITS = ("train", "val", "test")


class Room(NamedTuple):
    """One picture with its maps.

    ``image`` (H, W, 3) uint8, ``label`` (H, W) int8 with -1 where unknown, ``depth`` (H, W, 1) float32 in meters with 0
    where unknown, ``normal`` (H, W, 3) float32 (x right, y up, z to the viewer; 0 where unknown).
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def _steps(values: np.ndarray, limit: float) -> np.ndarray:
    """Pixels that differ from a neighbor by more than ``limit``."""
    edges = np.zeros(values.shape, bool)
    down, right = np.abs(values[1:] - values[:-1]) > limit, np.abs(values[:, 1:] - values[:, :-1]) > limit
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def render_room(seed: int, split: str, index: int, height: int, width: int, holes: bool = True) -> Room:
    """Room number ``index`` of ``split``, the same bits on every machine.

    ``seed`` is that of the whole set; ``height`` and ``width`` are in pixels; ``holes`` leaves out what a depth camera cannot
    see (edges of objects, grazing surfaces), and labels at some borders.
    """
    b = Builder(np.random.RandomState([seed, SPLITS.index(split), index]))
    size = (b.draw(3.2, 6.0), b.draw(3.5, 7.0), b.draw(2.3, 3.1))
    camera = place_camera(b, size[0], size[1])
    shell(b, *size)
    furnish(b, Plan(b, size[0], size[1], camera.eye), size[2])

    across = ((np.arange(width) + 0.5) * (2 / width) - 1) * camera.spread
    down = (1 - (np.arange(height) + 0.5) * (2 / height)) * (camera.spread * height / width)
    x, y = across.astype(np.float32)[None, :], down.astype(np.float32)[:, None]
    rays = [
        float(f) + float(r) * x + float(u) * y for f, r, u in zip(camera.forward, camera.right, camera.up, strict=True)
    ]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        depth, owner = cast(b.parts, camera, rays)
        flat = owner.ravel()
        point = [float(e) + depth.ravel() * ray.ravel() for e, ray in zip(camera.eye, rays, strict=True)]
        normal, albedo = ([np.zeros(flat.shape, np.float32) for _ in range(3)] for _ in range(2))
        for number in np.unique(flat):
            part, pixels = b.parts[number], np.flatnonzero(flat == number)
            unit, u, v = surface(part, [p[pixels] for p in point])
            share = texture(part.material, u, v)
            first, second = part.material.colors
            for k in range(3):
                normal[k][pixels] = unit[k]
                albedo[k][pixels] = first[k] + (second[k] - first[k]) * share
        occluders = [part for part in b.parts if CLASSES[part.label] not in ("ceiling", "floor", "wall")]
        image = shade(b, size, occluders, point, normal, albedo, (height, width))

    label = np.array([part.label for part in b.parts], np.int8)[owner]
    axes = (camera.right, camera.up, -camera.forward)
    towards = np.stack([mix(axis, normal) for axis in axes], axis=-1).reshape(height, width, 3)
    if holes:
        length = np.sqrt(rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2])
        facing = np.abs(sum(n.reshape(height, width) * r for n, r in zip(normal, rays, strict=True))) / length
        draw = b.random.random_sample((2, height, width))
        lost = (_steps(depth, 0.2) & (draw[0] < 0.3)) | ((facing < 0.12) & (draw[0] < 0.6))
        depth, towards = np.where(lost, np.float32(0), depth), np.where(lost[..., None], np.float32(0), towards)
        label = np.where(_steps(label, 0.5) & (draw[1] < 0.15), np.int8(-1), label)
    return Room(image, label, depth[..., None], towards)
