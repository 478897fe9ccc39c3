"""Processes for tests: each a fork of one that has imported what takes seconds and done nothing yet.

start("train.py", "trainer.epochs=3", cwd=folder)      # for subprocess.Popen([sys.executable, "train.py", ...])
run("scripts/predict.py", "run=run", cwd=folder)       # for subprocess.run, with what is printed
spawn(worker, (port, folder), 2)                       # for torch.multiprocessing.spawn
"""

import functools
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = ["train", "pytest", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor.parallel"]
IMPORTED += ["matplotlib.figure", "torchmetrics", "rich.progress"]


@functools.cache
def context():
    """Of :mod:`multiprocessing`; its processes are such forks."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTED)
    return found


def spawn(worker, arguments, count):
    """Call ``worker(rank, *arguments)`` in ``count`` processes and wait; raises what one of them raises."""
    context()
    mp.start_processes(worker, arguments, count, start_method="forkserver")


class Command:
    """A script of this repository, or a file of one's own, as a command; the methods are those of :class:`subprocess.Popen`.

    Args:
        script: Its name relative to the root, or its path.
        words: Of the command line.
        cwd: Where it is carried out.
        environment: Variables besides those of this process.
        background: Whether it ignores SIGINT at its start, as a background job of a shell does.
    """

    def __init__(self, script, words, cwd, environment, background):
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
        written = [out for _, out in pipes]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environment}
        arguments = (str(ROOT / script), words, str(cwd), environment, background, *written)
        self._process = context().Process(target=_carry_out, args=arguments)
        self._process.start()
        for out in written:
            out.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(pipe.fileno()), encoding="utf-8") for pipe, _ in pipes)
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = lambda self: self.returncode  # noqa: E731

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        with ThreadPoolExecutor(2) as pool:
            printed = [pool.submit(file.read) for file in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            return tuple(each.result() for each in printed)

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()


def start(script, *words, cwd, background=False, **environment):
    """Start a script: its name, relative to the root, or its path."""
    return Command(script, words, cwd, environment, background)


def start_ranks(script, *words, cwd, count=2, **environment):
    """Start a script once for each rank, with the variables that torchrun sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [start(script, *words, cwd=cwd, **environment, **place) for place in places]


def run(script, *words, cwd, timeout=300, **environment):
    """Carry a script out; exit code, output and errors."""
    process = start(script, *words, cwd=cwd, **environment)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess([script, *words], process.returncode, out, err)


def _carry_out(script, words, cwd, environment, background, *written):
    """What the fork does."""
    if background:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number, out in enumerate(written, start=1):
        os.dup2(out.fileno(), number)
        out.close()
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    folders = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:0] = [str(Path(script).parent), *folders]
    sys.argv = [script, *words]
    torch.set_num_threads(1)
    runpy.run_path(script, run_name="__main__")
