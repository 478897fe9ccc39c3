"""The scripts of docs/loop_*.md: read from their page, imported, and carried out."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from tests import forks

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = {
    path.stem.removeprefix("loop_"): path
    for path in sorted((ROOT / "docs").glob("loop_*.md"))
    if "<!-- loop.py:" in path.read_text(encoding="utf-8")  # loop_plain has several pieces, which other tests execute
}
#: Page -> packages of the extra ``loops`` that its script imports.
NEEDS = {"accelerate": ["accelerate"], "lightning": ["lightning"], "lora": ["peft"], "trainer": ["accelerate"]}
_SCRIPT = re.compile(r"<!-- loop.py: run by tests/loops -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def script(page):
    """The script of a page; the test is skipped if a package is missing."""
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package)
    (code,) = _SCRIPT.findall(PAGES[page].read_text(encoding="utf-8"))
    return code


def load(page):
    """The script of a page as a module."""
    module = types.ModuleType("loop")
    exec(compile(script(page), str(PAGES[page]), "exec"), module.__dict__)
    return module


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def carry_out(command, folder):
    """Exit code, output and errors of a command of a page, such as ``python loop.py``; its processes are forks."""
    program, *words = command.split()
    if program == "torchrun":
        option, switch, count, script, *words = words
        assert (option, switch) == ("--standalone", "--nproc-per-node")
        started = forks.start_ranks(folder / script, *words, cwd=folder, count=int(count), **ENVIRONMENT)
    else:
        assert program == "python"
        started = [forks.start(folder / words[0], *words[1:], cwd=folder, **ENVIRONMENT)]
    printed = [each.communicate(timeout=600) for each in started]
    return max(abs(each.returncode) for each in started), *("".join(texts) for texts in zip(*printed, strict=True))


def carry_out_whole(command, folder):
    """The same, with all that a shell would start."""
    program, *words = command.split()
    words = [sys.executable, *{"python": [], "torchrun": ["-m", "torch.distributed.run"]}[program], *words]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def by_process(page, driver, folder, processes):
    """What a driver of the page's script saves in ``<rank>.pt``, by process.

    The driver imports the script as ``loop``; it is started in ``folder``, as by torchrun.
    """
    folder.mkdir()
    (folder / "loop.py").write_text(script(page), encoding="utf-8")
    (folder / "driver.py").write_text(driver, encoding="utf-8")
    for each in forks.start_ranks(folder / "driver.py", cwd=folder, count=processes, **ENVIRONMENT):
        _, errors = each.communicate(timeout=600)
        assert each.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def assert_equal(state, wanted):
    """Compare nested states bit for bit."""
    assert type(state) is type(wanted)
    if isinstance(state, dict):
        assert state.keys() == wanted.keys()
        for key in state:
            assert_equal(state[key], wanted[key])
    elif isinstance(state, torch.Tensor):
        assert torch.equal(state, wanted)
    else:
        assert state == wanted
