"""A small project for data of your own: a task, a model and their configuration.

mozoo init my_project     # writes README.md, own.py and configs/ into a new folder

It trains at once; replace what it makes up by your data.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from mozoo.arguments import ConfigError
from mozoo.command_line import reporting
from mozoo.program import words_or_usage

_PROJECT = Path(__file__).resolve().parent / "project"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the project."""
    words = words_or_usage("init", __doc__, arguments)
    if not words:
        return
    with reporting():
        if len(words) > 1 or words[0].startswith("-") or "=" in words[0]:
            raise ConfigError(f"mozoo init takes one folder, got {' '.join(words)}")
        folder = Path(words[0])
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists already; name a new folder")
        try:
            shutil.copytree(_PROJECT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        except OSError as error:
            raise ConfigError(f"cannot write to {folder} ({error.strerror or error})") from None
        print(
            f"written to {folder}; next: cd {shlex.quote(str(folder))} && mozoo train --config-dir configs model=own_net"
        )
