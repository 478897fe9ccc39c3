"""The documents tell the truth: their code runs, their tables and figures are those of results/."""

import inspect
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import engine
from balancing import Options, balancer_arguments, list_balancers
from scripts import benchmark_balancers, documents, figures, run_figures, tables
from scripts.tables import EXPERIMENTS, Experiment, markdown
from tasks import compressed_fashion, fashion_gan, multi_fashion, two_view_fashion
from tasks.fashion import CLASSES
from zoo import list_models

FIGURE = re.compile(r"!\[[^]]+\]\(([^)]+)\)")
EXAMPLE = re.compile(r"<!-- example: run by tests/test_readme.py -->\n```python\n(.*?)```", re.DOTALL)
DOCUMENTS = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if EXAMPLE.search(d.read_text())], ids=str)
def test_examples_run(document):
    for code in EXAMPLE.findall(document.read_text()):
        names = {}
        exec(compile(code, str(document), "exec"), names)
        if "report" in names:
            assert names["report"].weights.isfinite().all()
            assert names["report"].conflicts in (0.0, 1.0)


def test_the_readme_example_is_ten_lines_of_loop():
    (code,) = EXAMPLE.findall(Path("README.md").read_text())
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tables_are_up_to_date(name):
    assert documents.block(Path(EXPERIMENTS[name].document), "tables", name) == markdown(name)


def test_every_figure_is_there_and_shown():
    shown = {(page.parent / target).resolve() for page in DOCUMENTS for target in FIGURE.findall(page.read_text())}
    kept = {path.resolve() for path in Path("results").iterdir() if path.suffix in (".png", ".svg")}
    assert shown == kept


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
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(engine, "write_report", lambda *arguments: None)  # takes longer than the rest
    (tmp_path / "results").mkdir()
    return tmp_path


def drawn(name, rows, overrides):
    """Bytes of the figures of a table after two steps of training of its first rows."""
    experiment = EXPERIMENTS[name]
    for label in list(experiment.rows)[:rows]:
        run = tables.folder(name, label, experiment.seeds[0])
        common = ("trainer.device=cpu", "trainer.max_steps=2", "trainer.batch_size=32")
        tables.train_quietly(run, [*experiment.common, *experiment.rows[label], *common, *overrides], threads=1)
    tables.draw(name)
    return {file: (tables.RESULTS / file).read_bytes() for file in experiment.figures}


@pytest.mark.parametrize(("name", "rows"), [("shared_trunk", 1), ("soft_sharing", 4)])
def test_figures_of_tables_are_drawn_from_finished_runs(workplace, stones, name, rows):
    found = drawn(name, rows, [f"task.csv={stones}", "model.width=8"])
    text = b"".join(found.values()).decode()
    assert all(word in text for word in ("cut", "price"))
    assert ("Very Good" in text, "true (US dollars)" in text) == ((True, True) if rows == 1 else (False, False))
    tables.draw(name)
    assert {file: (tables.RESULTS / file).read_bytes() for file in found} == found


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
    found = drawn(name, 1, [*sizes, f"data_dir={workplace}"])
    tables.draw(name)
    assert {file: (tables.RESULTS / file).read_bytes() for file in found} == found
    with Image.open(tables.RESULTS / f"{name}.png") as picture:
        assert picture.mode == "RGB"
        assert all(low < high for low, high in picture.getextrema())


def test_wrong_answers_are_red(workplace, few_garments):
    drawn("two_view_fashion", 1, ["model.conv_width=2", "model.linear_width=8"])
    figure = run_figures.answers(run_figures.halves, {"first": tables.folder("two_view_fashion", "`dual_sum`", 0)})
    columns = [[(text.get_text(), text.get_color()) for text in axes.texts] for axes in figure.axes]
    assert [word for word, _ in columns[0][::2]] == ["true", "fused", "left", "right"]
    columns = [column[1::2] if number % 8 == 0 else column for number, column in enumerate(columns)]  # labels
    assert [column[0][0] for column in columns] == [CLASSES[number % 10] for number in range(16)]
    answers = [(word == column[0][0], colour) for column in columns for word, colour in column]
    assert set(answers) == {(True, "black"), (False, run_figures.WRONG)}


def test_missing_runs_do_not_keep_other_tables_from_being_collected(workplace, monkeypatch):
    metrics = {"accuracy": ("test/cut/accuracy", 2)}
    one, two = (Experiment("page.md", "run", (), {"plain": ()}, metrics, seeds=(0,)) for _ in range(2))
    monkeypatch.setattr(tables, "EXPERIMENTS", {"two": two, "one": one})
    page = workplace / "page.md"
    page.write_text(
        "".join(f"<!-- {n}: written by scripts/tables.py -->\nold\n<!-- end of {n} -->\n" for n in ("one", "two"))
    )
    run = tables.folder("one", "plain", 0)
    run.mkdir(parents=True)
    facts = {"epochs": 1, "device": "cpu", "versions": {"torch": "2"}, "git": "abc"}
    (run / "summary.json").write_text(
        json.dumps({"status": "finished", "metrics": {"test/cut/accuracy": 0.5}, **facts})
    )
    for overrides in ([], ["seed=0", "model.width=8"], ["seed=1"]):  # nobody knows what it was; another training
        if overrides:
            (run / "config.yaml").write_text(OmegaConf.to_yaml(asdict(engine.compose(overrides))))
        with pytest.raises(SystemExit, match=r"two, one: left as is"):
            tables.main(["--collect"])
    (run / "config.yaml").write_text(OmegaConf.to_yaml(asdict(engine.compose(["seed=0"]))))
    with pytest.raises(SystemExit, match=r"two: left as is.*plain-seed0"):
        tables.main(["--collect"])
    assert documents.block(page, "tables", "one") == "| run | accuracy |\n|---|---|\n| plain | 0.50 |\n"
    assert documents.block(page, "tables", "two") == "old\n"
    assert [path.name for path in (workplace / "results").iterdir()] == ["one.csv"]


@pytest.mark.parametrize("name", benchmark_balancers.TABLES)
def test_cost_tables_are_up_to_date(name):
    table = benchmark_balancers.TABLES[name](benchmark_balancers.read())
    assert documents.block(benchmark_balancers.DOCUMENT, "benchmark_balancers", name) == table


def test_the_table_of_methods_is_up_to_date():
    assert documents.block(figures.DOCUMENT, "figures", "chooser") == figures.chooser()


def test_a_document_without_the_marks_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- a: written by scripts/x.py -->\nold\n<!-- end of a -->\nrest\n")
    documents.fill_in(page, "x", {"a": "new\n"})
    assert documents.block(page, "x", "a") == "new\n"
    assert page.read_text().endswith("<!-- end of a -->\nrest\n")
    before = page.read_text()
    with pytest.raises(ValueError, match="has no place for b"):
        documents.fill_in(page, "x", {"a": "newer\n", "b": "c\n"})
    assert page.read_text() == before


@pytest.mark.parametrize(("family", "name"), [(f, name) for f in figures.FAMILIES for name in figures.FAMILIES[f]])
def test_pages_tell_every_option(family, name):
    page = Path(f"docs/balancing_{family}.md").read_text()
    (section,) = re.findall(rf"^##+ `{name}`\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE)
    shared = {*inspect.signature(Options).parameters, "objectives", "before"}
    own = [key for key in balancer_arguments(name) if key not in shared]
    assert [key for key in own if f"`{key}" not in section] == []


def test_there_are_exactly_two_set_up_commands():
    commands = re.findall(r"^pip install .*$", Path("README.md").read_text(), re.MULTILINE)
    assert commands == ["pip install -e . && python train.py", 'pip install -e ".[test]" && pytest']


@pytest.mark.parametrize("name", [*list_models(), *list_balancers()])
def test_readme_names_everything(name):
    assert f"`{name}`" in Path("README.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text())
    assert all((document.parent / target).exists() for target in targets), targets
