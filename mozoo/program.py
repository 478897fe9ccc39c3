"""How a command is started here: as a file of the clone, or with ``mozoo``."""

from __future__ import annotations

import sys
from pathlib import Path

_CLONE = (Path(__file__).resolve().parent.parent / "pyproject.toml").is_file()


def program(name: str) -> str:
    """What starts the command ``name`` here: ``mozoo train``, or ``python train.py`` in a clone."""
    if sys.argv[0].startswith("mozoo ") or not _CLONE:
        return f"mozoo {name}"
    return "python train.py" if name == "train" else f"python scripts/{name}.py"


def started_as() -> list[str]:
    """The words before the options in the command line of this process."""
    return sys.argv[0].split() if sys.argv[0].startswith("mozoo ") else ["python", sys.argv[0]]


def usage(name: str, text: str | None) -> str:
    """The description of a command, with examples that start it as :func:`program` does."""
    return (text or "").replace(f"mozoo {name}", program(name)).strip()
