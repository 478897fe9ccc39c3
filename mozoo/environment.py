"""Versions, commit and command: what results depend on besides the configuration."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from mozoo.program import program, started_as

_PACKAGES = ("mozoo", "torch", "torchvision", "timm", "hydra-core", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    packages = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return packages


def git_commit() -> str | None:
    """Commit of this code, ``-dirty`` if files differ; ``None`` outside a repository."""
    root, describe = Path(__file__).resolve().parent.parent, "git describe --always --dirty --abbrev=12 --exclude=*"
    if not (root / ".git").exists():  # an installed package may lie within another repository
        return None
    try:
        done = subprocess.run(describe.split(), cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def environment() -> dict[str, Any]:
    """What the numbers of a step depend on besides the configuration: versions, commit, threads."""
    return {"versions": versions(), "commit": git_commit(), "threads": torch.get_num_threads()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs in two results of :func:`environment`: name -> (before, now)."""
    old, new = ({**each["versions"], "commit": each["commit"], "threads": each["threads"]} for each in (before, now))
    return {name: (old.get(name), value) for name, value in new.items() if old.get(name) != value}


def command() -> str:
    """The command line of this process, ready to be pasted into a shell."""
    return shlex.join([*started_as(), *sys.argv[1:]])


def training_command(folder: Path) -> str:
    """The command that trains the run in ``folder`` once more.

    Of a sweep, what is left of it for this one run; of a run that a script or a notebook started, its configuration file.
    """
    if not HydraConfig.initialized():
        config = ["--config-dir", str(folder), "--config-name", "config", "run_dir=null"]
        return shlex.join([*program("train").split(), *config, "hydra.run.dir=.", "hydra.output_subdir=null"])
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN:
        return command()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    config = [word for each in folders for word in ("--config-dir", each)]
    if hydra.job.config_name not in (None, "train"):
        config += ["--config-name", str(hydra.job.config_name)]
    return shlex.join([*started_as(), *config, *hydra.overrides.task])
