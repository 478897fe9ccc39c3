"""What light makes of surfaces."""

from __future__ import annotations

import numpy as np

from .rays import blocked, mix
from .scene import Builder, Material, Part


def surface(part: Part, point: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Unit normals in the room, and coordinates on the surface in meters, of points on ``part``."""
    local = [mix(row, [p - float(c) for p, c in zip(point, part.center, strict=True)]) for row in part.inverse]
    hx, hy, hz = (float(h) for h in part.half)
    x, y, z = local
    size = [np.abs(value) for value in local]
    zero = np.zeros_like(x)
    if part.shape == "box":
        on_x = (size[0] >= size[1]) & (size[0] >= size[2])
        on_y = ~on_x & (size[1] >= size[2])
        normal = [np.where(on_x, np.sign(x), zero), np.where(on_y, np.sign(y), zero)]
        normal.append(np.where(on_x | on_y, zero, np.sign(z)))
        u = np.where(on_x, y * hy, x * hx)
        v = np.where(on_x | on_y, z * hz, y * hy)
    elif part.shape == "sphere":
        normal, u, v = [x / hx, y / hy, z / hz], x * hx + y * hy, z * hz
    else:
        cap = z * z > x * x + y * y
        normal = [np.where(cap, zero, x / hx), np.where(cap, zero, y / hy), np.where(cap, np.sign(z), zero)]
        u = np.where(cap, x * hx, x * hx + y * hy)
        v = np.where(cap, y * hy, z * hz)
    normal = [mix(row, normal) for row in part.turn]
    length = np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]) + np.float32(1e-12)
    return [n / length for n in normal], u, v


def texture(material: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(N,) share of the second color."""
    u, v = u / material.scale + np.float32(37.3), v / material.scale + np.float32(41.7)  # off the lattice at 0
    if material.texture == "flat":
        return np.zeros_like(u)
    if material.texture == "checks":
        return ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    if material.texture == "stripes":
        w = material.direction[0] * u + material.direction[1] * v
        return (w - np.floor(w) < 0.5).astype(np.float32)
    if material.texture == "dots":
        a, b = u - np.floor(u) - np.float32(0.5), v - np.floor(v) - np.float32(0.5)
        return (a * a + b * b < 0.1).astype(np.float32)
    if material.texture == "bricks":
        row = np.floor(2 * v)
        a, b = u + row % 2 * np.float32(0.5), 2 * v
        return ((a - np.floor(a) < 0.06) | (b - np.floor(b) < 0.12)).astype(np.float32)
    i, j = np.floor(u), np.floor(v)
    a, b = u - i, v - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, j = i.astype(np.int32) & 15, j.astype(np.int32) & 15
    i1, j1, table = (i + 1) & 15, (j + 1) & 15, material.lattice
    top = table[i, j] * (1 - a) + table[i1, j] * a
    return top * (1 - b) + (table[i, j1] * (1 - a) + table[i1, j1] * a) * b


def _soften(values: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels, which hides that only one shadow ray was cast per pixel."""
    for axis in (0, 1):
        pad = [(1, 1) if axis == k else (0, 0) for k in (0, 1)]
        wide = np.pad(values, pad, mode="edge")
        size = values.shape[axis]
        a, b, c = (wide.take(range(k, k + size), axis) for k in range(3))
        values = (a + b + c) / np.float32(3)
    return values


def shade(
    b: Builder,
    size: tuple[float, float, float],
    occluders: list[Part],
    point: list[np.ndarray],
    normal: list[np.ndarray],
    albedo: list[np.ndarray],
    shape: tuple[int, int],
) -> np.ndarray:
    """(H, W, 3) uint8 picture, given what each pixel sees."""
    pixels = len(point[0])
    start = [p + np.float32(0.003) * n for p, n in zip(point, normal, strict=True)]

    def uniform(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * b.random.random_sample(pixels)).astype(np.float32)

    light: list[np.ndarray] = [np.zeros(pixels, np.float32) for _ in range(3)]
    for _ in range(b.random.randint(1, 3)):
        x, y, wide = b.draw(0.25, 0.75) * size[0], b.draw(0.3, 0.75) * size[1], b.draw(0.3, 0.8)
        tint = (1.0 + b.draw(-0.12, 0.12), 1.0, 1.0 + b.draw(-0.2, 0.2))
        power = b.draw(0.6, 1.2) * size[2] * size[2]
        corner: list[np.ndarray] = [x + uniform(-wide, wide) / 2, y + uniform(-wide, wide) / 2]
        corner.append(np.full(pixels, size[2] - 0.03, np.float32))
        way = [c - s for c, s in zip(corner, start, strict=True)]
        square = way[0] * way[0] + way[1] * way[1] + way[2] * way[2] + np.float32(1e-3)
        facing = np.maximum(normal[0] * way[0] + normal[1] * way[1] + normal[2] * way[2], 0.0)
        strength = power * facing * np.maximum(way[2], 0.0) / (square * square)
        lit = _soften((~blocked(occluders, start, way)).astype(np.float32).reshape(shape)).ravel()
        light = [total + color * strength * lit for total, color in zip(light, tint, strict=True)]
    aside = [uniform(-1, 1) for _ in range(3)]
    side = np.sign(normal[0] * aside[0] + normal[1] * aside[1] + normal[2] * aside[2])
    outward: list[np.ndarray] = [0.8 * (0.7 * n + 0.5 * side * a) for n, a in zip(normal, aside, strict=True)]
    sky = 1 - np.float32(0.6) * _soften(blocked(occluders, start, outward).astype(np.float32).reshape(shape)).ravel()
    for axis in range(3):
        for distance in (point[axis], np.float32(size[axis]) - point[axis]):
            dark = np.maximum(1 - np.maximum(distance, 0.0) / np.float32(0.6), 0.0) * (1 - np.abs(normal[axis]))
            sky = sky * (1 - np.float32(0.4) * dark)
    ambient = b.draw(0.15, 0.4)
    colors = np.stack([a * (total + ambient * sky) for a, total in zip(albedo, light, strict=True)], axis=1)
    middle = float(np.median(colors[:, 1])) + 1e-3
    colors = colors * np.float32(b.draw(0.28, 0.6) / middle)
    colors = np.sqrt(colors / (1 + colors) * np.float32(1.15))
    # three uniform numbers add up to almost a normal one, and exactly the same everywhere
    noise = (b.random.random_sample((3, pixels, 3)).sum(0) - 1.5) * 2
    colors = colors + (b.draw(0.004, 0.02) * noise).astype(np.float32)
    return np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8).reshape(*shape, 3)
