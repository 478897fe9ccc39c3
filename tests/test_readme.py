"""The documents: their code runs, their figures and links exist, and they name every option."""

import inspect
import re
from pathlib import Path

import pytest

from balancing import Options, balancer_arguments, list_balancers
from lab import figures
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


def test_every_figure_is_there_and_shown():
    shown = {(page.parent / target).resolve() for page in DOCUMENTS for target in FIGURE.findall(page.read_text())}
    kept = {path.resolve() for path in Path("results").iterdir() if path.suffix in (".png", ".svg")}
    assert shown == kept


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
