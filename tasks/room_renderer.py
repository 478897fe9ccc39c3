"""Furnished rooms with labels, depth and normals: a ray caster in NumPy alone.

Everything in a scene is a unit box, sphere or cylinder under an affine map. A ray is moved into the unit space of a part,
met there by a formula, and its parameter carries over unchanged. Rays have length 1 along the view axis, so that the
parameter *is* the depth.

    seed, split, index -> scene (27 to 150 parts) -> nearest part per pixel -> label, depth, normal
                                                        |-> texture, lights, shadows, corners, noise -> image

Colour does not give a class away: every part draws its material from the same distribution, so that a wall, a sofa and a book
may wear the same checks. What tells the classes apart is shape, size, place and context.

The result is the same to the last bit everywhere: only correctly rounded operations act on arrays (no matrix product, no
sine), in float32, and every room has a random stream of its own. As a program, this file renders rooms into a folder; it
imports nothing of this package, so that it starts at once.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["CLASSES", "KINDS", "SPLITS", "VERSION", "Room", "render_room", "save_array"]

VERSION = 1  # of the recipe; any change of a single bit of a room is a new version
CLASSES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv"),
    *("wall", "window"),
)
SPLITS = ("train", "val", "test")
KINDS = ("image", "label", "depth", "normal")  # one folder and one file per room each
_ID = {name: index for index, name in enumerate(CLASSES)}
_TEXTURES = (("flat", 0.32), ("checks", 0.12), ("stripes", 0.16), ("noise", 0.20), ("dots", 0.08), ("bricks", 0.12))
_SHELL = ("ceiling", "floor", "wall")
_STRAIGHT = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))  # cosine and sine of quarter turns


class Room(NamedTuple):
    """One picture: ``image`` (H, W, 3) uint8, ``label`` (H, W) int8 with -1 where unknown, ``depth`` (H, W, 1) float32 in
    metres with 0 where unknown, ``normal`` (H, W, 3) float32 (x right, y up, z to the viewer; 0 where unknown).
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


@dataclass(frozen=True)
class _Material:
    texture: str
    colours: np.ndarray  # (2, 3)
    scale: float  # metres
    direction: tuple[float, float]
    lattice: np.ndarray  # (16, 16)


@dataclass(frozen=True)
class _Part:
    shape: str
    label: int
    centre: np.ndarray  # (3,)
    half: np.ndarray  # (3,) half of the extents
    turn: np.ndarray  # (3, 3) columns: the part's axes in the room
    material: _Material

    @property
    def inverse(self) -> np.ndarray:
        """Room -> unit space, without the shift."""
        return self.turn.T / self.half[:, None]

    @property
    def radius(self) -> float:
        """Of a ball around the part."""
        if self.shape == "sphere":
            return float(self.half.max())
        return math.sqrt(float((self.half * self.half).sum()))


class _Builder:
    """Collects parts. Furniture is described standing at the origin with its front to -y, and placed by :meth:`at`."""

    def __init__(self, random: np.random.RandomState) -> None:
        self.random = random
        self.parts: list[_Part] = []
        self.palette = [self._fresh() for _ in range(7)]
        self.at(0.0, 0.0)

    def at(self, x: float, y: float, z: float = 0.0, turn: tuple[float, float] = (1.0, 0.0)) -> None:
        """Where the coming parts stand, and the cosine and sine of how they are turned."""
        self.origin, self.cosine, self.sine = (x, y, z), *turn

    def draw(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.random.random_sample())

    def chance(self, probability: float) -> bool:
        return bool(self.random.random_sample() < probability)

    def material(self) -> _Material:
        """From the scene's palette, or a fresh one: the same distribution whatever it is for."""
        return self.palette[self.random.randint(7)] if self.chance(0.55) else self._fresh()

    def _fresh(self) -> _Material:
        draw, texture = float(self.random.random_sample()), _TEXTURES[-1][0]
        for name, share in _TEXTURES:
            if draw < share:
                texture = name
                break
            draw -= share
        angle = self.draw(0, math.pi)
        return _Material(
            texture,
            (0.08 + 0.84 * self.random.random_sample((2, 3))).astype(np.float32),
            self.draw(0.05, 0.5),
            (math.cos(angle), math.sin(angle)),
            self.random.random_sample((16, 16)).astype(np.float32),
        )

    def add(
        self,
        shape: str,
        label: str,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        material: _Material | None = None,
    ) -> None:
        """A part of extents ``size`` around ``centre``, both in the frame of :meth:`at`."""
        c, s, (x, y, z) = self.cosine, self.sine, centre
        moved = (c * x - s * y + self.origin[0], s * x + c * y + self.origin[1], z + self.origin[2])
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        half = np.array(size) / 2
        self.parts.append(_Part(shape, _ID[label], np.array(moved), half, turn, material or self.material()))


# ---- furniture: each returns a flat top (x, y, z, width, depth) for small things, or None ------------------------------

_Top = tuple[float, float, float, float, float]


def _bed(b: _Builder, w: float, d: float) -> None:
    height, frame, sheet = b.draw(0.4, 0.6), b.material(), b.material()
    b.add("box", "bed", (0, 0, height / 3), (w, d, height / 2), frame)
    b.add("box", "bed", (0, 0, height * 0.78), (w - 0.04, d - 0.04, height * 0.44), sheet)
    head = b.draw(0.8, 1.2)
    b.add("box", "bed", (0, d / 2 - 0.03, head / 2), (w, 0.06, head), frame)
    cover = b.draw(0.5, 0.75) * d
    b.add("box", "bed", (0, (cover - d) / 2, height * 0.8), (w + 0.03, cover + 0.02, height * 0.44))
    count = 2 if w > 1.3 else 1
    for i in range(count):
        x = (i - (count - 1) / 2) * w / 2
        b.add("sphere", "bed", (x, d / 2 - 0.3, height + 0.04), (0.8 * w / count, 0.42, 0.2), None if i else sheet)


def _sofa(b: _Builder, w: float, d: float) -> None:
    cloth = b.material()
    seat, back, arm = b.draw(0.38, 0.46), b.draw(0.75, 0.95), b.draw(0.14, 0.24)
    b.add("box", "sofa", (0, 0, seat / 2 + 0.03), (w, d, seat - 0.06), cloth)
    b.add("box", "sofa", (0, d / 2 - 0.1, back / 2), (w, 0.2, back), cloth)
    for side in (-1, 1):
        b.add("box", "sofa", (side * (w - arm) / 2, 0, 0.31), (arm, d, 0.62), cloth)
    count, room = b.random.randint(2, 4), w - 2 * arm
    seats = b.material()
    for i in range(count):
        x = (i - (count - 1) / 2) * room / count
        b.add("box", "sofa", (x, -0.06, seat + 0.05), (room / count - 0.02, d - 0.28, 0.12), seats)
        if b.chance(0.6):
            b.add("sphere", "sofa", (x, d / 2 - 0.28, seat + 0.26), (0.46, 0.22, 0.42))


def _chair(b: _Builder, w: float, d: float) -> None:
    height, back, wood = b.draw(0.42, 0.5), b.draw(0.38, 0.55), b.material()
    seat = wood if b.chance(0.5) else b.material()
    b.add("cylinder" if b.chance(0.3) else "box", "chair", (0, 0, height), (w, d, 0.05), seat)
    if b.chance(0.7):
        for x in (-1, 1):
            for y in (-1, 1):
                place = (x * (w / 2 - 0.04), y * (d / 2 - 0.04), height / 2)
                b.add("box", "chair", place, (0.045, 0.045, height), wood)
    else:
        b.add("cylinder", "chair", (0, 0, height / 2), (0.07, 0.07, height), wood)
        b.add("cylinder", "chair", (0, 0, 0.02), (w * 0.9, w * 0.9, 0.04), wood)
    if b.chance(0.5):
        b.add("box", "chair", (0, d / 2 - 0.025, height + back / 2), (w, 0.04, back), seat)
        return
    for i in range(3):
        b.add("box", "chair", ((i - 1) * (w / 2 - 0.03), d / 2 - 0.025, height + back / 2), (0.05, 0.035, back), wood)
    b.add("box", "chair", (0, d / 2 - 0.025, height + back), (w, 0.04, 0.08), wood)


def _table(b: _Builder, w: float, d: float, height: float) -> _Top:
    wood, legs = b.material(), b.material()
    if b.chance(0.3):
        size = min(w, d)
        b.add("cylinder", "table", (0, 0, height - 0.02), (size, size, 0.04), wood)
        b.add("cylinder", "table", (0, 0, height / 2), (0.12, 0.12, height), legs)
        b.add("cylinder", "table", (0, 0, 0.02), (size * 0.6, size * 0.6, 0.04), legs)
        return (0, 0, height, size * 0.65, size * 0.65)
    b.add("box", "table", (0, 0, height - 0.025), (w, d, 0.05), wood)
    for x in (-1, 1):
        for y in (-1, 1):
            b.add("box", "table", (x * (w / 2 - 0.05), y * (d / 2 - 0.05), height / 2), (0.07, 0.07, height), legs)
    return (0, 0, height, w, d)


def _cabinet(b: _Builder, w: float, d: float, height: float) -> _Top | None:
    body, face = b.material(), b.material()
    b.add("box", "furniture", (0, 0, height / 2), (w, d, height), body)
    columns, rows = (2 if w > 0.8 else 1), b.random.randint(1, 4)
    for i in range(columns):
        for j in range(rows):
            wide, high = w / columns, (height - 0.08) / rows
            x, z = (i - (columns - 1) / 2) * wide, 0.06 + (j + 0.5) * high
            b.add("box", "furniture", (x, -d / 2, z), (wide - 0.04, 0.03, high - 0.04), face)
            b.add("sphere", "furniture", (x + wide / 3, -d / 2 - 0.025, z), (0.045, 0.045, 0.045), body)
    return (0, 0, height, w, d) if height < 1.4 else None


def _shelf(b: _Builder, w: float, d: float, height: float) -> None:
    wood, boards = b.material(), b.random.randint(2, 5)
    for side in (-1, 1):
        b.add("box", "furniture", (side * (w / 2 - 0.015), 0, height / 2), (0.03, d, height), wood)
    b.add("box", "furniture", (0, d / 2 - 0.01, height / 2), (w, 0.02, height), wood)
    gap = (height - 0.1) / boards
    for i in range(boards + 1):
        z = 0.06 + i * gap
        b.add("box", "furniture", (0, 0, z), (w, d, 0.03), wood)
        if i < boards and b.chance(0.75):
            _book_row(b, z + 0.015, w - 0.08, d, gap - 0.05)
        elif i < boards:
            _object(b, (b.draw(-0.25, 0.25) * w, 0, z + 0.015), min(gap - 0.06, 0.35), b.random.randint(0, 3))


def _book_row(b: _Builder, z: float, room: float, d: float, gap: float) -> None:
    x, end = -room / 2, room / 2 * b.draw(-0.2, 1.0)
    while x < end:
        thick, high = b.draw(0.03, 0.075), min(b.draw(0.2, 0.32), gap)
        deep = d * b.draw(0.6, 0.85)
        b.add("box", "books", (x + thick / 2, (d - deep) / 2 - 0.02, z + high / 2), (thick - 0.004, deep, high))
        x += thick


def _book_pile(b: _Builder, x: float, y: float, z: float) -> None:
    for _ in range(b.random.randint(2, 6)):
        thick = b.draw(0.03, 0.06)
        b.add("box", "books", (x, y, z + thick / 2), (b.draw(0.2, 0.32), b.draw(0.18, 0.26), thick))
        z += thick


def _object(b: _Builder, place: tuple[float, float, float], size: float, kind: int) -> None:
    """Ball, can, box, vase, plant or lamp of height ``size`` standing on ``place``."""
    x, y, z = place
    if kind == 0:
        b.add("sphere", "objects", (x, y, z + size * 0.4), (size * 0.8, size * 0.8, size * 0.8))
    elif kind == 1:
        b.add("cylinder", "objects", (x, y, z + size / 2), (size * 0.5, size * 0.5, size))
    elif kind == 2:
        b.add("box", "objects", (x, y, z + size * 0.3), (size, size * 0.7, size * 0.6))
    elif kind == 3:
        clay = b.material()
        b.add("sphere", "objects", (x, y, z + size * 0.35), (size * 0.55, size * 0.55, size * 0.7), clay)
        b.add("cylinder", "objects", (x, y, z + size * 0.8), (size * 0.2, size * 0.2, size * 0.4), clay)
    elif kind == 4:
        b.add("cylinder", "objects", (x, y, z + size * 0.17), (size * 0.4, size * 0.4, size * 0.34))
        leaf = b.material()
        for _ in range(b.random.randint(3, 6)):
            spot = (x + b.draw(-0.2, 0.2) * size, y + b.draw(-0.2, 0.2) * size, z + b.draw(0.5, 0.85) * size)
            b.add("sphere", "objects", spot, (size * b.draw(0.2, 0.4), size * b.draw(0.2, 0.4), size * 0.4), leaf)
    else:
        b.add("cylinder", "objects", (x, y, z + 0.015), (size * 0.3, size * 0.3, 0.03))
        b.add("cylinder", "objects", (x, y, z + size * 0.4), (0.03, 0.03, size * 0.8))
        b.add("cylinder", "objects", (x, y, z + size * 0.85), (size * 0.45, size * 0.45, size * 0.3))


def _dress(b: _Builder, top: _Top) -> None:
    """Small things on a flat top."""
    x, y, z, w, d = top
    for i in range(b.random.randint(0, 4)):
        place = (x + (b.draw(-0.3, 0.3) + 0.3 * (i - 1)) * w * 0.7, y + b.draw(-0.25, 0.25) * d, z)
        if b.chance(0.35):
            _book_pile(b, *place)
        else:
            _object(b, place, b.draw(0.15, 0.45), b.random.randint(6))


def _picture(b: _Builder, w: float, h: float) -> None:
    b.add("box", "picture", (0, -0.02, 0), (w, 0.04, h))
    b.add("box", "picture", (0, -0.03, 0), (w - 0.1, 0.04, h - 0.1))


def _tv(b: _Builder, w: float, h: float) -> None:
    frame = b.material()
    b.add("box", "tv", (0, -0.06, 0), (w, 0.05, h), frame)
    b.add("box", "tv", (0, -0.065, 0), (w - 0.05, 0.05, h - 0.05))
    b.add("box", "tv", (0, -0.02, 0), (w / 3, 0.04, h / 3), frame)


def _window(b: _Builder, w: float, h: float) -> None:
    frame = b.material()
    b.add("box", "window", (0, -0.005, 0), (w, 0.01, h))
    for side in (-1, 1):
        b.add("box", "window", (side * w / 2, -0.03, 0), (0.08, 0.06, h + 0.08), frame)
        b.add("box", "window", (0, -0.03, side * h / 2), (w + 0.08, 0.06, 0.08), frame)
    if b.chance(0.7):
        b.add("box", "window", (0, -0.02, 0), (0.05, 0.04, h), frame)
    if b.chance(0.4):
        b.add("box", "window", (0, -0.02, 0), (w, 0.04, 0.05), frame)
    b.add("box", "window", (0, -0.08, -h / 2 - 0.04), (w + 0.2, 0.16, 0.04), frame)


# ---- rooms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Camera:
    eye: np.ndarray
    right: np.ndarray
    up: np.ndarray
    forward: np.ndarray
    spread: float  # tangent of half the horizontal field of view


def _camera(b: _Builder, width: float, depth: float) -> _Camera:
    eye = np.array([b.draw(0.25, 0.75) * width, b.draw(0.25, 1.0), b.draw(1.0, 1.75)])
    goal = (b.draw(0.2, 0.8) * width - eye[0], b.draw(0.6, 1.0) * depth - eye[1])
    length = math.hypot(*goal)
    x, y = goal[0] / length, goal[1] / length
    pitch, roll = math.radians(b.draw(-24, 4)), math.radians(b.draw(-4, 4))
    forward = np.array([x * math.cos(pitch), y * math.cos(pitch), math.sin(pitch)])
    level = np.array([y, -x, 0.0])
    upright = np.array([-x * math.sin(pitch), -y * math.sin(pitch), math.cos(pitch)])
    right = math.cos(roll) * level + math.sin(roll) * upright
    up = math.cos(roll) * upright - math.sin(roll) * level
    return _Camera(eye, right, up, forward, math.tan(math.radians(b.draw(58, 74)) / 2))


def _shell(b: _Builder, width: float, depth: float, height: float) -> None:
    wall = b.material()
    b.add("box", "floor", (width / 2, depth / 2, -0.1), (width + 0.4, depth + 0.4, 0.2))
    b.add("box", "ceiling", (width / 2, depth / 2, height + 0.1), (width + 0.4, depth + 0.4, 0.2))
    for x in (-0.1, width + 0.1):
        b.add("box", "wall", (x, depth / 2, height / 2), (0.2, depth + 0.4, height + 0.2), wall)
    for y, accent in ((-0.1, wall), (depth + 0.1, None if b.chance(0.4) else wall)):
        b.add("box", "wall", (width / 2, y, height / 2), (width + 0.4, 0.2, height + 0.2), accent)


class _Plan:
    """What stands where: circles on the floor that must not meet, and intervals taken on each wall."""

    def __init__(self, b: _Builder, width: float, depth: float, eye: np.ndarray) -> None:
        self.b, self.width, self.depth = b, width, depth
        self.circles = [(float(eye[0]), float(eye[1]), 0.75)]
        self.hung: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}
        self.tall: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}

    def free(self, x: float, y: float, radius: float) -> bool:
        return all(math.hypot(x - a, y - c) > radius + other for a, c, other in self.circles)

    def on_wall(self, wall: int, along: float, gap: float) -> tuple[float, float, float, tuple[float, float]]:
        """(x, y, 0, turn) at ``gap`` from the back (0), left (1) or right (2) wall, facing in."""
        if wall == 0:
            return along, self.depth - gap, 0.0, _STRAIGHT[0]
        return (gap, along, 0.0, _STRAIGHT[1]) if wall == 1 else (self.width - gap, along, 0.0, _STRAIGHT[3])

    def span(self, wall: int) -> float:
        return self.width if wall == 0 else self.depth

    def against_wall(self, w: float, d: float, height: float) -> bool:
        """Move the builder to a free place at a wall; False if none was found."""
        for _ in range(12):
            wall, reach = self.b.random.randint(3), w / 2 + 0.05
            low = reach if wall == 0 else reach + 1.2
            if low > self.span(wall) - reach:
                continue
            along = self.b.draw(low, self.span(wall) - reach)
            x, y, z, turn = self.on_wall(wall, along, d / 2 + 0.03)
            radius = 0.42 * math.hypot(w, d)
            if self.free(x, y, radius):
                self.circles.append((x, y, radius))
                if height > 0.9:
                    self.tall[wall].append((along - w / 2, along + w / 2))
                self.b.at(x, y, z, turn)
                return True
        return False

    def standing(self, radius: float, turn: tuple[float, float]) -> bool:
        """Move the builder to a free place on the floor."""
        for _ in range(12):
            low, high = radius + 0.1, (self.width - radius - 0.1, self.depth - radius - 0.1)
            x, y = self.b.draw(low, high[0]), self.b.draw(low + 0.8, high[1])
            if y < self.depth - radius and self.free(x, y, radius):
                self.circles.append((x, y, radius))
                self.b.at(x, y, 0.0, turn)
                return True
        return False

    def hang(self, w: float, z: float) -> bool:
        """Move the builder to a free place on a wall."""
        for _ in range(8):
            wall = self.b.random.randint(3)
            low = 0.1 + w / 2 if wall == 0 else 0.8 + w / 2
            if low > self.span(wall) - w / 2 - 0.1:
                continue
            along = self.b.draw(low, self.span(wall) - w / 2 - 0.1)
            taken = self.hung[wall] + self.tall[wall]
            if all(along + w / 2 + 0.1 < a or along - w / 2 - 0.1 > c for a, c in taken):
                self.hung[wall].append((along - w / 2, along + w / 2))
                x, y, _, turn = self.on_wall(wall, along, 0.0)
                self.b.at(x, y, z, turn)
                return True
        return False


def _any_turn(b: _Builder) -> tuple[float, float]:
    angle = b.draw(-math.pi, math.pi)
    return math.cos(angle), math.sin(angle)


def _furnish(b: _Builder, plan: _Plan, height: float) -> None:
    """Big pieces first, along the walls; then what stands free, hangs, or lies around."""
    pieces: list[Callable[[], None]] = []

    def piece(w: float, d: float, h: float, build: Callable[..., object], *sizes: float) -> None:
        def place() -> None:
            if plan.against_wall(w, d, h):
                top = build(b, w, d, *sizes)
                if isinstance(top, tuple):
                    _dress(b, top)

        pieces.append(place)

    if b.chance(0.58):
        piece(b.draw(0.9, 1.8), b.draw(1.9, 2.1), 0.8, _bed)
    if b.chance(0.58):
        piece(b.draw(1.4, 2.2), b.draw(0.8, 0.95), 0.8, _sofa)
    for _ in range(b.random.randint(0, 3)):
        h = b.draw(0.6, 2.0)
        piece(b.draw(0.6, 1.5), b.draw(0.35, 0.6), h, _cabinet, h)
    if b.chance(0.5):
        h = b.draw(0.9, 2.1)
        piece(b.draw(0.6, 1.1), b.draw(0.25, 0.35), h, _shelf, h)
    for k in b.random.permutation(len(pieces)):
        pieces[k]()
    for _ in range(b.random.randint(0, 3)):
        _table_group(b, plan)
    for _ in range(b.random.randint(0, 3)):
        if plan.standing(0.36, _any_turn(b)):
            _chair(b, b.draw(0.42, 0.52), b.draw(0.42, 0.5))
    for _ in range(b.random.randint(1, 5)):
        kind = float(b.random.random_sample())
        if kind < 0.35:
            w, h = b.draw(0.4, 1.0), b.draw(0.4, 0.9)
            if plan.hang(w, b.draw(1.35, 1.75)):
                _picture(b, w, h)
        elif kind < 0.65:
            w, h = b.draw(0.8, 1.6), b.draw(0.8, 1.3)
            if plan.hang(w + 0.2, min(b.draw(1.4, 1.7), height - h / 2 - 0.15)):
                _window(b, w, h)
        elif kind < 0.9:
            w = b.draw(0.9, 1.6)
            if plan.hang(w, b.draw(1.1, 1.6)):
                _tv(b, w, w * 9 / 16)
    for _ in range(b.random.randint(0, 4)):
        size = b.draw(0.25, 0.6)
        if plan.standing(size * 0.4, _any_turn(b)):
            kind = b.random.randint(6)
            _object(b, (0, 0, 0), size if kind < 4 else size + b.draw(0.3, 0.9), kind)


def _table_group(b: _Builder, plan: _Plan) -> None:
    low = b.chance(0.35)
    w, d = b.draw(0.8, 1.5), b.draw(0.6, 0.9)
    chairs = 0 if low else b.random.randint(0, 4)
    turn = _STRAIGHT[b.random.randint(4)] if b.chance(0.6) else _any_turn(b)
    if not plan.standing(0.5 * math.hypot(w, d) + (0.2 if chairs else 0.0), turn):
        return
    x, y, _ = b.origin
    _dress(b, _table(b, w, d, b.draw(0.35, 0.48) if low else b.draw(0.7, 0.78)))
    for side in b.random.permutation(4)[:chairs]:
        c, s = _STRAIGHT[side]
        away = (d if side % 2 == 0 else w) / 2 + 0.1
        # beside the table, its back away from it
        dx, dy = -s * away, c * away
        b.at(x + turn[0] * dx - turn[1] * dy, y + turn[1] * dx + turn[0] * dy, 0.0, _multiply(turn, (c, s)))
        _chair(b, b.draw(0.4, 0.48), b.draw(0.4, 0.46))


def _multiply(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


# ---- rays ------------------------------------------------------------------------------------------------------------


def _mix(weights: Sequence[float] | np.ndarray, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of weights times vectors. Not ``@``, whose order of summation depends on the processor."""
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
    """Where rays enter and leave the unit ball (three coordinates) or the endless unit cylinder (two)."""
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


def _window_of(part: _Part, camera: _Camera, height: int, width: int) -> tuple[slice, slice] | None:
    """Rows and columns that can see ``part``; ``None`` if none can."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * part.half
    points = [
        part.centre + part.turn[:, 0] * c[0] + part.turn[:, 1] * c[1] + part.turn[:, 2] * c[2] - camera.eye
        for c in corners
    ]
    seen = [tuple(float((axis * p).sum()) for axis in (camera.right, camera.up, camera.forward)) for p in points]
    if all(z < 0.05 for _, _, z in seen):
        return None
    if any(z < 0.05 for _, _, z in seen):
        return slice(0, height), slice(0, width)
    tall = camera.spread * height / width
    columns = [(1 + x / z / camera.spread) * width / 2 for x, _, z in seen]
    rows = [(1 - y / z / tall) * height / 2 for _, y, z in seen]
    top, bottom = max(math.floor(min(rows)) - 1, 0), min(math.ceil(max(rows)) + 1, height)
    left, right = max(math.floor(min(columns)) - 1, 0), min(math.ceil(max(columns)) + 1, width)
    return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def _cast(parts: list[_Part], camera: _Camera, rays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Depth and index of the nearest part, (H, W) each."""
    height, width = rays[0].shape
    depth = np.full((height, width), np.inf, np.float32)
    owner = np.full((height, width), -1, np.int16)
    for index, part in enumerate(parts):
        window = _window_of(part, camera, height, width)
        if window is None:
            continue
        inverse, offset = part.inverse, camera.eye - part.centre
        local = [float((row * offset).sum()) for row in inverse]
        enter, leave = _interval(part.shape, local, [_mix(row, [r[window] for r in rays]) for row in inverse])
        nearer = (leave > enter) & (enter > 0.05) & (enter < depth[window])
        depth[window][nearer] = enter[nearer]
        owner[window][nearer] = index
    return depth, owner


def _blocked(parts: list[_Part], start: list[np.ndarray], way: list[np.ndarray]) -> np.ndarray:
    """Whether a part lies between ``start`` and ``start + way``."""
    found = np.zeros(start[0].shape, bool)
    square = way[0] * way[0] + way[1] * way[1] + way[2] * way[2] + np.float32(1e-9)
    for part in parts:
        to = [float(c) - s for c, s in zip(part.centre, start, strict=True)]
        along = (to[0] * way[0] + to[1] * way[1] + to[2] * way[2]) / square
        along = np.minimum(np.maximum(along, 0.0), 1.0)
        off = [t - along * w for t, w in zip(to, way, strict=True)]
        near = (off[0] * off[0] + off[1] * off[1] + off[2] * off[2] < part.radius**2) & ~found
        rows = np.flatnonzero(near)
        if len(rows) == 0:
            continue
        to, directions = [-t[rows] for t in to], [w[rows] for w in way]
        enter, leave = _interval(
            part.shape, [_mix(row, to) for row in part.inverse], [_mix(row, directions) for row in part.inverse]
        )
        found[rows] = (leave > np.maximum(enter, 0.0)) & (enter < 1.0)
    return found


# ---- surfaces --------------------------------------------------------------------------------------------------------


def _surface(part: _Part, point: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Unit normals in the room, and coordinates on the surface in metres, of points on ``part``."""
    local = [_mix(row, [p - float(c) for p, c in zip(point, part.centre, strict=True)]) for row in part.inverse]
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
    normal = [_mix(row, normal) for row in part.turn]
    length = np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]) + np.float32(1e-12)
    return [n / length for n in normal], u, v


def _texture(material: _Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(N,) share of the second colour."""
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


def _shade(
    b: _Builder,
    size: tuple[float, float, float],
    occluders: list[_Part],
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
        lit = _soften((~_blocked(occluders, start, way)).astype(np.float32).reshape(shape)).ravel()
        light = [total + colour * strength * lit for total, colour in zip(light, tint, strict=True)]
    aside = [uniform(-1, 1) for _ in range(3)]
    side = np.sign(normal[0] * aside[0] + normal[1] * aside[1] + normal[2] * aside[2])
    outward: list[np.ndarray] = [0.8 * (0.7 * n + 0.5 * side * a) for n, a in zip(normal, aside, strict=True)]
    sky = 1 - np.float32(0.6) * _soften(_blocked(occluders, start, outward).astype(np.float32).reshape(shape)).ravel()
    for axis in range(3):
        for distance in (point[axis], np.float32(size[axis]) - point[axis]):
            dark = np.maximum(1 - np.maximum(distance, 0.0) / np.float32(0.6), 0.0) * (1 - np.abs(normal[axis]))
            sky = sky * (1 - np.float32(0.4) * dark)
    ambient = b.draw(0.15, 0.4)
    colours = np.stack([a * (total + ambient * sky) for a, total in zip(albedo, light, strict=True)], axis=1)
    middle = float(np.median(colours[:, 1])) + 1e-3
    colours = colours * np.float32(b.draw(0.28, 0.6) / middle)
    colours = np.sqrt(colours / (1 + colours) * np.float32(1.15))
    # three uniform numbers add up to almost a normal one, and exactly the same everywhere
    noise = (b.random.random_sample((3, pixels, 3)).sum(0) - 1.5) * 2
    colours = colours + (b.draw(0.004, 0.02) * noise).astype(np.float32)
    return np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8).reshape(*shape, 3)


def _steps(values: np.ndarray, limit: float) -> np.ndarray:
    """Pixels that differ from a neighbour by more than ``limit``."""
    found = np.zeros(values.shape, bool)
    down, right = np.abs(values[1:] - values[:-1]) > limit, np.abs(values[:, 1:] - values[:, :-1]) > limit
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def render_room(seed: int, split: str, index: int, height: int, width: int, holes: bool = True) -> Room:
    """Room number ``index`` of ``split``; the same bits whatever was rendered before, and wherever.

    Args:
        seed: Of the whole set.
        split: ``train``, ``val`` or ``test``.
        index: Number of the room in its split.
        height: Pixels.
        width: Pixels.
        holes: Leave out what a depth camera cannot see (edges of objects, grazing surfaces), and labels at some borders.
    """
    b = _Builder(np.random.RandomState([seed, SPLITS.index(split), index]))
    size = (b.draw(3.2, 6.0), b.draw(3.5, 7.0), b.draw(2.3, 3.1))
    camera = _camera(b, size[0], size[1])
    _shell(b, *size)
    _furnish(b, _Plan(b, size[0], size[1], camera.eye), size[2])

    across = ((np.arange(width) + 0.5) * (2 / width) - 1) * camera.spread
    down = (1 - (np.arange(height) + 0.5) * (2 / height)) * (camera.spread * height / width)
    x, y = across.astype(np.float32)[None, :], down.astype(np.float32)[:, None]
    rays = [
        float(f) + float(r) * x + float(u) * y for f, r, u in zip(camera.forward, camera.right, camera.up, strict=True)
    ]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        depth, owner = _cast(b.parts, camera, rays)
        flat = owner.ravel()
        point = [float(e) + depth.ravel() * ray.ravel() for e, ray in zip(camera.eye, rays, strict=True)]
        normal, albedo = ([np.zeros(flat.shape, np.float32) for _ in range(3)] for _ in range(2))
        for number in np.unique(flat):
            part, seen = b.parts[number], np.flatnonzero(flat == number)
            found, u, v = _surface(part, [p[seen] for p in point])
            share = _texture(part.material, u, v)
            first, second = part.material.colours
            for k in range(3):
                normal[k][seen] = found[k]
                albedo[k][seen] = first[k] + (second[k] - first[k]) * share
        occluders = [part for part in b.parts if CLASSES[part.label] not in _SHELL]
        image = _shade(b, size, occluders, point, normal, albedo, (height, width))

    label = np.array([part.label for part in b.parts], np.int8)[owner]
    axes = (camera.right, camera.up, -camera.forward)
    towards = np.stack([_mix(axis, normal) for axis in axes], axis=-1).reshape(height, width, 3)
    if holes:
        length = np.sqrt(rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2])
        facing = np.abs(sum(n.reshape(height, width) * r for n, r in zip(normal, rays, strict=True))) / length
        draw = b.random.random_sample((2, height, width))
        lost = (_steps(depth, 0.2) & (draw[0] < 0.3)) | ((facing < 0.12) & (draw[0] < 0.6))
        depth, towards = np.where(lost, np.float32(0), depth), np.where(lost[..., None], np.float32(0), towards)
        label = np.where(_steps(label, 0.5) & (draw[1] < 0.15), np.int8(-1), label)
    return Room(image, label, depth[..., None], towards)


# ---- files -----------------------------------------------------------------------------------------------------------


def save_array(path: Path, array: np.ndarray) -> None:
    """Write ``path`` so that it is complete whenever it exists."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _main() -> None:
    """Render the rooms that standard input lists, and print the number of each one when it is on the disk."""
    order = json.load(sys.stdin)
    folder, options = Path(order["folder"]), order["options"]
    for split, index in order["rooms"]:
        room = render_room(split=split, index=index, **options)
        arrays = (
            room.image.astype(np.float32) / np.float32(255),
            room.label.astype(np.float32),
            room.depth,
            room.normal,
        )
        for kind, array in zip(KINDS, arrays, strict=True):
            save_array(folder / split / kind / f"{index}.npy", array)
        print(index, flush=True)


if __name__ == "__main__":
    _main()
