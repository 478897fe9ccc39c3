"""docs/loop_*.md: every command of a page runs its script as it stands, and prints what the page shows."""

import ast

import pytest

from lab.check_docs import judge
from lab.doc_commands import commands
from tests.loops.pages import PAGES, ROOT, carry_out, carry_out_whole, script

COMMANDS = [(name, each) for name, page in PAGES.items() for each in commands(page.name, page.read_text("utf-8"))]
LABELS = [f"{name}-{each.text}" for name, each in COMMANDS]
#: Commands whose script starts processes itself, as another test does, too.
STARTING = {"lightning-python loop.py 2"}
CASES = [
    pytest.param(name, each, id=label, marks=[pytest.mark.slow] if label in STARTING else [])
    for label, (name, each) in zip(LABELS, COMMANDS, strict=True)
]


@pytest.mark.parametrize(("page", "command"), CASES)
def test_the_script_runs_and_prints_what_the_page_shows(page, command, tmp_path):
    (tmp_path / "loop.py").write_text(script(page), encoding="utf-8")
    code, output, errors = carry_out(command.text, tmp_path)
    assert judge(command.shown, code, output) == "", errors[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=LABELS)
def test_the_whole_command_prints_what_the_page_shows(page, command, tmp_path):
    (tmp_path / "loop.py").write_text(script(page), encoding="utf-8")
    code, output, errors = carry_out_whole(command.text, tmp_path)
    assert judge(command.shown, code, output) == "", errors[-3000:]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_what_its_script_prints(page):
    assert any(each.shown for name, each in COMMANDS if name == page)


@pytest.mark.parametrize("page", PAGES)
def test_the_script_is_short(page):
    code = script(page)
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert sum(bool(line.strip()) for line in code.splitlines()) - len(imports) <= 60


@pytest.mark.parametrize("page", PAGES)
def test_every_page_can_be_found(page):
    assert f"](loop_{page}.md)" in (ROOT / "docs" / "your_own_loop.md").read_text(encoding="utf-8")
