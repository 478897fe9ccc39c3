"""Where a user's images and maps are: in folders, or in a table of paths.

photos/images/a.jpg, photos/ground/a.png, photos/height/a.tif             the split is drawn
photos/train/images/a.jpg, photos/train/ground/a.png, photos/val/...      or photos/images/train/a.jpg, ...
image,ground,height,split                                                 a table; an empty cell is a map that is missing
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tasks.file_checks import file_identity, is_hidden
from tasks.map_formats import ARRAYS, IMAGES, MapFormat
from tasks.table_files import TextTable, is_missing, read_table
from tasks.table_splits import PARTS, Shares, split_rows
from tasks.task import DataError

_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_FOLDERS |= {"test": "test", "testing": "test"}
_BESIDE = {".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".html", ".yaml", ".yml", ".db", ".ini", ".log", ".mat"}
_BESIDE |= {".pdf"}


@dataclass(frozen=True)
class MapRows:
    """Files of all samples, and which of them are for what.

    Args:
        rows: Name -> file; ``image``, and the maps that the sample has.
        parts: train, val and test -> numbers of rows.
        table: The names of the files, where they are, the labels, and the part of each row.
        source: The table of paths, or one of the names of images.
    """

    rows: Sequence[Mapping[str, Path]]
    parts: Mapping[str, np.ndarray]
    table: TextTable
    source: TextTable

    @classmethod
    def of(
        cls,
        source: TextTable,
        root: Path,
        rows: Sequence[Mapping[str, Path]],
        parts: Mapping[str, np.ndarray],
        labels: Sequence[str] = (),
    ) -> MapRows:
        """With the table of the files in ``root``, whose lines are those of ``source``.

        ``labels`` are columns of that, which are as much a part of the data.
        """
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns: dict[str, list[str]] = {
            name: [os.path.relpath(row[name], root).replace(os.sep, "/") if name in row else "" for row in rows]
            for name in names
        }
        part_of = {int(row): part for part, chosen in parts.items() for row in chosen}
        columns["split"] = [part_of[row] for row in range(len(rows))]
        columns |= {name: source.cells(source.column(name)) for name in labels}
        table = replace(TextTable.of_columns("maps", source.source, columns, "image"), lines=source.lines)
        return cls(rows, parts, table, source)


def rows_of_folders(root: Path, images: str, formats: Mapping[str, MapFormat], shares: Shares, seed: int) -> MapRows:
    """Samples in folders of ``root``. Raises DataError for a file that belongs to nothing."""
    if root.is_file():
        raise DataError(f"maps: {root} is a file; if it is a table of paths, give task.csv instead of task.root")
    if not root.is_dir():
        raise DataError(
            f"maps: there is no folder {root}; task.root names the one with the folders {images} and {', '.join(formats)}"
        )
    halves = {name: part for name, part in _FOLDERS.items() if (root / name / images).is_dir()}
    if halves and (root / images).is_dir() and any(not is_hidden(path) for path in (root / images).iterdir()):
        raise DataError(f"maps: {root} has both {images} and {min(halves)}/{images}; keep one of them")
    rows: dict[str, dict[str, Path]] = {}
    for prefix in halves or {"": ""}:
        rows |= {f"{prefix}/{key}".strip("/"): row for key, row in _paired(root / prefix, images, formats).items()}
    keys = list(rows)
    seen: dict[object, Path] = {}
    for row in rows.values():
        first = seen.setdefault(file_identity(row["image"]), row["image"])
        if first != row["image"]:
            raise DataError(f"maps: {first} and {row['image']} are links to one file; keep one of them")
    heads = {key: _FOLDERS.get(key.partition("/")[0].lower()) if "/" in key else None for key in keys}
    named = set(heads.values())
    table = TextTable.of_columns("maps", str(root), {"image": keys})
    if None in named:
        return MapRows.of(table, root, list(rows.values()), split_rows(table, keys, shares=shares, seed=seed))
    if "train" not in named or "test" not in named:
        absent = ", ".join(sorted({"train", "test"} - named))
        raise DataError(
            f"maps: {root} has folders for {', '.join(sorted(map(str, named)))} and none for {absent}; make one, or put all images "
            "into one folder to have the split drawn"
        )
    parts = {part: np.array([i for i, key in enumerate(keys) if heads[key] == part], np.int64) for part in PARTS}
    if "val" not in named:
        inside = [keys[i] for i in parts["train"]]
        trained = TextTable.of_columns("maps", str(root), {"image": inside})
        drawn = split_rows(trained, inside, shares=Shares(shares.val, min(shares.test, 0.01)), seed=seed)
        parts["val"], parts["train"] = parts["train"][drawn["val"]], np.delete(parts["train"], drawn["val"])
    return MapRows.of(table, root, list(rows.values()), parts)


def _paired(root: Path, images: str, formats: Mapping[str, MapFormat]) -> dict[str, dict[str, Path]]:
    """Path of an image without its ending -> files of the sample."""
    found = _files(root / images, IMAGES + ARRAYS[:1], "image")
    rows = {key: {"image": path} for key, path in sorted(found.items())}
    for name, form in formats.items():
        files = _files(root / form.folder, IMAGES + ARRAYS, f"file of task.maps.{name}")
        if not any(key + form.suffix in files for key in rows):
            ours, theirs = next(iter(rows)), min(files)
            raise DataError(
                f"maps: no file in {root / form.folder} is called like an image in {root / images}: {theirs} there, {ours} here; give "
                f"both the same name, or say what comes after it: task.maps.{name}.suffix=_mask"
            )
        for key, path in files.items():
            base = key.removesuffix(form.suffix) if form.suffix else key
            if base not in rows or not key.endswith(form.suffix):
                raise DataError(f"maps: {path} belongs to no image in {root / images}; remove it, or add its image")
            rows[base][name] = path
    return rows


def _files(folder: Path, endings: Collection[str], what: str) -> dict[str, Path]:
    """Path in the folder without its ending -> file."""
    if not folder.is_dir():
        raise DataError(
            f"maps: there is no folder {folder}; make it, or name another: task.maps.<map>.folder, task.images"
        )
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            ending = path.suffix.lower()
            if is_hidden(path) or ending in _BESIDE:
                continue
            if ending not in endings:
                raise DataError(f"maps: {path} is no {what}; these end in {', '.join(endings)}: convert or remove it")
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise DataError(f"maps: {found[key]} and {path} have the same name; keep one of them")
            found[key] = path
    if not found:
        raise DataError(f"maps: {folder} has no files that end in {', '.join(endings)}")
    return found


def rows_of_table(
    path: Path,
    folder: Path | None,
    images: str,
    formats: Mapping[str, MapFormat],
    shares: Shares | None,
    seed: int,
    labels: Sequence[str] = (),
) -> tuple[MapRows, tuple[str, ...]]:
    """Samples in the lines of a table, and what is to be said of how it was read.

    Without ``shares``, all of them are train, val and test. ``labels`` are columns with labels. Raises DataError for a file that
    is missing or named twice.
    """
    table = read_table(path, "maps")
    if not len(table):
        raise DataError(f"maps: {path} has no lines after the header; it needs one for each image")
    root = path.parent if folder is None else folder
    column = next((name for name in (images, "image", "path") if table.find(name)), None)
    if column is None:
        raise DataError(
            f"maps: {path} has no column 'image'; rename the one that names the images: it has {', '.join(table.names)}"
        )
    columns = {"image": table.column(column), **{name: table.column(form.folder) for name, form in formats.items()}}
    rows: list[dict[str, Path]] = []
    seen: dict[object, int] = {}
    for number, cells in enumerate(table.rows(list(columns.values()))):
        row = {
            name: root / cell.replace("\\", "/")
            for name, cell in zip(columns, cells, strict=True)
            if not is_missing(cell)
        }
        for name, file in row.items():
            if file.name.startswith("._"):
                raise table.error(number, f"{file} has attributes of macOS, and no picture; remove the line")
            if not file.is_file():
                raise table.error(
                    number, f"there is no {name} {file}; paths count from {root.resolve()}, or from task.folder"
                )
        if "image" not in row:
            raise table.error(number, "the image is empty; remove the line")
        real = file_identity(row["image"])
        if real in seen:
            raise table.error(
                number, f"{row['image']} is on an earlier line, number {seen[real]}, already; keep one of them"
            )
        seen[real] = number + 1 if table.lines is None else int(table.lines[number])
        rows.append(row)
    for name in formats:
        if not any(name in row for row in rows):
            raise DataError(
                f"maps: {path} names no file in the column {columns[name]!r}; leave the map out, or fill it in"
            )
    keys = [os.path.relpath(row["image"], root).replace(os.sep, "/") for row in rows]
    if shares is None:
        parts = dict.fromkeys(PARTS, np.arange(len(rows)))
    else:
        parts = split_rows(table, keys, shares=shares, seed=seed)
    return MapRows.of(table, root, rows, parts, labels), table.notes
