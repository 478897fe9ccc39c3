"""import mozoo: few names, each documented; load finds the class; a user's files of our names are told, never imported."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mozoo
from mozoo import environment
from mozoo.shadows import check_packages
from tests.zoo.tiny import tiny
from zoo.pretrained import FOLDER
from zoo.shared_trunk import SharedTrunk

ROOT = Path(__file__).resolve().parent.parent


def test_public_names_are_few_and_documented():
    assert dir(mozoo) == sorted(mozoo.__all__)
    assert len(mozoo.__all__) < 16
    page = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    assert [name for name in mozoo.__all__ if f"`mozoo.{name}" not in page] == []
    assert all(getattr(mozoo, name).__doc__ for name in mozoo.__all__)


# ---- load ------------------------------------------------------------------------------------------------------------


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_load_takes_a_run_its_best_folder_and_a_name(tmp_path):
    run = Path(shutil.copytree(FOLDER / "shared_trunk.diamonds", tmp_path / "run"))
    model, other = mozoo.load(run), mozoo.load(str(run / "best"))
    assert isinstance(model, SharedTrunk)
    assert not model.training
    assert same(model, other)
    assert same(model, SharedTrunk.from_pretrained(run / "best"))
    assert same(mozoo.load("shared_trunk.diamonds"), mozoo.create_model("shared_trunk", pretrained="diamonds"))


def test_a_predictor_needs_the_task_that_save_pretrained_does_not_write(tmp_path):
    mozoo.create_model("shared_trunk", **tiny("shared_trunk").arguments).save_pretrained(tmp_path)
    with pytest.raises(mozoo.ConfigError, match=r"a network without its task.*predictions need best/ of a run"):
        mozoo.load_predictor(tmp_path)


def test_load_takes_what_save_pretrained_wrote(tmp_path):
    """Also of a class that is registered under the names of its variants alone."""
    for name in ("shared_trunk", "dual_sum"):
        model = mozoo.create_model(name, **tiny(name).arguments)
        model.save_pretrained(tmp_path / name)
        loaded = mozoo.load(tmp_path / name)
        assert type(loaded) is type(model)
        assert same(loaded, model)


def test_what_load_cannot_load_is_one_message(tmp_path):
    with pytest.raises(mozoo.ConfigError, match="there is no folder nowhere"):
        mozoo.load("nowhere")
    model = mozoo.create_model("shared_trunk", **tiny("shared_trunk").arguments)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("SharedTrunk", "Nothing"))
    with pytest.raises(mozoo.ConfigError, match=r"load it by its class, as in SharedTrunk.from_pretrained"):
        mozoo.load(tmp_path)


def test_load_runs_no_code_of_a_folder(tmp_path):
    model = mozoo.create_model("shared_trunk", **tiny("shared_trunk").arguments)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("{", '{"imports": ["harmless_module"],', 1))
    with pytest.raises(mozoo.ConfigError, match=r"asks to import harmless_module.*trust=true"):
        mozoo.load(tmp_path)


# ---- files of a user with our names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["balancing", "zoo", "tasks", "train"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_file_in_place_of_a_package_is_named(tmp_path, monkeypatch, name, folder):
    own = tmp_path / name if folder else tmp_path / f"{name}.py"
    if folder:
        own.mkdir()
        (own / "__init__.py").touch()
    else:
        own.write_text("raise AssertionError('a user's file was carried out')")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ImportError, match=rf"^mozoo needs its own '{name}', and Python finds {own} in its place; rename"
    ):
        check_packages(name)


def test_a_folder_that_is_no_package_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    monkeypatch.delitem(sys.modules, "tasks")
    monkeypatch.syspath_prepend(tmp_path)
    check_packages("tasks")
    assert Path(importlib.util.find_spec("tasks").origin).parent == ROOT / "tasks"


def test_a_package_that_is_gone_is_said(tmp_path, monkeypatch):
    with pytest.raises(ImportError, match=r"mozoo needs 'no_such_package'.*install mozoo again"):
        check_packages("no_such_package")


@pytest.mark.parametrize("name", ["tasks", "balancing"])
def test_import_beside_a_file_of_that_name_ends_with_the_message(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("MINE = 1\n")
    (tmp_path / "script.py").write_text("import mozoo\n")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: mozoo needs its own '{name}', and Python finds {tmp_path / name}.py")
    assert "train" not in done.stderr  # nothing else was imported


def test_a_predictor_takes_a_path_as_text(stones):
    predictor = mozoo.load_predictor("shared_trunk.diamonds", "cpu")
    assert predictor.predict(str(stones)).cells == predictor.predict(Path(stones)).cells


def test_an_installed_package_has_no_commit_of_a_repository_around_it(tmp_path, monkeypatch):
    for words in ("init -q .", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True)
    package = tmp_path / "environment" / "mozoo"
    package.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    assert environment.git_commit() is None
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "mozoo" / "environment.py"))
    assert environment.git_commit()
