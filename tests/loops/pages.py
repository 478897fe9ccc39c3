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
PAGES = {path.stem.removeprefix("loop_"): path for path in sorted((ROOT / "docs").glob("loop_*.md"))}
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


def carry_out(command, folder):
    """Exit code, output and errors of a command of a page, such as ``python loop.py``."""
    program, *words = command.split()
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    if program == "python":
        script, *words = words
        done = forks.run(folder / script, *words, cwd=folder, timeout=600, **environment)
    else:
        assert program == "torchrun"
        words = [sys.executable, "-m", "torch.distributed.run", *words]
        environment = {**os.environ, **environment}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def by_process(page, driver, folder, processes):
    """What a driver of the page's script saves in ``<rank>.pt``, by process.

    The driver imports the script as ``loop``; it is started in ``folder``, as by torchrun.
    """
    folder.mkdir()
    (folder / "loop.py").write_text(script(page), encoding="utf-8")
    (folder / "driver.py").write_text(driver, encoding="utf-8")
    for each in forks.start_ranks(folder / "driver.py", cwd=folder, count=processes):
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
