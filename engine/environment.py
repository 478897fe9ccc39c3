"""What a number depends on besides the code: versions, commit, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["command", "git_commit", "versions"]

_PACKAGES = ("mozoo", "torch", "torchvision", "timm", "hydra-core", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """Commit of this code, with ``-dirty`` if files differ from it; ``None`` outside a repository."""
    try:
        root = Path(__file__).resolve().parent.parent
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def command() -> str:
    """The command line of this run, ready to be pasted into a shell; of a sweep, what it takes to repeat one run of it."""
    from hydra.core.hydra_config import HydraConfig

    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else sys.argv[1:]
    return shlex.join(["python", sys.argv[0], *overrides])
