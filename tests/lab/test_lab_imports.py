"""The laboratory is apart from the product: not installed, run from a clone, and without private names."""

import ast
import os
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import pytest

from lab.results import ROOT

SOURCES = sorted((ROOT / "lab").rglob("*.py"))


def imports(path):
    """Module and names of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, tuple(alias.name for alias in node.names)


def test_lab_is_not_installed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    included = setuptools["packages"]["find"]["include"]
    assert "balancing*" in included
    assert not [pattern for pattern in included if fnmatch("lab", pattern) or fnmatch("tests", pattern)]


def test_a_script_runs_from_anywhere_without_being_installed(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, ROOT / "lab" / "tables.py", "no_such_table"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert "unknown table 'no_such_table'; choose from quickstart, " in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_stay_in_their_file(path):
    assert not [name for _, names in imports(path) for name in names if name.startswith("_")]
