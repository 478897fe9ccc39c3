"""Predictions for a user's files, or samples of a GAN, as files and as printed rows.

    predictions.csv                             a line for each picture, or for each line of a table
    <picture>-<map>.npy, <picture>-<map>.png    numbers and colors of a map; <map>.csv is their legend
    samples.npy, samples.png, samples.csv       what a GAN made, and of which class

Maps are written one after the other as they are made, the table at the end. In a folder of the user's own, the hidden file
``.predictions`` lists what was written: these files may be replaced by later predictions and are no inputs; others never are.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torchvision.utils import save_image

from mozoo.arguments import ConfigError, PartialError, some
from mozoo.checkpoint import write_text
from mozoo.prediction import holds_weights, load_predictor, written_folder
from mozoo.preferences import parse_preference
from mozoo.visible import printable
from tasks import DataError, Prediction
from tasks.file_checks import check_regular, is_hidden
from zoo import list_models

# fmt: off
_LIST = ".predictions"
_PICTURES = {
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
}
# fmt: on


def input_files(path: Path, written: Container[Path] = ()) -> tuple[list[Path], list[Path]]:
    """A file, or the pictures in and below a folder, and the files there that are none.

    Hidden files and folders do not count, nor those that earlier predictions have ``written``, of this model or another.
    Raises ConfigError if there are no pictures.
    """
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise ConfigError(f"input: there is no {path}")
    found = sorted(file for file in path.rglob("*") if file.is_file())
    others = [Written(file.parent) for file in found if file.name == _LIST]
    others += [Written(folder, own=True) for folder in _folders_of_runs(path, found)]
    files = [
        file
        for file in found
        if not is_hidden(file, path) and file not in written and not any(file in other for other in others)
    ]
    pictures = [file for file in files if file.suffix.lower() in _PICTURES] or [f for f in files if f.suffix == ".npy"]
    if not pictures:
        raise ConfigError(f"input: there are no pictures in {path} ({', '.join(sorted(_PICTURES))}, or .npy)")
    known = set(pictures)
    return pictures, [file for file in files if file not in known]


def _folders_of_runs(path: Path, files: Sequence[Path]) -> set[Path]:
    """The folders below ``path`` in which predictions go without ``output``."""
    folders = {folder for file in files for folder in file.parents if folder.name == "predictions"}
    return {folder for folder in folders if path in folder.parents and _is_of_run(folder.parent)}


def _is_of_run(folder: Path) -> bool:
    """Whether ``folder`` is one that ``written_folder`` may give."""
    return holds_weights(folder / "best") or holds_weights(folder) or folder.name in list_models(pretrained=True)


def _check_names(pictures: Sequence[Path]) -> None:
    """Raise ConfigError if the maps of two pictures would be written to the same files."""
    stems: dict[Path, Path] = {}
    for file in pictures:
        other = stems.setdefault(file.with_suffix(""), file)
        if other != file:
            raise ConfigError(f"input: {other} and {file} would be written to the same files; rename one")


class Written:
    """The files of a folder that predictions wrote, which later ones may replace.

    Args:
        folder: Where files are written.
        own: The folder belongs to a run, and so does everything in it.
    """

    def __init__(self, folder: Path, own: bool = False) -> None:
        self.folder, self._own = folder, own
        self._place = folder.resolve()
        self._names: set[str] = set()
        with suppress(OSError, UnicodeDecodeError):
            check_regular(folder / _LIST)
            self._names = set((folder / _LIST).read_text(encoding="utf-8").splitlines())

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, Path):
            return False
        actual = path.resolve()
        return actual.is_relative_to(self._place) and (
            self._own or actual.relative_to(self._place).as_posix() in self._names
        )

    def check(self, paths: Iterable[Path]) -> None:
        """Raise ConfigError if one of the paths is a file of somebody else."""
        for path in paths:
            if os.path.lexists(path) and not self._own and path not in self:
                reason = f"is there already, and not in the list of predictions, {self.folder / _LIST}"
                raise ConfigError(f"output: {path} {reason}; remove it, or choose another output")

    def add(self, *paths: Path) -> None:
        """Check the paths, and list them before they are written."""
        self.check(paths)
        names = {path.relative_to(self.folder).as_posix() for path in paths} - self._names
        if names and not self._own:
            self._names |= names
            write_text(self.folder / _LIST, "".join(f"{name}\n" for name in sorted(self._names)))


def _targets(folder: Path, name: Path, prediction: Prediction) -> list[Path]:
    """Where the maps of a picture called ``name`` are written."""
    arrays = [folder / name.with_name(f"{name.stem}-{key}.npy") for key in prediction.maps]
    return [
        *arrays,
        *(
            path.with_suffix(".png")
            for path, key in zip(arrays, prediction.maps, strict=True)
            if key in prediction.pictures
        ),
    ]


def write_predictions(
    folder: Path,
    source: Path,
    predictions: Iterable[tuple[Path, Prediction]],
    own: bool = True,
    files: Sequence[Path] = (),
) -> list[dict[str, str | float]]:
    """Write the predictions of files of ``source``; returns the rows of ``predictions.csv``.

    Nothing is written before the first prediction. With ``own``, everything in ``folder`` may be replaced; otherwise what
    predictions wrote. Raises ConfigError if ``folder`` cannot be written, or for a file that would be replaced.
    """
    rows: list[dict[str, str | float]] = []
    remaining = iter(predictions)
    first = next(remaining)
    written = Written(folder, own)
    named = [file.relative_to(source) if source.is_dir() else Path(file.name) for file in files or [first[0]]]
    tables = [folder / f"{key}.csv" for key in (*first[1].legends, *(["predictions"] if first[1].cells else ()))]
    written.check([*tables, *(path for name in named for path in _targets(folder, name, first[1]))])
    with _writing(folder):
        written.add(*tables)
        for path, prediction in chain([first], remaining):
            name = path.relative_to(source) if source.is_dir() else Path(path.name)
            written.add(*_targets(folder, name, prediction))
            for key, array in prediction.maps.items():
                target = folder / name.with_name(f"{name.stem}-{key}.npy")
                target.parent.mkdir(parents=True, exist_ok=True)
                np.save(target, array[0])  # maps are of one picture
                if key in prediction.pictures:
                    Image.fromarray(prediction.pictures[key][0]).save(target.with_suffix(".png"))
            for key, legend in prediction.legends.items():
                _write_table(folder / f"{key}.csv", _rows(legend))
            table = path.suffix.lower() not in {*_PICTURES, ".npy"}
            if prediction.own:
                _write_columns(folder / "predictions.csv", {**prediction.own, **prediction.cells})
                return _rows(prediction.cells)
            for number, row in enumerate(_rows(prediction.cells), start=1):
                rows.append({"row": number, **row} if table else {"file": str(name), **row})
        if rows:
            _write_table(folder / "predictions.csv", rows)
    return rows


def write_samples(folder: Path, samples: Tensor, classes: Sequence[str], own: bool = True) -> None:
    """Write images (N, C, H, W) or points (N, 2) as ``.npy`` and ``.png``, and their classes.

    Images in [-1, 1] are saved as (N, H, W) or (N, H, W, C) in [0, 1]. ``own`` is that of :func:`write_predictions`. Raises
    ConfigError if ``folder`` cannot be written.
    """
    targets = [folder / f"samples.{ending}" for ending in ("npy", "png", *(["csv"] if classes else ()))]
    written = Written(folder, own)
    written.check(targets)
    with _writing(folder):
        written.add(*targets)
        if samples.dim() == 4:
            images = (samples.clamp(-1, 1) + 1) / 2
            np.save(folder / "samples.npy", images.movedim(1, -1).squeeze(-1).numpy())
            save_image(images, folder / "samples.png", nrow=len(set(classes)) or 8)
        else:
            from matplotlib.figure import Figure  # takes a second to import, and pictures and tables need none

            np.save(folder / "samples.npy", samples.numpy())
            figure = Figure(figsize=(5.6, 5.6), layout="constrained")
            axes = figure.add_subplot(aspect="equal")
            axes.scatter(samples[:, 0].numpy(), samples[:, 1].numpy(), s=6, linewidths=0, color="#d97706")
            figure.savefig(folder / "samples.png", dpi=150)
        if classes:
            _write_table(folder / "samples.csv", _rows({"sample": range(1, len(classes) + 1), "class": classes}))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Makes the folder; what keeps it from being written is a ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(f"output: cannot write to {folder} ({error.strerror or error})") from error


def _rows(columns: Mapping[str, Sequence[str | float]]) -> list[dict[str, str | float]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _write_table(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()})


def _write_columns(path: Path, columns: Mapping[str, Sequence[str | float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([f"{value:.8g}" if isinstance(value, float) else value for value in row])


def row_tables(rows: Sequence[Mapping[str, str | float]], width: int) -> list[Table]:
    """Rows as a table, or as several where its columns would not fit side by side.

    Each begins with the first column.
    """
    cells = [
        [name, *(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for row in rows)]
        for name in rows[0]
    ]
    first, *others = cells
    blocks, room = [[first]], 0
    for column in others:
        needed = max(map(cell_len, column)) + _FRAME
        if room < needed and len(blocks[-1]) > 1:
            blocks.append([first])
        if len(blocks[-1]) == 1:
            room = width - 1 - max(map(cell_len, first)) - _FRAME
        blocks[-1].append(column)
        room -= needed
    tables = []
    for block in blocks:
        table = Table()
        for column in block:
            table.add_column(Text(printable(column[0])))
        for row in zip(*(column[1:] for column in block), strict=True):
            table.add_row(*(Text(printable(cell)) for cell in row))
        tables.append(table)
    return tables


_SHOWN = 10  # rows that are printed
_FRAME = 3  # line and spaces of a column


def predict(
    run: str,
    input: str | None = None,
    output: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    trust: bool = False,
    size: str | None = None,
    preference: str | None = None,
) -> None:
    """Predict or sample, write files and print the first rows.

    Raises ConfigError or DataError before anything is written, and PartialError if some files of a folder cannot be read.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if size not in (None, "picture", "model"):
        raise ConfigError(f"size must be picture or model, got {size!r}")
    predictor = load_predictor(run, device, parse_preference(preference), trust)
    place = written_folder(run)
    if input is None:
        generated, classes = predictor.sample(64 if samples is None else samples, seed or 0)
        folder = Path(output or place / "predictions" / "samples")
        write_samples(folder, generated, classes, own=output is None)
        console.print(f"{len(generated)} samples in {folder}")
        return
    if samples is not None or seed is not None:
        raise ConfigError("samples and seed are for a model that generates, without input; leave them out")
    source = Path(input)
    folder = Path(output or place / "predictions" / source.resolve().stem)
    files, others = input_files(source, Written(folder, output is None))
    problems: list[DataError] = []
    notes: list[str] = []

    def predictions() -> Iterator[tuple[Path, Prediction]]:
        checked = False
        for file in files:
            try:
                prediction = predictor.predict(file, size="model" if size == "model" else "picture")
            except DataError as error:
                problems.append(error)
                continue
            if prediction.maps and not checked:  # nothing is written yet
                _check_names(files)
            checked = True
            notes.extend(prediction.notes)
            yield file, prediction
        if len(problems) == len(files):
            raise problems[0]

    rows = write_predictions(folder, source, predictions(), output is None, files)
    if rows:
        for table in row_tables(rows[:_SHOWN], console.width):
            console.print(table)
    more = f" ({len(rows) - _SHOWN} more rows)" if len(rows) > _SHOWN else ""
    console.print(printable(f"predictions{more} in {folder}"))
    for note in notes:
        console.print(printable(note))
    if others:
        console.print(
            printable(
                f"left out, as they are no pictures: {some([str(path.relative_to(source)) for path in others], _SHOWN)}"
            )
        )
    if problems:
        raise PartialError(
            f"{len(problems)} of {len(files)} files have no prediction: {some(list(map(str, problems)), _SHOWN, '; ')}"
        )
