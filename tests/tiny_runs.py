"""Finished runs of a few steps, one for each kind of task, for the tests of what is done with a trained model."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mozoo
import train
from mozoo import tools

ROOT = Path(__file__).resolve().parent.parent
COLORS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}
SHORT = ("trainer.device=cpu", "trainer.max_steps=6", "trainer.batch_size=4", "logger.tensorboard=false")
_FINISHED: dict[str, Path] = {}  # a run is the same whoever asks for it first


def table(folder: Path) -> list[str]:
    """Every 27th diamond."""
    lines = lzma.decompress((ROOT / "tasks/data/diamonds.csv.xz").read_bytes()).decode().splitlines()
    (folder / "stones.csv").write_text("\n".join([lines[0], *lines[1::27]]) + "\n")
    return ["model.width=8", "model.depth=1", f"task.csv={folder / 'stones.csv'}", "trainer.batch_size=64"]


def images(folder: Path) -> list[str]:
    """Pictures in three colours, which are their species, with a weight each."""
    lines = ["path,split,species,weight"]
    for i in range(24):
        species = sorted(COLORS)[i % 3]
        pixels = np.tile(np.array(COLORS[species], np.uint8), (12, 16, 1)) + np.uint8(2 * i)
        split = "train" if i < 12 else "val" if i < 18 else "test"
        (folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / split / f"{i}.png")
        lines.append(f"{split}/{i}.png,{split},{species},{1000 + 50 * i}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return [
        *("model=shared_trunk_lenet", "model.channels=[2,3]", "model.kernels=[3,3]", "model.width=4"),
        *("task=image_table", f"task.csv={folder / 'labels.csv'}", "task.image_size=12"),
        *("task.classification=[species]", "task.regression=[weight]"),
    ]


def maps(folder: Path) -> list[str]:
    """Rooms the size of a stamp."""
    sizes = ("task.height=24", "task.width=32", "task.train=8", "task.val=2", "task.test=3")
    return ["model=dense", "model.encoder=test_resnet", "model.pretrained=false", "model.width=4", *sizes]


def points(folder: Path) -> list[str]:
    """Points in eight places, which are their classes."""
    return ["model=gan_points", "model.width=8", "model.depth=1", "task.samples=64", "task.labels=true"]


KINDS = {"table": table, "images": images, "maps": maps, "points": points}


def finished(kind: str, make_folder: pytest.TempPathFactory) -> Path:
    """The run folder; its data lie in the folder ``data`` beside it."""
    if kind not in _FINISHED:
        root = make_folder.mktemp(kind)
        (root / "data").mkdir()
        overrides = [*SHORT, *KINDS[kind](root / "data"), f"data_dir={root / 'data'}", f"run_dir={root / 'run'}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tools, "write_report", lambda *arguments: None)  # takes longer than the rest
            train.run(mozoo.compose(overrides))
        _FINISHED[kind] = root / "run"
    return _FINISHED[kind]


def stop_after(monkeypatch, steps):
    """Ask the next run to stop once it has taken ``steps`` steps in all."""
    request, step = tools.StopRequest(), train.train_step

    def counted(run, batch):
        request.asked = run.state.step + 1 == steps
        return step(run, batch)

    monkeypatch.setattr(train, "train_step", counted)
    monkeypatch.setattr(tools, "StopRequest", lambda processes: request)
