"""pyproject.toml declares what the code imports; what is built and installed from it works away from the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions
from pathlib import Path
from zipfile import ZipFile

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


# ---- what is installed -----------------------------------------------------------------------------------------------

PACKAGES = ("balancing", "zoo", "tasks", "mozoo", "configs")
OUTER = sysconfig.get_paths()["purelib"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The files that a build needs, in a folder called mozoo, as that of a clone."""
    tree = tmp_path_factory.mktemp("clone") / "mozoo"
    tree.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("train.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, tree)
    return next(folder.glob("mozoo-*.whl"))


def run(*words, cwd=None, code=0):
    """Standard output of a process that knows nothing of this repository."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def environment(folder, *pip):
    """The folder of programs of a new environment that sees the installed packages, but not what is editable in them."""
    venv.create(folder, symlinks=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    (own,) = (path for path in folder.rglob("site-packages"))
    (own / "outer.pth").write_text(f"{OUTER}\n")
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", "-q", "--no-deps", "--no-index", *pip)
    return programs


def test_the_wheel_holds_every_file_of_its_packages(wheel, tree):
    with ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "mozoo = mozoo.commands.main:main" in archive.read(entries).decode()
    there = {
        path.relative_to(tree).as_posix() for name in PACKAGES for path in (tree / name).rglob("*") if path.is_file()
    }
    assert found == there | {"train.py"}
    for name in (
        "configs/balancer/sum.yaml",
        "zoo/weights/shared_trunk.diamonds/best/model.safetensors",
        "mozoo/py.typed",
    ):
        assert name in found


@pytest.mark.slow
def test_an_installed_wheel_trains_predicts_and_compares_away_from_the_clone(wheel, tmp_path):
    mozoo = environment(tmp_path / "environment", wheel) / "mozoo"
    place = tmp_path / "elsewhere"
    place.mkdir()
    short = ("trainer.max_steps=5", "model.width=8", "trainer.device=cpu")
    run(mozoo, "train", *short, "run_dir=a", cwd=place)
    run(mozoo, "train", *short, "run_dir=b", "seed=1", "balancer=pcgrad", cwd=place)
    (place / "stones.csv").write_text(
        "carat,cut,color,clarity,depth,table,price,x,y,z\n0.23,Ideal,E,SI2,61.5,55,326,3.95,3.98,2.43\n"
    )
    assert "predictions in a" in run(mozoo, "predict", "run=a", "input=stones.csv", cwd=place)
    run(mozoo, "predict", "run=shared_trunk.diamonds", "input=stones.csv", cwd=place)
    assert "written to a" in run(mozoo, "evaluate", "run=a", "split=val", cwd=place)
    assert "comparison.html" in run(mozoo, "compare", "a", "b", cwd=place)
    assert "pcgrad" in run(mozoo, "list", "balancers", cwd=place)
    assert "example: mozoo train balancer=pcgrad" in run(mozoo, "info", "pcgrad", cwd=place)
    run(mozoo, "init", "project", cwd=place)
    run(mozoo, "train", "--config-dir", "configs", "model=own_net", "trainer.max_steps=5", cwd=place / "project")
    assert "did you mean train?" in run(mozoo, "trian", cwd=place, code=2)
    made = {path.name for path in place.iterdir()}
    assert made == {"a", "b", "stones.csv", "outputs", "comparison", "project"}
    python = mozoo.parent / "python"
    where = run(python, "-c", "import mozoo, train; print(mozoo.__file__, train.__file__)", cwd=place)
    assert all(str(tmp_path / "environment") in path for path in where.split())


@pytest.mark.slow
def test_an_editable_clone_called_mozoo_is_imported_from_the_folder_around_it(tree, tmp_path):
    """There the clone would be a namespace package, which Python prefers to what a finder of setuptools offers."""
    python = environment(tmp_path / "environment", "--no-build-isolation", "-e", tree) / "python"
    found = run(python, "-c", "import mozoo; print(mozoo.__file__, mozoo.list_models('esmm'))", cwd=tree.parent)
    assert found.split() == [str(tree / "mozoo" / "__init__.py"), "['esmm']"]


# ---- balancing alone -------------------------------------------------------------------------------------------------

#: Hides the packages that mozoo depends on, besides torch and what torch itself imports, and balances two losses.
ALONE = """
import sys
sys.modules.update(dict.fromkeys(%r))
import torch
from %s import create_balancer
balancer = create_balancer("mgda", ["a", "b"])
weight = torch.ones(2, requires_grad=True)
report = balancer.backward({"a": (weight[0] - 2) ** 2, "b": (weight.sum() + 1) ** 2})
assert report.weights.isfinite().all() and weight.grad.isfinite().all()
"""
HIDDEN = ["hydra", "omegaconf", "timm", "torchvision", "torchmetrics", "albumentations", "rich", "matplotlib"]
HIDDEN += ["safetensors", "huggingface_hub", "tensorboard", "cv2", "PIL", "yaml", "zoo", "tasks", "mozoo"]


def test_a_copy_of_balancing_needs_torch_alone(tmp_path):
    shutil.copytree(ROOT / "balancing", tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-c", ALONE % (HIDDEN, "mine"), cwd=tmp_path)


@pytest.mark.slow
def test_balancing_of_a_wheel_without_dependencies_needs_torch_alone(wheel, tmp_path):
    python = environment(tmp_path / "environment", wheel) / "python"
    hidden = [name for name in HIDDEN if name not in ("zoo", "tasks", "mozoo")]
    run(python, "-c", ALONE % (hidden, "balancing"), cwd=tmp_path)
