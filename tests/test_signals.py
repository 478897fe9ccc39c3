"""SIGTERM and SIGINT to the command: it stops at once, leaves nothing half-done and says how to go on."""

import json
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import tasks
from mozoo.checkpoint import load_checkpoint
from tasks.room_renderer import KINDS
from tests import forks

SHORT = ("trainer.device=cpu", "trainer.batch_size=64", "logger.tensorboard=false", "run_dir=run")
LOST_NOTHING = "interrupted before the first step; nothing is lost, start again\n"


@pytest.fixture
def start(tmp_path):
    """Start the command in ``tmp_path``, as a shell's background job, with a module whose text is given imported first."""
    started = []

    def call(module, *words):
        (tmp_path / "mine.py").write_text(module)
        words += ("imports=[mine]",) if module else ()
        process = forks.start("train.py", *words, cwd=tmp_path, background=True, PYTHONPATH=str(tmp_path))
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def await_line(process, text):
    """Read what ``process`` prints up to a line with ``text``."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def await_true(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(number):
    """Process ids of the living children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent) == number and state != "Z":
            found.append(int(stat.parent.name))
    return found


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


STOPPED_EVALUATION = """
import os
import signal
import mozoo.evaluation

batches = mozoo.evaluation.evaluation_batches

def announced(*arguments):
    for number, batch in enumerate(batches(*arguments), start=1):
        print("one more batch")
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch

mozoo.evaluation.evaluation_batches = announced
"""

SLOW_STEP = """
import signal
import time
import tasks

losses, calls = tasks.Task.losses, iter(range(1, 1000))

def slow(*arguments):
    if next(calls) == 4:
        print("a step that takes an hour")
        while not signal.getsignal(signal.SIGTERM).__self__.asked:
            time.sleep(0.01)
        print("it was asked to stop")
        time.sleep(3600)
    return losses(*arguments)

tasks.Task.losses = slow
"""


def test_sigterm_during_evaluation_stops_within_a_batch_and_saves(start, stones, tmp_path):
    words = (f"task.csv={stones}", "trainer.max_steps=3", "trainer.eval_batch_size=2", *SHORT)
    code, out, err = finish(start(STOPPED_EVALUATION, *words))
    assert (code, err) == (0, "")
    assert out.count("one more batch") == 2  # of 150
    assert out.splitlines()[-1] == "stopped at step 3 of 3; go on with: python train.py resume=run 'imports=[mine]'"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"
    assert load_checkpoint(tmp_path / "run" / "last.pt")["state"]["step"] == 3
    assert list(tmp_path.rglob("*.part")) == []


def test_second_signal_during_training_ends_at_once_and_the_checkpoint_stays(start, stones, tmp_path):
    process = start(SLOW_STEP, f"task.csv={stones}", "trainer.save_every=1", *SHORT)
    await_line(process, "a step that takes an hour")
    process.send_signal(signal.SIGTERM)
    await_line(process, "it was asked to stop")  # but wants to finish its step
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (128 + signal.SIGINT, "")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["state"]["step"] == 3
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_sigint_during_rendering_leaves_whole_rooms_and_no_process(start, tmp_path):
    size = {"height": 48, "width": 64, "train": 5000, "val": 1, "test": 1}
    words = (*(f"task.{key}={value}" for key, value in size.items()), "model=dense", "model.pretrained=false")
    process = start("", *words, *SHORT)
    data = tmp_path / "data"
    await_true(lambda: len(list(data.rglob("*.npy"))) > 8 or process.poll() is not None)
    workers = children(process.pid)
    assert workers
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (0, LOST_NOTHING)
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    assert not (tmp_path / "run").exists()
    done = [path for path in files(data) if path.suffix == ".npy"]
    assert all(np.load(path).size for path in done)
    assert [path.name for path in files(data) if path not in done] == [".lock", "rooms.json"]
    before = {path: path.stat().st_mtime_ns for path in done}

    splits = tasks.create_task("rooms", **size | {"train": 100}).splits(data)
    assert [len(split) for split in splits] == [100, 1, 1]
    (root,) = data.iterdir()
    assert all((root / "train" / kind / f"{index}.npy").is_file() for kind in KINDS for index in range(100))
    whole = [path for path in done if all((path.parents[1] / kind / path.name) in before for kind in KINDS)]
    assert whole
    assert all(path.stat().st_mtime_ns == before[path] for path in whole)  # rooms that were done are kept


@pytest.fixture
def slow_server():
    """Address of a server that announces 30 MB and sends them byte by byte."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "30000000")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1 << 16))
                    time.sleep(0.05)
            except OSError:  # the other side is gone
                pass

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_sigterm_during_a_download_leaves_no_file(start, slow_server, tmp_path):
    module = (
        "from pathlib import Path\n"
        "import tasks.fashion\n"
        f"tasks.fashion._URL = {slow_server!r}\n"
        "tasks.fashion._DEBIAN = Path('nowhere')\n"
    )
    process = start(module, "model=chained", "task.download=true", *SHORT)
    data = tmp_path / "data"
    await_true(lambda: any(path.stat().st_size for path in files(data)) or process.poll() is not None)
    assert [path.suffix for path in files(data)] == [".part"]
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert (code, err) == (0, LOST_NOTHING)
    assert files(data) == []
    assert not (tmp_path / "run").exists()
