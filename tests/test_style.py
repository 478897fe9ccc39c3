"""What the code keeps to: short first lines of docstrings, and files that one can read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("balancing", "zoo", "tasks", "mozoo", "scripts", "lab")
SOURCES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))] + [ROOT / "train.py"]
#: Longest file, in lines. The training step must be readable as a whole.
LIMITS = {"balancing": 300, "balancing/base.py": 200, "train.py": 350}


def relative(path):
    return str(path.relative_to(ROOT))


def docstrings(path):
    """Line number and docstring of the module, its classes and its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_first_lines_of_docstrings_are_short(path):
    firsts = [(line, text.splitlines()[0]) for line, text in docstrings(path)]
    assert [(line, first) for line, first in firsts if len(first) > 90] == []


@pytest.mark.parametrize("name", LIMITS)
def test_files_are_short_enough_to_read(name):
    files = [ROOT / name] if name.endswith(".py") else sorted((ROOT / name).rglob("*.py"))
    assert files
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > LIMITS[name]} == {}
