"""A run knows its classes, scales, split and table: other tables are tested with them, a changed one is refused."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch

import train
from mozoo import tools
from scripts import evaluate
from tasks import DataError, create_task
from tests.tasks import test_office
from tests.tiny_runs import finished

TABLES = {"table": "stones.csv", "images": "labels.csv"}


@pytest.fixture(params=TABLES)
def kind(request):
    return request.param


@pytest.fixture
def run(kind, tmp_path_factory):
    return finished(kind, tmp_path_factory)


@contextmanager
def edited(path, change):
    """The table with other lines, for a while, as other tests have the same run."""
    text = path.read_text()
    try:
        path.write_text("\n".join(change(text.splitlines())) + "\n")
        yield
    finally:
        path.write_text(text)


def resume(run):
    content = tools.load_checkpoint(run / "last.pt")["config"]
    composed = tools.saved_config(content)
    composed.resume = str(run)
    return train.run(tools.validate(composed))


def metrics(path):
    return json.loads(path.read_text())["metrics"]


CHANGES = {
    "a line more": lambda lines: [*lines, lines[-1].replace("6", "8").replace("23", "22")],
    "a line less": lambda lines: lines[:-1],
    "another order": lambda lines: [lines[0], *reversed(lines[1:])],
    "a class renamed": lambda lines: [line.replace("green", "q").replace("Ideal", "Fair") for line in lines],
    "numbers in another unit": lambda lines: [lines[0], *(line.replace(",1", ",2") for line in lines[1:])],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_that_has_changed_is_refused_with_the_difference(run, kind, capsys, change):
    with edited(run.parent / "data" / TABLES[kind], CHANGES[change]):
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        with pytest.raises(DataError, match=r"\.csv has changed since training \(\d+ rows (then, \d+ now|as before): "):
            resume(run)
        with pytest.raises(SystemExit) as ended:
            evaluate.main([f"run={run}"])
        assert ended.value.code == 2
        assert "task.csv=... tests on another table" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_columns_that_training_does_not_need_may_change(run, kind, tmp_path):
    def extend(lines):
        return [f"{lines[0]},remark", *(f"{line},{i}" for i, line in enumerate(lines[1:]))]

    copy = shutil.copytree(run, tmp_path / "run")
    with edited(run.parent / "data" / TABLES[kind], extend):
        evaluate.main([f"run={copy}"])
    assert metrics(copy / "evaluation-test.json") == metrics(run / "summary.json")


def test_another_table_is_tested_with_all_its_rows(tmp_path_factory, tmp_path):
    run = finished("images", tmp_path_factory)
    data, copy = run.parent / "data", shutil.copytree(run, tmp_path / "run")
    shutil.copytree(data / "test", tmp_path / "test")
    lines = (data / "labels.csv").read_text().splitlines()
    kept = [lines[0], *(line for line in lines if ",test," in line)]
    other = tmp_path / "other.csv"  # no column split, and a class of training is not in it
    other.write_text(
        "\n".join(line.replace(",test", "").replace(",split", "").replace("blue", "") for line in kept) + "\n"
    )
    evaluate.main([f"run={copy}", f"task.csv={other}"])
    found = json.loads((copy / "evaluation-other.json").read_text())
    assert found["table"] == str(other)
    tested = metrics(run / "summary.json")
    for name in ("test/weight/mae", "test/weight/loss"):
        assert found["metrics"][name] == pytest.approx(tested[name], rel=1e-5)
    other.write_text(other.read_text().replace("red", "pink"))
    with pytest.raises(
        DataError, match=r"other\.csv, line \d: species is 'pink', which is none of .*: blue, green, red"
    ):
        task_of(run).labelled(other)


def task_of(run):
    content = json.loads((run / "best/config.json").read_text())
    task = create_task(**content["task"])
    task.load_state_dict(content["learnt"])
    return task


def test_other_stones_are_scaled_as_in_training(tmp_path_factory, tmp_path):
    run = finished("table", tmp_path_factory)
    stones = run.parent / "data/stones.csv"
    (tmp_path / "few.csv").write_text("\n".join(stones.read_text().splitlines()[:31]) + "\n")
    task = task_of(run)
    few, own = task.labelled(tmp_path / "few.csv"), task.preprocess(tmp_path / "few.csv")
    assert len(few.train) == len(few.val) == len(few.test) == 30
    assert torch.equal(few.test.inputs[0], own.inputs[0])
    dollars = task.objectives[1].inverse_transform(few.test.targets["price"])
    assert dollars[0].item() == pytest.approx(326, rel=1e-4)


def test_the_same_table_in_another_place_has_the_same_split(run, kind, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    data = shutil.copytree(run.parent / "data", tmp_path / "moved")
    evaluate.main([f"run={copy}", f"task.csv={data / TABLES[kind]}"])
    (written,) = copy.glob("evaluation-*.json")
    assert metrics(written) == metrics(run / "summary.json")


def test_runs_of_earlier_versions_go_on(run, kind, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    described = json.loads((copy / "best/config.json").read_text())
    del described["learnt"]["table"]
    (copy / "best/config.json").write_text(json.dumps(described))
    saved = torch.load(copy / "last.pt", weights_only=True)
    del saved["task"]
    torch.save(saved, copy / "last.pt")
    evaluate.main([f"run={copy}"])
    assert metrics(copy / "evaluation-test.json") == metrics(run / "summary.json")
    assert resume(copy)["metrics"] == metrics(run / "summary.json")


def test_tables_that_only_one_task_can_change_are_refused_by_others(tmp_path_factory, capsys):
    run = finished("points", tmp_path_factory)
    with pytest.raises(SystemExit) as ended:
        evaluate.main([f"run={run}", "task.csv=other.csv"])
    assert ended.value.code == 2
    assert "task ring_of_gaussians has no table to change for another; leave task.csv out" in capsys.readouterr().err


def test_folders_of_classes_that_have_other_names_now_are_named(tmp_path):
    root = test_office.build(tmp_path)
    before = create_task("office", image_size=8)
    before.splits(root)
    state = before.state_dict()
    after = create_task("office", image_size=8)
    after.load_state_dict(state | {"classes": ["monitor", *state["classes"][1:]]})
    with pytest.raises(DataError, match="has changed since training: class 0 was monitor, and is "):
        after.splits(root)
