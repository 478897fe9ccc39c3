"""The command mozoo: what its first word chooses, lists, descriptions, and a project that trains at once."""

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import balancing
import tasks
import zoo
from mozoo.commands import info, init
from mozoo.commands import list as listing
from mozoo.commands import main as entry
from mozoo.commands.entries import KINDS
from mozoo.hydra_help import mend_help
from mozoo.program import program
from tests import forks

ROOT = Path(__file__).resolve().parent.parent


def mozoo(*words, **options):
    return forks.run("mozoo/__main__.py", *words, **options)


def refused(capsys, command, *words):
    """The one line on standard error with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# ---- the first word --------------------------------------------------------------------------------------------------


def test_without_a_word_the_commands_are_listed(capsys):
    entry.main([])
    entry.main(["--help"])
    entry.main(["help"])
    helped = entry.__doc__.strip()
    assert [name for name in entry.COMMANDS if f"mozoo {name} " not in helped] == []
    assert capsys.readouterr().out == 3 * f"{helped}\n"


def test_a_misspelled_command_is_answered_with_the_nearest(capsys):
    assert refused(capsys, entry, "trian") == "error: mozoo has no command 'trian'; did you mean train?"


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_every_command_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["mozoo", name, "--help"])
    with suppress(SystemExit):  # argparse and hydra end the process
        entry.main()
    shown, problems = capsys.readouterr()
    assert problems == ""
    assert len(shown.splitlines()) >= 3
    assert "python scripts/" not in shown
    assert f"mozoo {name}" in shown or name == "train"


def test_a_training_away_from_the_clone_writes_below_the_current_folder(tmp_path, stones):
    """And a user's own train.py there is neither run nor in the way; messages and records name the command."""
    (tmp_path / "train.py").write_text("raise AssertionError")
    words = (
        f"task.csv={stones}",
        "trainer.max_steps=2",
        "model.width=4",
        "trainer.device=cpu",
        "logger.tensorboard=false",
    )
    done = mozoo("train", *words, "run_dir=run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["command"].startswith("mozoo train task.csv=")
    again = mozoo("train", *words, "run_dir=run", cwd=tmp_path)
    assert again.returncode == 2
    assert "continue its run with: mozoo train resume=run" in again.stderr
    assert mozoo("predict", "run=nowhere", cwd=tmp_path).returncode == 2


def test_a_shell_completes_commands_and_options_of_train(tmp_path):
    assert mozoo("-sc", "query=bash", cwd=tmp_path, COMP_LINE="mozoo tr").stdout.split() == [*entry.COMMANDS]
    done = mozoo("-sc", "query=bash", cwd=tmp_path, COMP_LINE="mozoo train balancer=pcg")
    assert done.stdout.split() == ["balancer=pcgrad"]


def test_own_modules_are_found_after_all_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    entry.find_own_modules()
    assert sys.path == ["/elsewhere", str(tmp_path)]


def test_commands_are_named_as_they_are_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mozoo evaluate", "run=x"])
    assert program("train") == "mozoo train"
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert [program("train"), program("predict")] == ["python train.py", "python scripts/predict.py"]
    monkeypatch.setattr("mozoo.program._CLONE", False)
    assert program("train") == "mozoo train"


# ---- list ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_a_table_and_for_a_program(kind, capsys):
    listing.main([kind, "json=true"])
    rows = json.loads(capsys.readouterr().out)
    registered = {"models": zoo.list_models, "balancers": balancing.list_balancers, "tasks": tasks.list_tasks}
    if kind in registered:
        assert [row["name"] for row in rows] == registered[kind]()
    assert all(row["description"] for row in rows)
    listing.main([kind])
    shown = capsys.readouterr().out
    assert [row["name"] for row in rows if row["name"] not in shown] == []


def test_list_shows_what_was_measured(capsys):
    listing.main(["models", "shared_trunk", "--json"])
    (model,) = json.loads(capsys.readouterr().out)
    trunk = zoo.create_model("shared_trunk", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
    assert model["parameters"] == sum(parameter.numel() for parameter in trunk.parameters())
    products = sum(p.numel() for p in trunk.parameters() if p.dim() == 2)  # one for each entry of a matrix
    assert model["operations"] == products
    assert 0.7 < model["results"]["cut accuracy"] < 0.9
    assert model["weights"] == ["shared_trunk.diamonds"]
    listing.main(["balancers", "mgda", "--json"])
    (balancer,) = json.loads(capsys.readouterr().out)
    assert 1 < balancer["time"] < 3
    assert sum(balancer["studies"].values()) >= 1


def test_list_chooses_by_a_glob_and_knows_models_of_a_user(capsys, monkeypatch):
    listing.main(["models", "dense_s*", "json=true"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == zoo.list_models("dense_s*")
    monkeypatch.setattr(zoo, "list_models", lambda *_, **__: ["esmm"])
    monkeypatch.setattr("mozoo.commands.entries.recorded", lambda group: {})
    listing.main(["models"])
    shown = capsys.readouterr().out
    assert "esmm" in shown
    assert "operations: multiply-accumulates for one sample; results: of the test split, means over seeds." in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modls"], "mozoo list has no 'modls'; did you mean models?"),
        (["models", "dens"], "there are no models 'dens'; did you mean dense"),
        (["models", "a", "b"], "mozoo list models takes one name with * in it, and json=true; got a b"),
        (["models", "--jsn"], "mozoo list models takes one name with * in it, and json=true; got --jsn"),
        (["json=true"], "mozoo list has no ''; choose from balancers, models"),
    ],
)
def test_list_refuses_in_one_line(capsys, words, message):
    assert refused(capsys, listing, *words).startswith(f"error: {message}")


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_describes_everything_that_is_listed():
    for kind, entries in KINDS.items():
        group = kind.removesuffix("s")
        for row in entries():
            shown = info.description(group, row)
            registered = group in ("model", "balancer", "task")
            assert shown.startswith(f"{row['name']} ({group})")
            assert "options, " in shown
            assert shown.endswith(f" {group}={row['name']}" if registered else f" {group}.name={row['name']}")
            assert ("source: " in shown) is registered


def test_info_has_options_with_defaults_and_their_meaning(capsys):
    info.main(["cagrad"])
    shown = capsys.readouterr().out
    assert "c: 0.4                 # radius of the ball" in shown
    assert "update_every: 1 " in shown
    assert "Liu et al." in shown
    assert "source: balancing/gradients/cagrad.py" in shown


def test_info_refuses_in_one_line(capsys):
    assert refused(capsys, info, "pcgrd").startswith("error: there is nothing named 'pcgrd'; did you mean pcgrad")
    weights = "error: shared_trunk.diamonds are trained weights; mozoo info shared_trunk describes their model"
    assert refused(capsys, info, "shared_trunk.diamonds") == weights
    assert refused(capsys, info, "pcgrad", "mgda") == "error: mozoo info takes one name, got pcgrad mgda"
    far = refused(capsys, info, "zzzz")
    assert far.startswith("error: there is nothing named 'zzzz'; mozoo list models | balancers")
    assert len(far) < 200, "hundreds of names"
    assert "cannot import 'no_such_module'" in refused(capsys, info, "zzzz", "imports=[no_such_module]")


def test_a_narrow_terminal_leaves_out_columns_rather_than_breaking_words():
    for kind, entries in KINDS.items():
        rows = entries()
        (shown, left_out), (every, none) = (listing.columns(rows, width) for width in (80, 400))
        assert none == []
        assert {*shown, *left_out} == {*every}
        assert {"name", "description"} <= {*shown}
        assert bool(left_out) is (kind == "models")


# ---- init ------------------------------------------------------------------------------------------------------------


def test_a_new_project_trains_and_predicts_at_once(tmp_path, capsys):
    project = tmp_path / "my project"
    init.main([str(project)])
    told = capsys.readouterr().out
    words = told.split(" && mozoo ")[1].split()
    assert len((project / "README.md").read_text(encoding="utf-8").splitlines()) <= 6
    assert " ".join(words) in (project / "README.md").read_text(encoding="utf-8")
    short = ("trainer.epochs=2", "trainer.device=cpu", "logger.tensorboard=false", "run_dir=run")
    done = mozoo(*words, *short, cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((project / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["model"], summary["task"], summary["status"]) == ("own_net", "own", "finished")
    described = mozoo("info", "own_net", "imports=[own]", cwd=project).stdout
    assert described.startswith("own_net (model)")
    assert described.endswith("mozoo train --config-dir <folder of your configs> model=own_net\n")
    (project / "rows.csv").write_text("1,2,3,4\n0,0,1,-5\n")
    done = mozoo("predict", "run=run", "input=rows.csv", "trust=true", "device=cpu", cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert (project / "run/predictions/rows/predictions.csv").read_text().startswith("row,kind,kind_probability,amount")


def test_init_writes_into_no_folder_with_files(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert refused(capsys, init, str(tmp_path)) == f"error: {tmp_path} exists already; name a new folder"
    assert os.listdir(tmp_path) == ["mine"]
    assert "takes one folder" in refused(capsys, init, "a", "b")
    assert "cannot write to" in refused(capsys, init, str(tmp_path / "mine" / "below"))


# ---- hydra under Python 3.14 -----------------------------------------------------------------------------------------


@pytest.fixture
def checked_help(monkeypatch):
    """argparse as in Python 3.14: the help of an option is read when the option is added."""
    add = argparse._ActionsContainer.add_argument

    def check(parser, action):
        try:
            _ = action.help is None or "%" in action.help
        except TypeError as error:
            raise ValueError("badly formed help string") from error

    def add_argument(parser, *names, **options):
        action = add(parser, *names, **options)
        if isinstance(parser, argparse.ArgumentParser):
            parser._check_help(action)
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_argument)
    users = [sys.modules[name] for name in ("hydra._internal.utils", "hydra.main")]
    make = getattr(users[0].get_args_parser, "__wrapped__", users[0].get_args_parser)
    for module in users:
        monkeypatch.setattr(module, "get_args_parser", make)
    return users


def test_hydra_makes_its_parser_where_argparse_checks_help(checked_help):
    """For a run, and for the completion of a line by a shell."""
    with pytest.raises(ValueError, match="badly formed help string"):
        checked_help[0].get_args_parser()
    mend_help()
    mended = checked_help[0].get_args_parser
    assert [module.get_args_parser for module in checked_help] == [mended, mended]
    parser = mended()
    assert "Install or Uninstall shell completion:" in parser.format_help()
    assert parser.parse_args(["-m", "seed=1"]).multirun
    mend_help()
    assert checked_help[0].get_args_parser is mended
    with pytest.raises(ValueError, match="badly formed help string"):
        argparse.ArgumentParser().add_argument("--other", help=object())


@pytest.mark.skipif(hasattr(argparse.ArgumentParser, "_check_help"), reason="argparse checks help")
def test_hydra_is_left_alone_where_argparse_does_not_check():
    module = sys.modules["hydra._internal.utils"]
    before = module.get_args_parser
    mend_help()
    assert module.get_args_parser is before
