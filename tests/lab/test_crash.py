"""Runs that are killed, checkpoints that are damaged, folders that cannot be written: nothing is lost, and the message is clear."""

import errno
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import mozoo.data
import train
from lab.crash_trials import COMMON, Start, comparable, differences, last_line, log_of, run_trials, unequal
from tests.tiny_runs import maps

PER_EPOCH = 21  # full batches of 64 in the training split of ``stones``
SAVED = 24  # the last checkpoint before ``KILLED``
KILLED = 27  # in the middle of the second epoch


@pytest.fixture(scope="module")
def words(stones, tmp_path_factory):
    """Command lines of short runs, all with a running mean of the weights and a checkpoint every fourth step."""
    rooms = maps(tmp_path_factory.mktemp("rooms"))
    return {
        "table": (
            *COMMON,
            *("model.width=16", "model.norm=batch", "model.dropout=0.2", "balancer=famo", f"task.csv={stones}"),
            *("trainer.batch_size=64", "trainer.epochs=2"),
        ),
        "gan_points": (
            *(*COMMON, "model=gan_points", "model.width=8", "model.depth=1", "balancer=pcgrad"),
            *("task.labels=true", f"task.samples={32 * PER_EPOCH}", "trainer.batch_size=32", "trainer.epochs=2"),
        ),
        "rooms": (
            *(word for word in COMMON if not word.startswith("trainer.save_every=")),
            *(*rooms, "balancer=famo", "task.jitter=0.3", "trainer.batch_size=4", "trainer.epochs=2"),
            *("trainer.save_every=1", f"data_dir={tmp_path_factory.mktemp('data')}"),
        ),
    }


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory):
    """Folder of a run that nobody disturbs; it is the same for all tests."""
    folders = {}

    def run(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "run"
            assert Start(folders[name], (*words[name], f"run_dir={folders[name]}")).wait() == 0
        return folders[name]

    return run


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(patch, number):
    """A run that is about to take this step is killed instead."""
    step = train.train_step
    patch.setattr(train, "train_step", lambda run, batch: kill() if run.state.step + 1 == number else step(run, batch))


def kill_while_writing(patch, name, number):
    """A run is killed when its ``number``-th file called ``name`` is complete, but does not have its name yet."""
    replace, seen = os.replace, []

    def deadly(source, target):
        if Path(target).name == name:
            seen.append(target)
        if len(seen) == number:
            kill()
        replace(source, target)

    patch.setattr(os, "replace", deadly)


def saved(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def go_on(folder):
    """Resume the run in ``folder`` in a process of its own, and return its exit code."""
    return Start(folder, (f"resume={folder}",)).wait()


# ---- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_that_are_killed_at_random_instants_end_bit_equal(tmp_path):
    trials = run_trials(tmp_path / "trials", 5)
    assert [trial.differences for trial in trials] == [[]] * 5
    assert all(trial.kills for trial in trials)


@pytest.mark.parametrize("name", ["table", "gan_points"])
def test_run_that_is_killed_within_an_epoch_resumes_bit_equal(words, undisturbed, monkeypatch, tmp_path, name):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_in_step(patch, KILLED)
        assert Start(folder, (*words[name], f"run_dir={folder}")).wait() == -signal.SIGKILL
    assert saved(folder)["state"]["step"] == SAVED
    assert saved(folder)["ema"] is not None
    assert list(differences(undisturbed(name), folder))
    assert go_on(folder) == 0
    assert list(differences(undisturbed(name), folder)) == []


@pytest.mark.parametrize(
    ("file", "number", "step"),
    [("last.pt", 7, PER_EPOCH), ("model.safetensors", 2, 40), ("summary.json", 1, 2 * PER_EPOCH)],
)
def test_run_that_is_killed_while_a_file_is_written_resumes_bit_equal(
    words, undisturbed, monkeypatch, tmp_path, file, number, step
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_while_writing(patch, file, number)
        assert Start(folder, (*words["table"], f"run_dir={folder}")).wait() == -signal.SIGKILL
    assert [path.name for path in folder.rglob("*.part")] == [f"{file}.part"]
    assert saved(folder)["state"]["step"] == step
    assert go_on(folder) == 0
    assert list(differences(undisturbed("table"), folder)) == []


def test_run_that_is_killed_again_as_soon_as_it_goes_on_keeps_its_rows(words, undisturbed, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_in_step(patch, KILLED)
        Start(folder, (*words["table"], f"run_dir={folder}")).wait()
    with monkeypatch.context() as patch:
        kill_in_step(patch, SAVED + 1)
        assert go_on(folder) == -signal.SIGKILL
    with monkeypatch.context() as patch:
        kill_while_writing(patch, "balance.csv", 1)
        assert go_on(folder) == -signal.SIGKILL
    assert go_on(folder) == 0
    assert list(differences(undisturbed("table"), folder)) == []


@pytest.mark.slow
def test_run_with_workers_that_is_killed_ends_like_one_without(words, undisturbed, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_in_step(patch, 2)
        assert Start(folder, (*words["rooms"], "trainer.num_workers=2", f"run_dir={folder}")).wait() == -signal.SIGKILL
    assert saved(folder)["state"]["step"] == 1
    assert go_on(folder) == 0
    found, expected = comparable(folder), comparable(undisturbed("rooms"))
    assert [content["last.pt"].pop("config")["trainer"]["num_workers"] for content in (found, expected)] == [2, 0]
    assert list(unequal(expected, found)) == []


def test_stop_that_reaches_the_workers_too_waits_for_the_step(words, monkeypatch, tmp_path):
    folder, main, step = tmp_path / "run", train.main, train.train_step
    prepare = mozoo.data._obey_only_the_parent

    def lead():
        os.setpgid(0, 0)  # a group of its own, with its workers
        main()

    def prepare_late(worker):
        time.sleep(worker)  # the second is not ready when the first has handed over its batch
        prepare(worker)

    def announce(run, batch):
        (tmp_path / "within a step").touch()
        time.sleep(1)
        return step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train, "main", lead)
        patch.setattr(train, "train_step", announce)
        patch.setattr(mozoo.data, "_obey_only_the_parent", prepare_late)
        start = Start(folder, (*words["rooms"], "trainer.num_workers=2", f"run_dir={folder}"))
    while not (tmp_path / "within a step").exists() and start.alive:
        time.sleep(0.02)
    os.killpg(start.pid, signal.SIGTERM)
    assert start.wait() == 0
    assert last_line(folder) == f"stopped at step 1 of 4; go on with: python train.py resume={folder}"
    assert saved(folder)["state"]["step"] == 1


# ---- damaged ---------------------------------------------------------------------------------------------------------


def truncate(folder):
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:-200])


def bare_weights(folder):
    torch.save(saved(folder)["model"], folder / "last.pt")


def a_picture(folder):
    (folder / "last.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def edited(section, **values):
    def damage(folder):
        checkpoint = saved(folder)
        checkpoint["config"][section] |= values
        torch.save(checkpoint, folder / "last.pt")

    return damage


def without_optimizers(folder):
    checkpoint = saved(folder)
    for turn in checkpoint["turns"].values():
        del turn["optimizers"]
    torch.save(checkpoint, folder / "last.pt")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "cannot be read"),
        (a_picture, "cannot be read"),
        (bare_weights, "is not a checkpoint of train.py"),
        (edited("model", width=32), "does not fit what its configuration describes (Error(s) in loading state_dict"),
        (edited("balancer", name="uncertainty", likelihood="auto"), "error: "),
        (edited("trainer", epochs=0), "trainer.epochs must be at least 1"),
        (without_optimizers, "does not fit what its configuration describes ('optimizers')"),
    ],
)
def test_checkpoint_that_does_not_fit_is_one_line_and_stays(undisturbed, tmp_path, damage, problem):
    folder = shutil.copytree(undisturbed("table"), tmp_path / "run")
    damage(folder)
    before = contents(folder)
    assert go_on(folder) == 2
    _, line = log_of(folder).read_text().splitlines()  # the first is the command
    assert line.startswith("error: ")
    assert problem in line
    assert contents(folder) == before


# ---- not writable ----------------------------------------------------------------------------------------------------


def test_full_disk_is_one_line_and_the_run_goes_on_later(words, undisturbed, monkeypatch, tmp_path):
    folder, step = tmp_path / "run", train.train_step

    def fill(run, batch):
        if run.state.step + 1 == KILLED:
            size = (folder / "last.pt").stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # Python ignores the signal that goes with it
        return step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", fill)
        assert Start(folder, (*words["table"], f"run_dir={folder}")).wait() == 1
    assert last_line(folder).startswith(f"error: cannot write {folder / 'last.pt'} (File too large); what it held")
    assert "Traceback" not in log_of(folder).read_text()
    assert list(folder.rglob("*.part")) == []
    assert saved(folder)["state"]["step"] == SAVED
    assert go_on(folder) == 0
    assert list(differences(undisturbed("table"), folder)) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_folder_that_cannot_be_written_is_one_line_and_stays(undisturbed, monkeypatch, tmp_path, number):
    folder = shutil.copytree(undisturbed("table"), tmp_path / "run")
    before, opened = contents(folder), Path.open

    def refuse(path, mode="r", *arguments, **options):
        if folder in path.parents and mode.strip("bt") != "r":
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert go_on(folder) == 1
    assert last_line(folder).startswith(f"error: cannot write {folder / 'metrics.csv'} ({os.strerror(number)})")
    assert "Traceback" not in log_of(folder).read_text()
    assert contents(folder) == before
