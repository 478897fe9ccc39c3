"""Damaged files of a run folder: predict, evaluate, resume and compare answer with one message, and write nothing."""

import json
import os
import random
import re
import shutil

import pytest
import torch

import mozoo
import train
from mozoo import tools
from mozoo.comparison.runs import ComparisonError, find_runs
from mozoo.config import merged_files
from mozoo.fine_tuning import initialize
from mozoo.prediction import load_predictor
from mozoo.run_evaluation import evaluate_run
from scripts import evaluate, predict
from tasks import DataError, create_task
from zoo import create_model

OBJECTIVES = {"churn": "classes", "spend": "number"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on a table, with categories, in a folder with the table."""
    place = tmp_path_factory.mktemp("finished")
    draw = random.Random(0)
    ages = [draw.randint(18, 80) for _ in range(80)]
    rows = [f"{a},{draw.choice('abc')},{draw.choice('ns')},{'yes' if a > 50 else 'no'},{3 * a}" for a in ages]
    (place / "t.csv").write_text("age,city,zone,churn,spend\n" + "\n".join(rows) + "\n")
    words = ["task=table", f"task.csv={place / 't.csv'}", "task.objectives={churn: classes, spend: number}"]
    short = ["model.width=4", "trainer.max_steps=2", "trainer.device=cpu", "logger.tensorboard=false"]
    train.run(mozoo.compose([*words, *short, f"run_dir={place / 'run'}", f"data_dir={place}"]))
    return place


@pytest.fixture
def place(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "place")


def described(change):
    """What changes ``best/config.json``."""

    def damage(run):
        path = run / "best" / "config.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def written(text, name="best/config.json"):
    """What replaces a file."""
    return lambda run: (run / name).write_bytes(text)


def saved(change):
    """What changes ``last.pt``."""

    def damage(run):
        content = torch.load(run / "last.pt", weights_only=True)
        change(content)
        torch.save(content, run / "last.pt")

    return damage


def told(capsys, main, *words):
    """The message of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1), error
    return error


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (written(b""), "config.json.* is damaged: JSONDecodeError"),
        (written(b"\xff\xfe"), "config.json.* is damaged: UnicodeDecodeError"),
        (written(b"[]"), "config.json.* is damaged: TypeError"),
        (described(lambda content: content.pop("learnt")), "config.json.* is damaged: KeyError"),
        (described(lambda content: content.update(learnt=[1])), "data is damaged: TypeError"),
        (written(b"\xff\xfe", "config.yaml"), "config.yaml is damaged"),
        (written(b"hello", "config.yaml"), "config.yaml is damaged"),
        (written(b"\xff\xfe", "best/model.safetensors"), "best cannot be loaded"),
    ],
)
def test_an_evaluation_names_what_is_damaged(place, capsys, damage, message):
    damage(place / "run")
    assert re.search(message, told(capsys, evaluate.main, f"run={place / 'run'}"))
    assert not [*place.glob("run/evaluation*")]


@pytest.mark.parametrize("inputs", [lambda known: known[:1], lambda known: [known[0], *known[:0:-1]]])
def test_inputs_that_contradict_the_model_are_refused(place, capsys, inputs):
    described(lambda content: content["learnt"].update(inputs=inputs(content["learnt"]["inputs"])))(place / "run")
    words = (f"run={place / 'run'}", f"input={place / 't.csv'}", f"output={place / 'found'}")
    assert "and the inputs are prepared for" in told(capsys, predict.main, *words)
    assert not (place / "found").exists()


@pytest.mark.parametrize(
    "damage",
    [
        saved(lambda content: content.update(config=[1])),
        saved(lambda content: content.update(config=None)),
        saved(lambda content: content["config"].pop("trainer")),
        saved(lambda content: content.update(task=[1])),
        saved(lambda content: content["task"].pop("labels")),
        saved(lambda content: content["state"].update(sums={"train": "x"})),
        written(b"\xff\xfe", "metrics.csv"),
    ],
)
def test_a_resumed_run_names_what_is_damaged(place, damage):
    damage(place / "run")
    words = [f"resume={place / 'run'}"]

    def resume():
        train.run(tools.validate(tools.resumed_config(merged_files(words), words)))

    with pytest.raises(mozoo.ConfigError, match=r"not a checkpoint|is damaged|does not fit"):
        resume()


@pytest.mark.parametrize("table", [[1], {"x": 1}, {"rows": -1, "size": 1, "columns": {}, "blocks": []}, None, "x"])
def test_a_damaged_fingerprint_of_the_table_is_told(place, table):
    described(lambda content: content["learnt"].update(table=table))(place / "run")
    saved(lambda content: content["task"].update(table=table))(place / "run")
    for name in ("resume", "evaluate"):
        with pytest.raises((mozoo.ConfigError, DataError), match=r"is damaged.*restore its folder"):
            answers(place, place / "run")[name]()


def test_a_folder_cannot_trust_itself(place, monkeypatch):
    folder = place / "run"
    described(lambda content: content.update(imports=["harmless_module"]))(folder)
    (place / "harmless_module.py").write_text(f"open({str(place / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(str(place))
    text = (folder / "config.yaml").read_text()
    assert "init: null" in text
    assert "trust: false" in text
    (folder / "config.yaml").write_text(
        text.replace("init: null", f"init: {folder}").replace("trust: false", "trust: true")
    )
    evaluate_run(train.build, str(folder))
    assert (folder / "evaluation-test.json").is_file()
    assert not (place / "imported").exists()


def test_an_evaluation_needs_no_weights_that_training_began_with(place):
    text = (place / "run/config.yaml").read_text()
    (place / "run/config.yaml").write_text(text.replace("init: null", "init: gone"))
    evaluate_run(train.build, str(place / "run"))


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"{"])
def test_weights_with_a_damaged_description_are_refused(place, text):
    (place / "run/best/config.json").write_bytes(text)
    task = create_task("table", csv=str(place / "t.csv"), objectives=OBJECTIVES)
    splits = task.splits()
    model = create_model("shared_trunk", in_features=1, categories=task.info["categories"], classifiers={"churn": 2}, regressors={"spend": 1}, width=4)  # fmt: skip
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(mozoo.ConfigError, match=r"config.json is damaged .*; restore it, or remove it"):
        initialize(model, str(place / "run"), task, splits)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


FILES = ("config.yaml", "summary.json", "metrics.csv", "balance.csv", "last.pt", "best/config.json")


def answers(place, run):
    """What each command that reads a run folder does."""
    words = [f"resume={run}"]
    return {
        "resume": lambda: train.run(tools.validate(tools.resumed_config(merged_files(words), words))),
        "predict": lambda: load_predictor(run),
        "evaluate": lambda: evaluate_run(train.build, str(run)),
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX systems")
@pytest.mark.parametrize("name", FILES)
def test_no_command_opens_a_pipe(place, name):
    (place / "run" / name).unlink()
    os.mkfifo(place / "run" / name)
    for answer in answers(place, place / "run").values():
        with pytest.raises(mozoo.ConfigError, match=r"is a pipe or a device"):
            answer()
    if name in ("config.yaml", "summary.json"):
        with pytest.raises(ComparisonError, match="a pipe or a device"):
            find_runs([str(place / "run")])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", b"\xff\xfe"),
        ("balance.csv", b"step,epoch\nx,1\n"),
        ("metrics.csv", b"a,b\n1,2\n"),
        ("best/model.safetensors", None),
    ],
)
def test_a_resume_that_is_refused_writes_nothing(place, name, content):
    run, words = place / "run", [f"resume={place / 'run'}", "trainer.max_steps=4", "trainer.epochs=4"]
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def resume():
        train.run(tools.validate(tools.resumed_config(merged_files(words), words)))

    with pytest.raises(mozoo.ConfigError):
        resume()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_damaged_description_of_the_weights_is_written_again(place):
    (place / "run/best/config.json").write_bytes(b"\xff\xfe")
    answers(place, place / "run")["resume"]()


@pytest.mark.parametrize("name", ["null", "3", "[a]"])
def test_a_name_that_is_none_is_told(name):
    with pytest.raises(mozoo.ConfigError, match=r"task.name must be a name, got"):
        mozoo.compose([f"task.name={name}"])
