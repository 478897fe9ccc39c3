"""Which package may import which, and what an import does besides."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"balancing", "zoo", "tasks", "mozoo", "configs", "scripts", "lab", "train", "hubconf"}
ALLOWED = {
    "balancing": {"balancing"},
    "tasks": {"tasks", "balancing"},
    "zoo": {"zoo", "balancing"},
    "mozoo": {"mozoo", "balancing", "zoo", "tasks"},
}
#: The commands are the outermost layer: nothing else in mozoo imports them.
COMMANDS = {"mozoo.commands", "mozoo.__main__"}
#: Modules of balancing that all packages share.
LEAVES = {"balancing.choices", "balancing.registry"}
SOURCES = [path.relative_to(ROOT) for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]
#: Every file that is not a test.
EVERYTHING = [path.relative_to(ROOT) for name in sorted(OURS) for path in sorted((ROOT / name).rglob("*.py"))]
EVERYTHING += [Path("train.py"), Path("hubconf.py")]


def module_of(path):
    """Full name of the module in a file, and the parts of the package that its relative imports start from."""
    parts = path.with_suffix("").parts
    return (".".join(parts[:-1]), parts[:-1]) if parts[-1] == "__init__" else (".".join(parts), parts[:-1])


def imported(path):
    """Full names of the modules that a file imports, wherever in it the import stands.

    ``from package import name`` counts as ``package.name`` where that is a module, and as ``package`` else.
    """
    _, package = module_of(path)
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # the renderer's processes import that package by itself, which is quicker than with all of tasks
            alone = path.parent == Path("tasks/room_renderer") and node.level == 1
            relative = path.parts[0] == "balancing"  # so that the folder can be copied under another name
            ours = (node.module or "").split(".")[0] == "balancing"
            assert not (relative and ours), f"{path}: absolute import of its own package"
            assert node.level == 0 or alone or relative, f"{path}: relative import"
            start = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*start, *filter(None, [node.module])])
            yield from {name if is_module(name := f"{origin}.{alias.name}") else origin for alias in node.names}


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def circles(graph):
    """The sets of modules that import one another, directly or not (Tarjan's strongly connected components)."""
    number, low, stack, components = {}, {}, [], []

    def visit(module):
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in graph[module] & graph.keys():
            if other not in number:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == number[module]:
            members = stack[stack.index(module) :]
            del stack[-len(members) :]
            if len(members) > 1 or module in graph[module]:
                components.append(sorted(members))

    for module in graph:
        if module not in number:
            visit(module)
    return components


@pytest.fixture(scope="module")
def imported_by_python():
    """A process that imports balancing after torch, prints what that brought, and then imports everything else."""
    slow = ("timm", "torchvision", "torchmetrics", "scipy", "matplotlib", "albumentations", "cv2", "tensorboard")
    code = (
        "import sys, torch\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "import balancing\n"
        "after = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(after - before - sys.stdlib_module_names))\n"
        "import tasks, zoo, mozoo, hubconf, train\n"
        f"assert not (found := {{*{slow}}} & sys.modules.keys()), found"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_there_are_sources_to_check():
    assert {path.parts[0] for path in SOURCES} == set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_run_one_way(path):
    ours = {name for name in imported(path) if name.split(".")[0] in OURS}
    command = any(module_of(path)[0].startswith(name) for name in COMMANDS)
    assert {name.split(".")[0] for name in ours} <= ALLOWED[path.parts[0]] | ({"train"} if command else set())
    assert command or not {name for name in ours if name.startswith(tuple(COMMANDS))}
    leaves = {"tasks": LEAVES, "zoo": LEAVES | {"balancing.protocol", "balancing.rotations"}}.get(path.parts[0])
    if leaves is not None:
        assert {name for name in ours if name.startswith("balancing")} <= leaves


def test_a_circle_is_seen():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"torch"}, "e": {"e"}}
    assert circles(graph) == [["a", "b", "c"], ["e"]]


def test_no_module_of_the_repository_imports_itself_by_others():
    """Lazy imports and those for type checkers count as well."""
    graph = {module_of(path)[0]: set(imported(path)) for path in EVERYTHING}
    assert {"train", "mozoo.run", "lab.tables", "scripts.compare", "zoo.dense", "tasks.task"} <= graph.keys()
    assert circles(graph) == []


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaf_needs_the_standard_library_alone(name):
    path = Path(*name.split(".")).with_suffix(".py")
    assert {module.split(".")[0] for module in imported(path)} <= set(sys.stdlib_module_names) | {"__future__"}


def test_balancing_needs_nothing_but_torch(imported_by_python):
    assert imported_by_python.stdout.splitlines()[0] == "balancing"


def test_importing_is_silent_and_leaves_out_what_is_slow_and_not_always_needed(imported_by_python):
    done = imported_by_python
    assert (done.returncode, done.stdout.splitlines()[1:], done.stderr) == (0, [], "")
