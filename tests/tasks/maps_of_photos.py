"""Photos of sky, grass and a red disk, in two sizes, with a ground, a height and a border each, as strangers would store them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[90, 140, 220], [70, 160, 60], [200, 60, 50]], np.uint8)
MAPS = {
    "ground": {"kind": "classes", "classes": ["sky", "grass", "disk"]},
    "height": {"kind": "depth", "scale": 0.001},
    "border": {"kind": "binary"},
}


def arrays(i: int) -> dict[str, np.ndarray]:
    """Image, ids with 255 for unknown, millimeters with 0 for unknown, and 0 or 255."""
    random, (h, w) = np.random.RandomState(i), (40, 56) if i % 3 else (48, 48)
    rows, columns = np.mgrid[:h, :w]
    horizon, radius = random.randint(h // 4, 3 * h // 4), random.randint(4, 9)
    disk = (rows - random.randint(8, h - 8)) ** 2 + (columns - random.randint(8, w - 8)) ** 2 < radius**2
    ground = np.where(rows < horizon, 0, 1).astype(np.uint8)
    ground[disk] = 2
    height = np.where(rows < horizon, 20000, 2000 + 100 * (h - rows)).astype(np.uint16)
    height[disk], height[:2] = 1500, 0
    image = (COLORS[ground] + random.randint(-20, 20, (h, w, 1))).clip(0, 255).astype(np.uint8)
    ground[-3:] = 255
    border = np.zeros((h, w), np.uint8)
    border[horizon] = 255
    return {"images": image, "ground": ground, "height": height, "border": border}


def write_photos(root: Path, count: int = 12) -> Path:
    """Folders of images and maps, of which every other ground has a palette; photo 5 lacks a border."""
    for i in range(count):
        for name, array in arrays(i).items():
            (root / name).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(array)
            if name == "ground" and i % 2:
                picture = Image.frombytes("P", picture.size, array.tobytes())
                picture.putpalette([*COLORS.flatten().tolist(), *[0] * 759])
            if name != "border" or i != 5:
                picture.save(root / name / f"p{i:02}.{'jpg' if name == 'images' else 'png'}", quality=95)
    return root


LABELS = {"sky": "classes", "radius": "number", "seen": {"kind": "tags", "separator": "|"}}


def write_table(root: Path, count: int = 12) -> Path:
    """Photos with a table of paths, whose last columns say something of the whole photo; photo 7 lacks these labels."""
    write_photos(root, count)
    rows = []
    for i in range(count):
        found = arrays(i)
        share = float((found["ground"] == 0).mean())
        labels = (
            ["", "?", "-"]
            if i == 7
            else ["much" if i % 2 else "little", f"{share:.3f}", "sky|grass" if i % 3 else "sky"]
        )
        files = [f"{name}/p{i:02}.{'jpg' if name == 'images' else 'png'}" for name in found]
        part = "train" if i < count - 4 else "val" if i < count - 2 else "test"
        rows.append([*("" if i == 5 and "border" in file else file for file in files), *labels, part])
    with (root / "paths.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", *list(arrays(0))[1:], *LABELS, "split"], *rows])
    return root / "paths.csv"
