"""Files in results/: tables as CSV, figures, and what a number was measured with."""

from __future__ import annotations

import csv
import io
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from lab.figure_style import CLEAR, STYLE, themed
from mozoo import tools
from mozoo.environment import git_commit
from mozoo.tracking import read_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
OUTPUTS = ROOT / "outputs"


#: File in results/ -> what draws it, given the path.
Figures = Mapping[str, Callable[[Path], None]]


def read_yaml(path: Path) -> Any:
    """Content of a YAML file."""
    return OmegaConf.to_container(OmegaConf.load(path))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()) -> None:
    """Write a CSV file atomically, with ``fields`` or else the keys of the first row as columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(exist_ok=True)
    tools.write_text(path, text.getvalue())


def record(
    path: Path, fields: Sequence[str], parts: Mapping[str, Callable[[], list[dict[str, Any]]]], facts: Mapping[str, str]
) -> None:
    """Measure ``parts``; new rows, with the ``facts`` that they lack, replace the old ones."""
    for part, measure in parts.items():
        rows: list[dict[str, Any]] = [row for row in read_rows(path) if row["part"] != part]
        rows += [{"part": part, **facts, **row} for row in measure()]
        write_rows(path, rows, ["part", *fields, *facts])


def environment(device: str) -> dict[str, str]:
    """Device, version of torch and commit; to be read before a tracked file changes."""
    return {"device": device, "torch": torch.__version__, "git": git_commit() or "unknown"}


def save_figure(target: Path, salt: str, draw: Callable[[], Figure], style: Mapping[str, Any] = STYLE) -> None:
    """Draw and save a figure as SVG or PNG; the same numbers give the same bytes.

    An SVG is transparent, and its colors follow the page that shows it.

    Args:
        target: The file, whose name ends in ``.svg`` or ``.png``.
        salt: Any fixed text, from which matplotlib makes the identifiers in an SVG.
        draw: Returns the figure.
        style: Settings of matplotlib.
    """
    svg = target.suffix == ".svg"
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, **style, **(CLEAR if svg else {})}
    with rc_context(settings):
        figure = draw()
        if svg:
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            tools.write_text(target, themed(drawn.getvalue()))
        else:
            pixels = io.BytesIO()
            figure.savefig(pixels, format="png", dpi=84, bbox_inches="tight")
            Image.open(pixels).convert("RGB").save(target, optimize=True)  # nothing is transparent


def write_figures(figures: Figures) -> None:
    """Draw all of them."""
    RESULTS.mkdir(exist_ok=True)
    for file, draw in figures.items():
        draw(RESULTS / file)


def write_stones(path: Path) -> None:
    """Write a CSV file with every 27th diamond."""
    lines = lzma.decompress((ROOT / "tasks/data/diamonds.csv.xz").read_bytes()).decode().splitlines()
    path.write_text("\n".join([lines[0], *lines[1::27]]) + "\n", encoding="utf-8")
