"""Which package may import which, and what an import does besides."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"balancing", "zoo", "tasks", "engine", "configs", "scripts", "lab", "train", "hubconf"}
ALLOWED = {
    "balancing": {"balancing"},
    "tasks": {"tasks", "balancing"},
    "zoo": {"zoo", "balancing"},
    "engine": {"engine", "balancing", "zoo", "tasks"},
}
#: Modules of balancing that all packages share.
LEAVES = {"balancing.choices", "balancing.registry"}
SOURCES = [path.relative_to(ROOT) for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """Full names of the modules that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # the renderer's processes import that package by itself, which is quicker than with all of tasks
            alone = path.parent == Path("tasks/room_renderer") and node.level == 1
            assert node.level == 0 or alone, f"{path}: relative import"
            yield f"tasks.room_renderer.{node.module}" if alone else node.module


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_there_are_sources_to_check():
    assert {path.parts[0] for path in SOURCES} == set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_run_one_way(path):
    ours = {name for name in imported(path) if name.split(".")[0] in OURS}
    assert {name.split(".")[0] for name in ours} <= ALLOWED[path.parts[0]]
    leaves = {"tasks": LEAVES, "zoo": LEAVES | {"balancing.protocol"}}.get(path.parts[0])
    if leaves is not None:
        assert {name for name in ours if name.startswith("balancing")} <= leaves


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaf_needs_the_standard_library_alone(name):
    path = Path(*name.split(".")).with_suffix(".py")
    assert {module.split(".")[0] for module in imported(path)} <= set(sys.stdlib_module_names) | {"__future__"}


def test_balancing_needs_nothing_but_torch():
    done = python(
        "import sys, torch\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "import balancing\n"
        "after = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(after - before - sys.stdlib_module_names))\n"
    )
    assert (done.stdout.split(), done.stderr) == (["balancing"], "")


def test_importing_is_silent():
    done = python("import balancing, tasks, zoo, engine, hubconf, train")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
