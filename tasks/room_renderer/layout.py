"""What a room has, where it stands, and where it is seen from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import furniture
from .scene import Builder

_STRAIGHT = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))  # cosine and sine of quarter turns


@dataclass(frozen=True)
class Camera:
    """Where it is, and its axes in the room."""

    eye: np.ndarray
    right: np.ndarray
    up: np.ndarray
    forward: np.ndarray
    spread: float  # tangent of half the horizontal field of view


def place_camera(b: Builder, width: float, depth: float) -> Camera:
    """Near the front wall, at the height of eyes, looking into the far half."""
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
    return Camera(eye, right, up, forward, math.tan(math.radians(b.draw(58, 74)) / 2))


def shell(b: Builder, width: float, depth: float, height: float) -> None:
    """Floor, ceiling and walls."""
    wall = b.material()
    b.add("box", "floor", (width / 2, depth / 2, -0.1), (width + 0.4, depth + 0.4, 0.2))
    b.add("box", "ceiling", (width / 2, depth / 2, height + 0.1), (width + 0.4, depth + 0.4, 0.2))
    for x in (-0.1, width + 0.1):
        b.add("box", "wall", (x, depth / 2, height / 2), (0.2, depth + 0.4, height + 0.2), wall)
    for y, accent in ((-0.1, wall), (depth + 0.1, None if b.chance(0.4) else wall)):
        b.add("box", "wall", (width / 2, y, height / 2), (width + 0.4, 0.2, height + 0.2), accent)


class Plan:
    """Occupied space: circles on the floor that must not meet, and intervals of each wall."""

    def __init__(self, b: Builder, width: float, depth: float, eye: np.ndarray) -> None:
        self.b, self.width, self.depth = b, width, depth
        self.circles = [(float(eye[0]), float(eye[1]), 0.75)]
        self.hung: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}
        self.tall: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}

    def free(self, x: float, y: float, radius: float) -> bool:
        """Whether a circle meets none that is taken."""
        return all(math.hypot(x - a, y - c) > radius + other for a, c, other in self.circles)

    def on_wall(self, wall: int, along: float, gap: float) -> tuple[float, float, float, tuple[float, float]]:
        """(x, y, 0, turn) at ``gap`` from the back (0), left (1) or right (2) wall, facing in."""
        if wall == 0:
            return along, self.depth - gap, 0.0, _STRAIGHT[0]
        return (gap, along, 0.0, _STRAIGHT[1]) if wall == 1 else (self.width - gap, along, 0.0, _STRAIGHT[3])

    def span(self, wall: int) -> float:
        """Length of a wall."""
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


def _any_turn(b: Builder) -> tuple[float, float]:
    angle = b.draw(-math.pi, math.pi)
    return math.cos(angle), math.sin(angle)


def furnish(b: Builder, plan: Plan, height: float) -> None:
    """Big pieces first, along the walls; then what stands free, hangs, or lies around."""
    pieces: list[Callable[[], None]] = []

    def piece(w: float, d: float, h: float, build: Callable[..., object], *sizes: float) -> None:
        def place() -> None:
            if plan.against_wall(w, d, h):
                top = build(b, w, d, *sizes)
                if isinstance(top, tuple):
                    furniture.dress(b, top)

        pieces.append(place)

    if b.chance(0.58):
        piece(b.draw(0.9, 1.8), b.draw(1.9, 2.1), 0.8, furniture.bed)
    if b.chance(0.58):
        piece(b.draw(1.4, 2.2), b.draw(0.8, 0.95), 0.8, furniture.sofa)
    for _ in range(b.random.randint(0, 3)):
        h = b.draw(0.6, 2.0)
        piece(b.draw(0.6, 1.5), b.draw(0.35, 0.6), h, furniture.cabinet, h)
    if b.chance(0.5):
        h = b.draw(0.9, 2.1)
        piece(b.draw(0.6, 1.1), b.draw(0.25, 0.35), h, furniture.shelf, h)
    for k in b.random.permutation(len(pieces)):
        pieces[k]()
    for _ in range(b.random.randint(0, 3)):
        _table_group(b, plan)
    for _ in range(b.random.randint(0, 3)):
        if plan.standing(0.36, _any_turn(b)):
            furniture.chair(b, b.draw(0.42, 0.52), b.draw(0.42, 0.5))
    for _ in range(b.random.randint(1, 5)):
        kind = float(b.random.random_sample())
        if kind < 0.35:
            w, h = b.draw(0.4, 1.0), b.draw(0.4, 0.9)
            if plan.hang(w, b.draw(1.35, 1.75)):
                furniture.picture(b, w, h)
        elif kind < 0.65:
            w, h = b.draw(0.8, 1.6), b.draw(0.8, 1.3)
            if plan.hang(w + 0.2, min(b.draw(1.4, 1.7), height - h / 2 - 0.15)):
                furniture.window(b, w, h)
        elif kind < 0.9:
            w = b.draw(0.9, 1.6)
            if plan.hang(w, b.draw(1.1, 1.6)):
                furniture.tv(b, w, w * 9 / 16)
    for _ in range(b.random.randint(0, 4)):
        size = b.draw(0.25, 0.6)
        if plan.standing(size * 0.4, _any_turn(b)):
            kind = b.random.randint(6)
            furniture.small_object(b, (0, 0, 0), size if kind < 4 else size + b.draw(0.3, 0.9), kind)


def _table_group(b: Builder, plan: Plan) -> None:
    low = b.chance(0.35)
    w, d = b.draw(0.8, 1.5), b.draw(0.6, 0.9)
    chairs = 0 if low else b.random.randint(0, 4)
    turn = _STRAIGHT[b.random.randint(4)] if b.chance(0.6) else _any_turn(b)
    if not plan.standing(0.5 * math.hypot(w, d) + (0.2 if chairs else 0.0), turn):
        return
    x, y, _ = b.origin
    furniture.dress(b, furniture.table(b, w, d, b.draw(0.35, 0.48) if low else b.draw(0.7, 0.78)))
    for side in b.random.permutation(4)[:chairs]:
        c, s = _STRAIGHT[side]
        away = (d if side % 2 == 0 else w) / 2 + 0.1
        # beside the table, its back away from it
        dx, dy = -s * away, c * away
        b.at(x + turn[0] * dx - turn[1] * dy, y + turn[1] * dx + turn[0] * dy, 0.0, _multiply(turn, (c, s)))
        furniture.chair(b, b.draw(0.4, 0.48), b.draw(0.4, 0.46))


def _multiply(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
