"""Parts of a scene, and what collects them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CLASSES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv"),
    *("wall", "window"),
)
_ID = {name: index for index, name in enumerate(CLASSES)}
_TEXTURES = (("flat", 0.32), ("checks", 0.12), ("stripes", 0.16), ("noise", 0.20), ("dots", 0.08), ("bricks", 0.12))


@dataclass(frozen=True)
class Material:
    """What a part looks like; coordinates on its surface are in meters."""

    texture: str
    colors: np.ndarray  # (2, 3)
    scale: float  # meters
    direction: tuple[float, float]
    lattice: np.ndarray  # (16, 16)


@dataclass(frozen=True)
class Part:
    """A unit ``box``, ``sphere`` or ``cylinder``, stretched, turned and moved."""

    shape: str
    label: int
    center: np.ndarray  # (3,)
    half: np.ndarray  # (3,) half of the extents
    turn: np.ndarray  # (3, 3) columns: the part's axes in the room
    material: Material

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


class Builder:
    """Parts of a scene; furniture at the origin with its front to -y, placed by :meth:`at`."""

    def __init__(self, random: np.random.RandomState) -> None:
        self.random = random
        self.parts: list[Part] = []
        self.palette = [self._fresh() for _ in range(7)]
        self.at(0.0, 0.0)

    def at(self, x: float, y: float, z: float = 0.0, turn: tuple[float, float] = (1.0, 0.0)) -> None:
        """Where the coming parts stand, and the cosine and sine of how they are turned."""
        self.origin, self.cosine, self.sine = (x, y, z), *turn

    def draw(self, low: float, high: float) -> float:
        """A number between ``low`` and ``high``."""
        return low + (high - low) * float(self.random.random_sample())

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.random.random_sample() < probability)

    def material(self) -> Material:
        """From the scene's palette, or a fresh one: the same distribution whatever it is for."""
        return self.palette[self.random.randint(7)] if self.chance(0.55) else self._fresh()

    def _fresh(self) -> Material:
        draw, texture = float(self.random.random_sample()), _TEXTURES[-1][0]
        for name, share in _TEXTURES:
            if draw < share:
                texture = name
                break
            draw -= share
        angle = self.draw(0, math.pi)
        return Material(
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
        center: tuple[float, float, float],
        size: tuple[float, float, float],
        material: Material | None = None,
    ) -> None:
        """A part of extents ``size`` around ``center``, both in the frame of :meth:`at`."""
        c, s, (x, y, z) = self.cosine, self.sine, center
        moved = (c * x - s * y + self.origin[0], s * x + c * y + self.origin[1], z + self.origin[2])
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        half = np.array(size) / 2
        self.parts.append(Part(shape, _ID[label], np.array(moved), half, turn, material or self.material()))
