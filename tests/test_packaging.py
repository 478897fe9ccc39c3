"""pyproject.toml declares what the code imports, and spells extras as their packages do."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"balancing", "zoo", "tasks", "mozoo", "configs", "scripts", "lab", "train", "hubconf", "tests"}
SOURCES = [*(path for name in OURS for path in (ROOT / name).rglob("*.py")), ROOT / "train.py", ROOT / "hubconf.py"]


def plain(name):
    """The name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements):
    """Distribution -> its extras, from requirement strings."""
    parts = (re.match(r"([\w.-]+)(?:\[([^\]]+)\])?", requirement) for requirement in requirements)
    return {plain(part[1]): [extra.strip() for extra in (part[2] or "").split(",") if extra] for part in parts}


def imported_packages():
    names = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - OURS - set(sys.stdlib_module_names)


ALL = declared([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])


def test_every_imported_package_is_declared():
    distributions = packages_distributions()
    installed = {name: {plain(each) for each in distributions[name]} for name in imported_packages() & {*distributions}}
    assert {"cv2", "PIL", "yaml", "torch"} <= installed.keys()
    assert {name for name, origins in installed.items() if not origins & {*ALL}} == set()


@pytest.mark.parametrize(("package", "extra"), [(name, extra) for name, extras in ALL.items() for extra in extras])
def test_extra_is_spelled_as_its_package_spells_it(package, extra):
    """pip before 23.3 finds an extra only under the spelling of the package's own metadata."""
    if package == PROJECT["name"]:
        assert extra in EXTRAS
        return
    try:
        offered = metadata(package).get_all("Provides-Extra")
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert extra in offered
