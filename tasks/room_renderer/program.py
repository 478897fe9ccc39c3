"""A program that renders rooms into a folder.

It starts at once, as it imports neither torch nor the rest of ``tasks``: this package is imported by itself then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .render import render_room

KINDS = ("image", "label", "depth", "normal")  # one folder and one file per room each
# -P, and the end of the path: modules that lie around, here or where it is started, must not hide those of Python
COMMAND = (
    *(sys.executable, "-P", "-c"),
    f"import sys; sys.path.append({str(Path(__file__).parents[1])!r}); from room_renderer.program import main; main()",
)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which becomes ``path`` once it is complete and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    """Render the rooms that standard input lists, and print the number of each written one."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that no half-written file stays
    order = json.load(sys.stdin)
    folder, options = Path(order["folder"]), order["options"]
    for split, index in order["rooms"]:
        room = render_room(split=split, index=index, **options)
        image, label = room.image.astype(np.float32) / np.float32(255), room.label.astype(np.float32)
        for kind, array in zip(KINDS, (image, label, room.depth, room.normal), strict=True):
            with replacing(folder / split / kind / f"{index}.npy") as file:
                np.save(file, array)
        print(index, flush=True)
