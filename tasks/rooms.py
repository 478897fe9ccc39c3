"""Rooms: segmentation, depth and normals of rendered pictures.

Furnished rooms, ray-cast from a seed (see tasks/room_renderer): pictures with the 13 classes of NYUv2, depth in meters and
surface normals, for work on dense prediction without a download. They are rendered once, by all processors, into
``<data_dir>/rooms-v<recipe>-<height>x<width>-seed<seed>`` in the layout of MTAN's NYUv2 files, which other public code reads
as well. An interrupted rendering goes on where it stopped, and a larger set keeps the rooms of a smaller one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.dense_task import DenseData, DenseTask
from tasks.file_checks import check_regular
from tasks.map_files import npy_folder
from tasks.map_kinds import MapKind
from tasks.registry import register_task
from tasks.room_renderer import CLASSES, COMMAND, KINDS, SPLITS, VERSION, replacing
from tasks.task import DataError, Splits

_MANIFEST = "rooms.json"
_LONGEST = 1 << 16  # bytes of it


@register_task("rooms")
class Rooms(DenseTask):
    """Segmentation (13 classes), depth and normals of rooms that are rendered on first use.

    Args:
        height: Pixels.
        width: Pixels.
        train: Number of rooms to train on.
        val: Number of rooms to select on.
        test: Number of rooms to test on.
        seed: Of the rooms.
        holes: Leave out depth and labels where a camera would have none, at edges and on grazing surfaces.
        protocol: ``pooled``: sums over all pixels. ``mtan``: averages over batches and augmentation as in public code.
        augment: Mirror training pictures.
        zoom: Also zoom in on them, as on those of NYUv2; there are rooms enough to do without.
        jitter: Largest relative change of brightness and contrast in training.
        rarity: A class counts in the loss as its frequency to the power of minus this; 0: every pixel counts the same.
    """

    data_source = "rooms that mozoo renders (MIT)"

    def __init__(
        self,
        height: int = 96,
        width: int = 128,
        train: int = 3700,
        val: int = 100,
        test: int = 200,
        seed: int = 0,
        holes: bool = True,
        protocol: Literal["pooled", "mtan"] = "pooled",
        augment: bool = True,
        zoom: bool = False,
        jitter: float = 0.0,
        rarity: float = 0.5,
    ) -> None:
        maps = {"segmentation": MapKind("classes", CLASSES), "depth": MapKind("depth"), "normals": MapKind("normals")}
        super().__init__(protocol, augment, jitter, maps, rarity, zoom)
        if min(height, width) < 8:
            raise ValueError(f"rooms: height and width must be at least 8, got {height} and {width}")
        if min(train, val, test) < 1:
            raise ValueError(f"rooms: train, val and test must be at least 1, got {train}, {val} and {test}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"rooms: seed must be in [0, 2^32), got {seed}")
        self.options = {"seed": seed, "height": height, "width": width, "holes": holes}
        self.counts = dict(zip(SPLITS, (train, val, test), strict=True))

    def load(self, data_dir: Path) -> Splits:
        """Render what is not in ``data_dir`` yet."""
        options = self.options
        key = f"v{VERSION}-{options['height']}x{options['width']}-seed{options['seed']}"
        root = data_dir / f"rooms-{key}{'' if options['holes'] else '-whole'}"
        rendered, whole = render_rooms(root, self.counts, options), sum(self.counts.values())
        maps = dict(zip(("image", "segmentation", "depth", "normals"), KINDS, strict=True))

        def part(split: str) -> DenseData:
            remedy, count = "delete it, and it is rendered again", self.counts[split]
            folder = npy_folder(root / split, maps, self.maps, remedy, count)
            return DenseData(folder, range(count), self.transform if split == "train" else None)

        splits = self.make_splits(*map(part, SPLITS))
        if not 0 < len(rendered) < whole:
            return splits
        first = ", ".join(f"{split} {index}" for split, index in rendered[:3])
        note = f"{root} lacked {len(rendered):,} of {whole:,} rooms, which were rendered again (first {first})"
        return replace(splits, notes=(*splits.notes, note))


def render_rooms(
    root: Path, counts: dict[str, int], options: dict[str, Any], processes: int | None = None
) -> list[tuple[str, int]]:
    """Make sure that ``root`` has the first rooms of each split; returns those that it lacked.

    Args:
        root: Folder of the set.
        counts: Split -> number of rooms.
        options: Arguments of :func:`tasks.room_renderer.render_room` that are the same for all rooms.
        processes: How many render at once; default one per processor.

    Raises:
        DataError: The folder holds other rooms, or cannot be written.
    """
    recipe = {"recipe": VERSION, **options}
    with contextlib.suppress(OSError):  # folders that are missing or unreadable; the next lines raise
        if _read_manifest(root / _MANIFEST) == recipe and not _missing(root, counts):
            return []  # nothing to write, so the folder may be one that cannot be
    try:
        for split in counts:
            for kind in KINDS:
                (root / split / kind).mkdir(parents=True, exist_ok=True)
        with _alone(root / ".lock"):
            _check_manifest(root / _MANIFEST, recipe)
            missing = _missing(root, counts)
            if missing:
                own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
                _render(root, missing, options, processes or own or 1)
            return missing
    except OSError as error:
        raise DataError(f"rooms: cannot write to {root} ({error}); set data_dir to a folder with space") from None


def _missing(root: Path, counts: dict[str, int]) -> list[tuple[str, int]]:
    """Rooms that lack one of their files."""
    files = {(split, kind): set(os.listdir(root / split / kind)) for split in counts for kind in KINDS}
    return [
        (split, index)
        for split, count in counts.items()
        for index in range(count)
        if any(f"{index}.npy" not in files[split, kind] for kind in KINDS)
    ]


def _read_manifest(manifest: Path) -> Any:
    """Content of a manifest; ``None`` if it is no JSON. Raises OSError."""
    check_regular(manifest)
    with manifest.open("rb") as file:
        content = file.read(_LONGEST + 1)
    try:
        return json.loads(content) if len(content) <= _LONGEST else None
    except (ValueError, RecursionError):
        return None


def _check_manifest(path: Path, recipe: dict[str, Any]) -> None:
    """Write the manifest, or raise DataError if it is that of other rooms, or was lost."""
    if not path.is_file() and (path.is_symlink() or path.exists() or any(path.parent.glob("*/*/*.npy"))):
        raise DataError(f"{path.parent} has rooms, and {path.name} does not say which; move the folder away")
    if not path.is_file():
        with replacing(path) as file:
            file.write((json.dumps(recipe, indent=1) + "\n").encode())
    content = _read_manifest(path)
    if content != recipe:
        raise DataError(
            f"{path} says that this folder holds other rooms ({content}, not {recipe}); move the folder away"
        )


def _render(root: Path, rooms: list[tuple[str, int]], options: dict[str, Any], processes: int) -> None:
    """Render in separate programs, which start fast, without torch; not in forks or pools."""
    processes, console = min(processes, len(rooms)), Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reading, writing = os.pipe()
    workers: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryFile("w+") as complaints, os.fdopen(reading) as done:
        try:
            for k in range(processes):
                worker = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=writing, stderr=complaints, text=True)
                workers.append(worker)  # before it has anything to do, so that an interrupt leaves no process behind
                _order(worker, {"folder": str(root), "options": options, "rooms": rooms[k::processes]})
            os.close(writing)  # so that reading ends with the last worker
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
                bar = progress.add_task("rendering rooms", total=len(rooms))
                for _ in done:
                    progress.advance(bar)
            codes = [worker.wait() for worker in workers]
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
        if any(codes):
            complaints.seek(0)
            last = (complaints.read().strip().splitlines() or ["no message"])[-1]
            raise DataError(f"rooms: rendering into {root} failed ({last}); what is done is kept")


def _order(worker: subprocess.Popen[str], order: dict[str, Any]) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError), worker.stdin as stream:  # the worker's own message is better
        json.dump(order, stream)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time, where the system can lock files."""
    try:
        import fcntl
    except ImportError:
        yield  # two processes would do the same work twice, with the same result
        return
    if path.exists():
        check_regular(path)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
