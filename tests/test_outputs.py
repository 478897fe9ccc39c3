"""No output is lost or falsified: what predictions replace, names as they are, workers that end, runs that were resumed."""

import json
import stat

import numpy as np
import pytest
import torch
from PIL import Image

import mozoo
import train
from mozoo import environment, tools
from mozoo.config import merged_files
from mozoo.data import training_batches
from mozoo.inference import Written, input_files, write_predictions, write_samples
from mozoo.progress import Display
from mozoo.tracking import Table
from mozoo.visible import printable
from tasks import Prediction
from tests.tiny_runs import SHORT

NAMES = ("cost [$]", "[bold]x[/bold]", ":smile:", "=1+2", "@SUM(A1)", "a\x1b[31mred", "$x$")


def mapped(shape=(4, 6)):
    maps = {"depth": np.zeros((1, *shape), np.float32)}
    return Prediction({}, maps, {"depth": np.zeros((1, *shape, 3), np.uint8)})


def test_a_prediction_replaces_no_file_of_the_user(tmp_path):
    for name in ("a.png", "a-depth.png"):
        Image.new("RGB", (6, 4), "red").save(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    files, _ = input_files(tmp_path, Written(tmp_path))
    with pytest.raises(
        mozoo.ConfigError, match=r"a-depth\.png is there already, and not in the list of predictions, .*remove it, or"
    ):
        write_predictions(tmp_path, tmp_path, [(file, mapped()) for file in files], False, files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "samples.png").touch()
    with pytest.raises(mozoo.ConfigError, match=r"samples\.png is there already"):
        write_samples(tmp_path, torch.zeros(2, 1, 4, 4), [], own=False)


def test_predictions_are_replaced_and_are_no_inputs(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    for _ in range(2):
        files, _ = input_files(tmp_path, Written(tmp_path))
        assert [file.name for file in files] == ["a.png"]
        write_predictions(tmp_path, tmp_path, [(file, mapped()) for file in files], False, files)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".predictions", "a-depth.npy", "a-depth.png", "a.png"]


def test_a_folder_of_a_run_needs_no_list(tmp_path):
    source = tmp_path / "a.png"
    source.touch()
    for _ in range(2):
        write_predictions(tmp_path / "found", source, [(source, mapped())])
    assert not (tmp_path / "found" / ".predictions").exists()


def test_predictions_of_other_models_are_no_inputs(tmp_path):
    for name in ("a.png", "predictions/mine.png", "own/predictions/also_mine.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), "red").save(tmp_path / name)
    found, file = tmp_path / "found", tmp_path / "a.png"
    write_predictions(found, file, [(file, mapped())], False)
    for place in ("run", "download", "outputs/dense.rooms"):
        write_predictions(tmp_path / place / "predictions" / "a", file, [(file, mapped())])
    for place in ("run/best", "download"):
        for name in ("model.safetensors", "config.json"):
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / name).touch()
    pictures, others = input_files(tmp_path, Written(tmp_path / "elsewhere"))
    names = [path.relative_to(tmp_path).as_posix() for path in pictures]
    assert names == ["a.png", "own/predictions/also_mine.png", "predictions/mine.png"]
    assert {path.suffix for path in others} == {".safetensors", ".json"}
    assert [path.name for path in input_files(tmp_path / "run" / "predictions", ())[0]] == ["a-depth.png"]


def test_names_are_shown_as_they_are(capsys):
    with Display(0) as display:
        display.say(" ".join(NAMES))
        display.results(NAMES[1], {f"{name}/loss": 1.0 for name in NAMES})
    out = capsys.readouterr().out
    for name in NAMES[:5] + NAMES[6:]:
        assert out.count(name) >= 2
    assert "\x1b" not in out
    assert out.count(r"a\x1b[31mred") == 2


def test_control_characters_are_escaped():
    assert printable("a\x1b]0;x\x07\r\u202eb\tc\nä 山") == r"a\x1b]0;x\x07\r\u202eb" + "\tc\nä 山"
    assert printable("no\u00a0break\x85\udc80") == "no\u00a0break\\x85\\udc80"


def test_errors_move_no_cursor(capsys):
    with pytest.raises(SystemExit), tools.reporting():
        raise mozoo.ConfigError("there is no \x1b[2Jfile")
    assert capsys.readouterr().err == "error: there is no \\x1b[2Jfile\n"


def test_cells_of_a_table_are_what_they_were(tmp_path):
    source = tmp_path / "t.csv"
    source.touch()
    cells = {"class": list(NAMES)}
    write_predictions(tmp_path / "out", source, [(source, Prediction(cells, own={"name": list(NAMES)}))])
    text = (tmp_path / "out" / "predictions.csv").read_text()
    assert text.splitlines()[4] == "=1+2,=1+2"


def test_rows_are_on_the_disk_before_a_checkpoint_counts_on_them(stones, tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    done, sync = [], Table.sync
    monkeypatch.setattr(Table, "sync", lambda table: (done.append(table.path.name), sync(table)))
    monkeypatch.setattr(tools, "save_checkpoint", lambda path, state: done.append(path.name))
    train.run(
        mozoo.compose([*SHORT, f"task.csv={stones}", "model.width=4", "model.depth=1", f"run_dir={tmp_path / 'run'}"])
    )
    assert done == ["metrics.csv", "balance.csv", "last.pt"]
    done.clear()
    table = Table(tmp_path / "a.csv", ["x"], lambda row: True)
    monkeypatch.setattr("mozoo.tracking.os.fsync", lambda number: done.append(number == table._file.fileno()))
    table.sync()
    assert done == ["a.csv", True]


def test_all_files_of_a_run_have_the_mode_that_the_user_chose(stones, tmp_path):
    train.run(
        mozoo.compose([*SHORT, f"task.csv={stones}", "model.width=4", "model.depth=1", f"run_dir={tmp_path / 'run'}"])
    )
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "plain").touch()
    assert modes == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}


DEAD = "DataLoader worker (pid 123) is killed by signal: Killed."


class Broken(torch.utils.data.Dataset):
    """A data set whose worker ends, or finds no room."""

    def __init__(self, message):
        self.message = message

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    "message",
    [
        DEAD,
        "unable to write to file </torch_1_2>: No space left on device (28) in shared memory",
    ],
)
def test_a_dead_worker_is_one_line(message, capsys):
    batches = training_batches(Broken(message), 2, 0, 0, 0, torch.device("cpu"), 0)
    with pytest.raises(SystemExit) as ended, tools.reporting():
        next(batches)
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (1, 1)
    assert "a loader process ended or found no room" in error


def test_a_run_whose_worker_dies_says_how_to_go_on(stones, tmp_path, monkeypatch):
    words = [
        *SHORT,
        f"task.csv={stones}",
        "model.width=4",
        "model.depth=1",
        "trainer.save_every=2",
        f"run_dir={tmp_path / 'run'}",
    ]
    step = train.train_step

    def failing(run, batch):
        if run.state.step == 4:
            next(training_batches(Broken(DEAD), 2, 0, 0, 0, torch.device("cpu"), 0))
        return step(run, batch)

    monkeypatch.setattr(train, "train_step", failing)
    with pytest.raises(RuntimeError, match=r"then go on with: python train.py resume="):
        train.run(mozoo.compose(words))


def test_other_errors_of_data_keep_their_traceback():
    with pytest.raises(RuntimeError, match=r"^something else$"):
        next(training_batches(Broken("something else"), 2, 0, 0, 0, torch.device("cpu"), 0))


def test_a_resumed_run_says_what_has_changed(stones, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    words = [
        *SHORT,
        f"task.csv={stones}",
        "model.width=4",
        "model.depth=1",
        "trainer.epochs=1",
        f"run_dir={tmp_path / 'run'}",
    ]
    before, now = {"versions": {"torch": "1.0"}, "commit": "abc", "threads": 1}, {"versions": {"torch": "2.0"}}
    monkeypatch.setattr("mozoo.run.environment", lambda: before)
    train.run(mozoo.compose(words))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "environments" not in summary

    def resume():
        again = [f"resume={tmp_path / 'run'}"]
        capsys.readouterr()
        train.run(tools.validate(tools.resumed_config(merged_files(again), again)))
        return " ".join(capsys.readouterr().out.split())

    assert "changed since" not in resume()
    monkeypatch.setattr("mozoo.run.environment", lambda: {**now, "commit": "def", "threads": 1})
    assert "changed since step 6: torch 1.0 then, 2.0 now, commit abc then, def now" in resume()
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert "resumed after step 6 with torch 1.0 before and 2.0 after, commit abc before and def after" in card


def test_differences_of_environments_are_named():
    mine = environment.environment()
    assert environment.differences(mine, mine) == {}
    other = {"versions": {**mine["versions"], "torch": "0"}, "commit": "x", "threads": mine["threads"]}
    assert environment.differences(mine, other) == {
        "torch": (mine["versions"]["torch"], "0"),
        "commit": (mine["commit"], "x"),
    }
