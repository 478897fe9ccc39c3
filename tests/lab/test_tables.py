"""lab/tables.py: figures are drawn from runs, and only complete tables are collected."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import mozoo
from lab import documents, results, run_figures, tables
from lab.tables import EXPERIMENTS, Experiment
from mozoo import tools
from tasks import compressed_fashion, fashion_gan, multi_fashion, two_view_fashion
from tasks.fashion import CLASSES

FIGURE = re.compile(r"!\[[^]]+\]\(([^)]+)\)")


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if EXPERIMENTS[name].figures])
def test_figures_are_shown_beside_their_table(name):
    page = Path(EXPERIMENTS[name].document)
    assert {f"results/{file}" for file in EXPERIMENTS[name].figures} <= {
        target.removeprefix("../") for target in FIGURE.findall(page.read_text())
    }
    assert all(Path("results", file).stat().st_size < 150_000 for file in EXPERIMENTS[name].figures)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder for runs and results."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)  # takes longer than the rest
    (tmp_path / "results").mkdir()
    return tmp_path


def drawn(name, rows, overrides):
    """Bytes of the figures of a table after two steps of training of its first rows."""
    experiment = EXPERIMENTS[name]
    for label in list(experiment.rows)[:rows]:
        run = tables.job(name, label, experiment.seeds[0])
        common = ("trainer.max_steps=2", "trainer.batch_size=32")
        replace(run, overrides=(*run.overrides, *common, *overrides)).run()
    tables.draw(name)
    return {file: (results.RESULTS / file).read_bytes() for file in experiment.figures}


@pytest.mark.parametrize(("name", "rows"), [("shared_trunk", 1), ("soft_sharing", 4)])
def test_figures_of_tables_are_drawn_from_finished_runs(workplace, stones, name, rows):
    pictures = drawn(name, rows, [f"task.csv={stones}", "model.width=8"])
    text = b"".join(pictures.values()).decode()
    assert all(word in text for word in ("cut", "price"))
    assert ("Very Good" in text, "true (US dollars)" in text) == ((True, True) if rows == 1 else (False, False))
    tables.draw(name)
    assert {file: (results.RESULTS / file).read_bytes() for file in pictures} == pictures


@pytest.fixture
def few_garments(monkeypatch):
    """Noise in ten classes, in place of the garments of all tasks."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 28, 28), generator=random, dtype=torch.uint8)
    split = images, (torch.arange(60) % 10).to(torch.uint8)
    for module in (multi_fashion, compressed_fashion, two_view_fashion, fashion_gan):
        monkeypatch.setattr(module, "fashion_splits", lambda folder, download: (split, split, split))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("multi_fashion", ("model.channels=[2,3]", "model.width=4")),
        ("compressed_fashion", ("model.linear_width=8", "model.conv_width=2")),
        ("fashion_gan", ("model.width=4",)),
        ("ring_of_gaussians", ("model.width=8", "task.samples=64")),
    ],
)
def test_figures_of_pictures_are_drawn_from_finished_runs(workplace, few_garments, name, sizes):
    pictures = drawn(name, 1, [*sizes, f"data_dir={workplace}"])
    tables.draw(name)
    assert {file: (results.RESULTS / file).read_bytes() for file in pictures} == pictures
    with Image.open(results.RESULTS / f"{name}.png") as picture:
        assert picture.mode == "RGB"
        assert all(low < high for low, high in picture.getextrema())


def test_wrong_answers_are_red(workplace, few_garments):
    drawn("two_view_fashion", 1, ["model.conv_width=2", "model.linear_width=8"])
    figure = run_figures.answers(
        run_figures.halves, {"first": [tables.job("two_view_fashion", "`dual_sum`", 0).folder]}
    )
    columns = [[(text.get_text(), text.get_color()) for text in axes.texts] for axes in figure.axes]
    assert [word for word, _ in columns[0][::2]] == ["true", "fused", "left", "right"]
    columns = [column[1::2] if number % 8 == 0 else column for number, column in enumerate(columns)]  # labels
    assert [column[0][0] for column in columns] == [CLASSES[number % 10] for number in range(16)]
    answers = [(word == column[0][0], colour) for column in columns for word, colour in column]
    assert set(answers) == {(True, "black"), (False, run_figures.WRONG)}


def test_missing_runs_do_not_keep_other_tables_from_being_collected(workplace, monkeypatch):
    metrics = {"accuracy": ("test/cut/accuracy", 2)}
    one, two = (Experiment("page.md", {"plain": ()}, metrics, label="run") for _ in range(2))
    monkeypatch.setattr(tables, "EXPERIMENTS", {"two": two, "one": one})
    page = workplace / "page.md"
    page.write_text(
        "".join(f"<!-- {n}: written by lab/tables.py -->\nold\n<!-- end of {n} -->\n" for n in ("one", "two"))
    )
    run = tables.job("one", "plain", 0).folder
    run.mkdir(parents=True)
    facts = {"epochs": 1, "device": "cpu", "versions": {"torch": "2"}, "git": "abc"}
    (run / "summary.json").write_text(
        json.dumps({"status": "finished", "metrics": {"test/cut/accuracy": 0.5}, **facts})
    )
    for overrides in ([], ["seed=0", "model.width=8"], ["seed=1"]):  # nobody knows what it was; another training
        if overrides:
            (run / "config.yaml").write_text(OmegaConf.to_yaml(asdict(mozoo.compose(overrides))))
        with pytest.raises(SystemExit, match=r"two, one: left as is"):
            tables.main(["--collect"])
    (run / "config.yaml").write_text(OmegaConf.to_yaml(asdict(mozoo.compose(["seed=0"]))))
    with pytest.raises(SystemExit, match=r"two: left as is.*plain-seed0"):
        tables.main(["--collect"])
    assert documents.block(page, "tables", "one") == "| run | accuracy |\n|---|---|\n| plain | 0.50 |\n"
    assert documents.block(page, "tables", "two") == "old\n"
    assert [path.name for path in (workplace / "results").iterdir()] == ["one.csv"]


def test_a_document_without_the_marks_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- a: written by lab/x.py -->\nold\n<!-- end of a -->\nrest\n")
    documents.fill_in(page, "x", {"a": "new\n"})
    assert documents.block(page, "x", "a") == "new\n"
    assert page.read_text().endswith("<!-- end of a -->\nrest\n")
    before = page.read_text()
    with pytest.raises(ValueError, match="has no place for b"):
        documents.fill_in(page, "x", {"a": "newer\n", "b": "c\n"})
    assert page.read_text() == before
