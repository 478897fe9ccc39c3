"""A run folder from elsewhere runs no code, and one process at a time writes a folder."""

import json
import os
import sys

import pytest

import mozoo
import train
from mozoo import tools
from mozoo.config import merged_files
from mozoo.prediction import load_predictor
from mozoo.resuming import only_writer, sweep
from mozoo.run_evaluation import evaluation_config
from mozoo.trust import check_modules, check_plain
from tests import forks

SHORT = ("trainer.device=cpu", "trainer.epochs=1", "trainer.max_steps=3", "logger.tensorboard=false", "seed=1")


def call(script, *words, cwd, **environment):
    done = forks.run(script, *words, cwd=cwd, **environment)
    return done.returncode, done.stdout, done.stderr


HARMLESS = "import pathlib\npathlib.Path('was_imported').touch()\n"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A finished run whose configuration names a module."""
    place = tmp_path_factory.mktemp("foreign")
    (place / "harmless_module.py").write_text(HARMLESS)
    words = ("imports=[harmless_module]", "run_dir=run", *SHORT)
    code, out, err = call("train.py", *words, cwd=place, PYTHONPATH=str(place))
    assert (code, err) == (0, ""), out
    (place / "was_imported").unlink()
    return place


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("scripts/predict.py", ("run=run", "input=nothing.csv")),
        ("scripts/evaluate.py", ("run=run",)),
        ("train.py", ("resume=run", "trainer.epochs=2")),
    ],
)
def test_modules_of_a_run_are_imported_only_with_trust(foreign, script, words):
    code, _, err = call(script, *words, cwd=foreign, PYTHONPATH=str(foreign))
    assert code == 2
    assert err.count("\n") == 1
    assert "asks to import harmless_module" in err
    assert "trust=true" in err
    assert not (foreign / "was_imported").exists()
    _, _, err = call(script, *words, "trust=true", cwd=foreign, PYTHONPATH=str(foreign))
    assert "trust" not in err
    assert (foreign / "was_imported").exists()
    (foreign / "was_imported").unlink()


def test_a_module_that_the_user_names_needs_no_trust(foreign):
    words = ("resume=run", "imports=[harmless_module]")
    code, out, err = call("train.py", *words, cwd=foreign, PYTHONPATH=str(foreign))
    assert (code, err) == (0, ""), out
    (foreign / "was_imported").unlink()


def test_compare_imports_nothing(foreign):
    code, _, err = call("scripts/compare.py", "run", cwd=foreign, PYTHONPATH=str(foreign))
    assert (code, err) == (0, "")
    assert not (foreign / "was_imported").exists()


def test_weights_alone_need_trust_as_well(foreign, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(foreign)])
    with pytest.raises(mozoo.ConfigError, match=r"asks to import harmless_module.*trust=true"):
        load_predictor(foreign / "run" / "best")


@pytest.mark.parametrize("modules", ["os", None, [1], {"a": 1}])
def test_imports_that_are_no_list_of_names_are_refused(tmp_path, modules):
    with pytest.raises(mozoo.ConfigError, match="must be a list of names"):
        check_modules(tmp_path, modules, trust=True)


def test_a_saved_configuration_looks_nothing_up(tmp_path):
    check_plain(tmp_path, {"model": {"widths": [1, 2], "name": "a"}, "seed": 1})
    for content in ({"data_dir": "${oc.env:HOME}"}, {"model": {"names": ["a", {"b": "${seed}"}]}}):
        with pytest.raises(mozoo.ConfigError, match="plain values only"):
            check_plain(tmp_path, content)
    (tmp_path / "config.yaml").write_text("data_dir: ${oc.env:HOME}\nmodel: {name: shared_trunk}\n")
    with pytest.raises(mozoo.ConfigError, match=r"data_dir is '\$\{oc.env:HOME\}'"):
        evaluation_config(tmp_path, {})


CALLBACKS = "hydra:\n  callbacks:\n    mine:\n      _target_: harmless_module.Callback\n"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("config.yaml", CALLBACKS, "callbacks"),
        ("hydra/callbacks/mine.yaml", "mine:\n  _target_: harmless_module.Callback\n", "_target_"),
        ("other.yml", "hydra: {job_logging: {handlers: {a: {class: harmless_module.Handler}}}}", "class"),
        ("config.yaml", "hydra: {searchpath: [pkg://harmless_module]}", "searchpath"),
    ],
)
def test_configuration_from_elsewhere_names_no_code_of_hydra(tmp_path, name, text, found):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    for words in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path), "seed=1"]):
        with pytest.raises(mozoo.ConfigError, match=f"has hydra's {found}, which runs code; .*trust=true"):
            tools.check_command(words)
        tools.check_command([*words, "trust=true"])


def test_configuration_of_a_run_passes(foreign):
    tools.check_command(["--config-dir", str(foreign / "run"), "--config-name", "config"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "twice"),
        ("a:\n\tb: 1\n", "damaged"),
        ("a: *nosuch\n", "alias"),
        ("a: &x [1]\nb: *x\n", "alias"),
        ("a: !!python/object/apply:os.system ['true']\n", "constructor"),
        ("[" * 5000, "damaged"),
        ("\x00\x01", "damaged"),
    ],
)
def test_odd_yaml_of_a_run_is_one_message(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(mozoo.ConfigError, match=message) as caught:
        evaluation_config(tmp_path, {})
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="locks of folders are POSIX's")
def test_a_folder_has_one_writer_until_it_is_released(tmp_path):
    with only_writer(tmp_path):
        with pytest.raises(mozoo.ConfigError, match="another process trains there"), only_writer(tmp_path):
            pass
        config = mozoo.compose([f"resume='{tmp_path}'"])
        with pytest.raises(mozoo.ConfigError, match="another process trains there"):
            train.run(config)
    with only_writer(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="locks of folders are POSIX's")
def test_of_two_runs_in_one_folder_one_starts(tmp_path):
    started = [forks.start("train.py", "run_dir=run", *SHORT, f"seed={k}", cwd=tmp_path) for k in (1, 2)]
    ends = [(process.communicate(timeout=120), process.returncode) for process in started]
    codes = sorted(code for _, code in ends)
    assert codes == [0, 2], ends
    winner = next(k for k, (_, code) in zip((1, 2), ends, strict=True) if code == 0)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seed"] == winner


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trust=no"], "trust must be true or false, got 'no'"),
        (["imports=a_harmless_module"], "imports must be a list"),
        (["imports=null"], "imports must be a list"),
        (["imports=[harmless_module,other]"], "which does not import other; leave it out"),
        (["resume=[a,b]"], r"resume needs the folder of one run, got \['a', 'b'\]"),
        (["resume=3"], "there is no 3/last.pt"),
    ],
)
def test_words_beside_resume_have_their_types(foreign, words, message):
    words = [*([] if words[0].startswith("resume") else [f"resume={foreign / 'run'}"]), *words]
    composed = merged_files(words)
    with pytest.raises(mozoo.ConfigError, match=message):
        tools.resumed_config(composed, words)


def test_a_limit_can_be_lifted(foreign):
    words = [f"resume={foreign / 'run'}", "trust=true", "trainer.max_steps=null", "trainer.epochs=2"]
    trainer = tools.resumed_config(merged_files(words), words).trainer
    assert (trainer.max_steps, trainer.epochs) == (None, 2)


def test_half_written_files_of_a_killed_run_are_swept(tmp_path):
    (tmp_path / "best").mkdir()
    for name in ("last.pt.part", "best/model.safetensors.part", "last.pt", "best/model.safetensors"):
        (tmp_path / name).write_text("")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["last.pt", "model.safetensors"]


@pytest.mark.parametrize("word", ["resume=", "resume=''"])
def test_resume_without_a_folder_is_an_error(tmp_path, word):
    code, _, err = call("train.py", word, cwd=tmp_path)
    assert (code, err) == (2, "error: resume needs the folder of a run: resume=outputs/...\n")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.skipif(os.name != "posix", reason="a closed pipe")
def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path):
    process = forks.start("train.py", "run_dir=run", *SHORT, cwd=tmp_path)
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
