"""Several processes train to the weights of one process on the same batches; files, errors and stops are those of one run."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mozoo
import train
from mozoo import tools
from mozoo.data import training_batches
from tasks import DataError, TensorData
from tests import forks
from tests.conftest import ROOT

EXACT = ("trainer.device=cpu", "logger.tensorboard=false", "optimizer=sgd", "optimizer.lr=0.01", "trainer.max_steps=6")
TABLE = ("trainer.batch_size=64", "model.dropout=0", "model.norm=layer", *EXACT)
POINTS = ("model=gan_points", "trainer.batch_size=64", "task.samples=1024", "optimizer.betas=null", *EXACT)
GAPS = (
    *("model=shared_trunk_lenet", "task=image_table", "task.csv=labels.csv", "task.classification=[species]"),
    *("task.regression=[weight]", "task.image_size=28", "task.flip=0", "task.crop=1", "trainer.batch_size=16", *EXACT),
)
CASES = {
    **{name: (f"balancer={name}", *TABLE) for name in ("sum", "pcgrad", "mgda", "upgrad", "gradnorm")},
    # as published: a start where the first losses put it has no slope, and its optimizer makes steps of rounding errors
    "uncertainty": ("balancer=uncertainty", "balancer.init=0", *TABLE),
    "micro-batches": ("balancer=mgda", "trainer.grad_accum_steps=2", *TABLE),
    "running mean": ("balancer=sum", "trainer.ema=0.9", *TABLE),
    "clipped": ("balancer=sum", "trainer.max_grad_norm=0.1", *TABLE),
    "preferences": ("model=conditioned", "trainer.grad_accum_steps=2", *TABLE),
    "gan": ("balancer=sum", *POINTS),
    "balanced gan": ("balancer=pcgrad", "model.discriminators=2", *POINTS),
    **{name: (f"balancer={name}", *TABLE) for name in ("moml", "auto_lambda", "forum")},
    # half of the labels of one objective are missing, so that the processes have different numbers of them
    "observed with gaps": ("balancer=famo", "trainer.balancer_lr=0.5", *GAPS),
}

#: Cases that others cover for the most part.
RARE = ("mgda", "upgrad", "clipped", "preferences", "auto_lambda", "forum")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in RARE else name for name in CASES]


def train_in(folder, stones, overrides, processes=None):
    data = (f"task.csv={stones}",) if "model=gan_points" not in overrides else ()
    if "task=image_table" in overrides:
        data = (*overrides, f"task.csv={photographs(Path(stones).parent / 'photographs')}")
        overrides = ()
    config = mozoo.compose([*data, f"run_dir={folder}", *overrides])
    return train.run(config, processes or tools.Processes())


def photographs(folder):
    """Images of noise, half of which have a species; the table of their labels."""
    table = folder / "labels.csv"
    if not table.is_file():
        folder.mkdir()
        random, lines = np.random.RandomState(0), ["path,split,species,weight"]
        for i in range(64):
            Image.fromarray(random.randint(0, 255, (28, 28, 3)).astype(np.uint8)).save(folder / f"{i}.png")
            split = "train" if i < 48 else "val" if i < 56 else "test"
            lines.append(f"{i}.png,{split},{'cat' if i % 4 else 'dog' if i % 8 else ''},{10 + i % 7}")
            if i % 2 and i < 48:
                lines[-1] = f"{i}.png,{split},,{10 + i % 7}"
        table.write_text("\n".join(lines) + "\n")
    return table


def worker(rank, port, folder, stones, cases):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"
    )
    torch.set_num_threads(1)
    with tools.join_processes({"trainer": {"device": "cpu"}}) as processes:
        for name, overrides in cases.items():
            found = train_in(f"{folder}/{name}", stones, overrides, processes)
            torch.save(found, f"{folder}/{name} {rank}.pt")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, stones, request):
    """Runs of every case that is asked for in one process, and in two."""
    cases = {name: words for name, words in CASES.items() if request.config.getoption("--slow") or name not in RARE}
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "write_report", lambda *arguments: None)
        for name, overrides in cases.items():
            train_in(one / name, stones, overrides)
    forks.spawn(worker, (free_port(), str(two), stones, cases), 2)
    return one, two


@pytest.mark.parametrize("case", NAMES)
def test_two_processes_end_with_the_weights_of_one(folders, case):
    one, two = (torch.load(folder / case / "last.pt", weights_only=True) for folder in folders)
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-4, atol=1e-6)
    assert (two["ema"] is None) == (one["ema"] is None) == (case != "running mean")
    if one["ema"] is not None:
        torch.testing.assert_close(two["ema"], one["ema"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", NAMES)
def test_two_processes_report_the_results_of_one(folders, case):
    one, two = (json.loads((folder / case / "summary.json").read_text()) for folder in folders)
    known = [name for name, value in one["metrics"].items() if value is not None]
    assert two["metrics"].keys() == one["metrics"].keys()
    assert known
    assert [two["metrics"][name] for name in known] == pytest.approx([one["metrics"][name] for name in known], rel=1e-3)
    assert two["steps"] == one["steps"]
    assert (one["world_size"], two["world_size"]) == (1, 2)


@pytest.mark.parametrize("case", NAMES)
def test_all_processes_get_the_same_results(folders, case):
    first, second = (torch.load(folders[1] / f"{case} {rank}.pt")["metrics"] for rank in range(2))
    assert first == second


@contextmanager
def launched(*overrides, log):
    """Two processes of train.py, started by torchrun; none of them outlives the block."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [*command, str(ROOT / "train.py"), "trainer.device=cpu", "logger.tensorboard=false", *overrides],
        cwd=log.parent,
        env=environment,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield running
    finally:
        running.terminate()  # which torchrun passes on; nothing where all have ended
        running.wait(timeout=60)


def test_torchrun_speaks_once_stops_together_and_resumes(tmp_path, stones):
    """A signal to one of the processes stops both, at the same step; the run goes on in one process."""
    log, folder = tmp_path / "log.txt", tmp_path / "run"
    words = (
        f"task.csv={stones}",
        f"run_dir={folder}",
        "trainer.epochs=100000",
        "balancer=pcgrad",
        "scheduler=constant",
    )
    with launched(*words, log=log) as running:
        deadline = time.monotonic() + 120
        while "epoch 1/" not in log.read_text():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        children = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[-1]), signal.SIGTERM)
        assert running.wait(timeout=60) == 0, log.read_text()
    shown = log.read_text()
    assert shown.count("writing to") == shown.count("stopped at step") == 1
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert json.loads((folder / "summary.json").read_text())["status"] == "stopped"
    assert f"stopped at step {saved['state']['step']} " in shown


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task.csv=nowhere.csv",), "nowhere.csv"),
        (("seed=0,1", "-m"), "a sweep (-m) cannot run under torchrun"),
    ],
)
def test_mistake_ends_both_processes_with_its_message(tmp_path, overrides, message):
    words = ("trainer.device=cpu", "logger.tensorboard=false", *overrides)
    ranks = forks.start_ranks("train.py", *words, cwd=tmp_path)
    said = "".join(err for each in ranks for _, err in [each.communicate(timeout=120)])
    assert all(each.returncode for each in ranks)
    assert "error: " in said
    assert message in said
    assert "main_first" not in said  # nor a traceback of the other process


def test_batch_that_cannot_be_split_is_refused(monkeypatch):
    launched = {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(mozoo.ConfigError, match="batch_size=64 cannot be split over 3 processes"):
        mozoo.compose(["trainer.batch_size=64"])


def test_fewer_samples_than_processes_are_refused():
    data = TensorData((torch.zeros(2, 1),), {})
    for halves, size in ((False, 3), (True, 2)):
        batches = training_batches(data, 8, 0, 0, 0, torch.device("cpu"), 0, tools.Processes(0, size), halves)
        with pytest.raises(DataError, match=f"a training batch has 2 samples, too few for {size} processes"):
            next(batches)


def test_an_error_of_one_of_several_processes_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended, tools.reporting():
        raise ZeroDivisionError("division by zero")
    line = capsys.readouterr().err
    assert ended.value.code == 1
    found = re.fullmatch(r"error in process 1: ZeroDivisionError: division by zero \(its traceback: (.+)\)\n", line)
    assert "raise ZeroDivisionError" in Path(found[1]).read_text()
    Path(found[1]).unlink()
