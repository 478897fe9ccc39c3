"""Checks of every file of a set before a run begins, by all processors, and remembered.

A file that fails in the middle of a run costs the hours before it. So all files are read whole once; of a set of many files the
results are kept in ``<data_dir>/.checked``, and files whose size and times are those of then are not read again.

What is no regular file is never opened: a pipe would wait for its writer. Two limits bound what a file may unpack to, and a variable
of the environment raises each: ``MOZOO_MAX_PIXELS`` of a picture, ``MOZOO_MAX_TABLE_GIB`` of a compressed table.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

MAX_PIXELS = 100_000_000
MAX_TABLE_GIB = 1.0
MANY = 500  # samples from which on results are kept, and progress is shown


def is_hidden(path: Path, root: Path | None = None) -> bool:
    """Whether a file is none of the data, such as ``.DS_Store`` and ``._0.npy`` of macOS.

    With ``root``, also a file in a hidden folder below it.
    """
    return any(part.startswith(".") for part in ((path.name,) if root is None else path.relative_to(root).parts))


def check_regular(path: str | Path) -> None:
    """Raise OSError for what is there and no regular file, also behind links."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise OSError("it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError("it is a pipe or a device; write it to a file first")


def limit(name: str, default: float) -> float:
    """A limit: the variable ``name`` of the environment, or the default. Raises ValueError."""
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f"the environment has {name}={text!r}, which must be a number greater than 0")
    return value


def check_all(
    samples: Sequence[Sequence[Path]],
    check: Callable[[int], Any],
    memory: Path | None,
    recipe: str,
    what: str = "files",
) -> list[Any]:
    """Result of ``check`` for the number of every sample, which is remembered in ``memory``.

    Args:
        samples: The files of each sample.
        check: Reads a sample, raises DataError if one of its files cannot be used, and returns what JSON can hold.
        memory: Folder of the memory; ``None`` for none.
        recipe: Everything else that results depend on.
        what: Is checked, in the line that shows progress.
    """
    keys = [_key(files, recipe) for files in samples] if memory and len(samples) >= MANY else []
    file = (
        memory or Path()
    ) / f"{hashlib.sha256(repr([str(samples[0][0].parent), recipe]).encode()).hexdigest()[:16]}.json"
    known = _remembered(file) if keys else {}
    results = [known.get(key) for key in keys] or [None] * len(samples)
    missing = [index for index, result in enumerate(results) if result is None]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = len(missing) < MANY or not console.is_terminal
    with (
        Progress(*columns, console=console, transient=True, disable=quiet) as progress,
        ThreadPoolExecutor(min(_processors(), 16)) as pool,
    ):
        bar = progress.add_task(f"checking {what}, once", total=len(missing))
        try:
            for index, result in zip(missing, pool.map(check, missing), strict=True):
                results[index] = result
                progress.advance(bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if keys and missing:
        _remember(file, dict(zip(keys, results, strict=True)))
    return results


def file_identity(path: str | Path) -> object:
    """What two spellings, links or names of one file have in common."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return str(path)
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def _key(files: Sequence[Path], recipe: str) -> str:
    """Changes with any file; times of the system too, as some programs set those of the content."""
    stats = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path in files]
    return hashlib.sha256(repr((recipe, stats)).encode()).hexdigest()


def _remembered(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        check_regular(file)
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _remember(file: Path, results: dict[str, Any]) -> None:
    """Atomically; where nothing can be written, files are read again next time."""
    temporary = file.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(results), encoding="utf-8")
        os.replace(temporary, file)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
