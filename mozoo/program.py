"""How a command is started here: as a file of the clone, or with ``mozoo``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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


def words_or_usage(name: str, text: str | None, arguments: Sequence[str] | None) -> list[str]:
    """The words of a command that needs some; of ``--help`` or without any, none and its usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not {"-h", "--help"} & {*words}:
        return words
    print(usage(name, text))
    return []


def usage(name: str, text: str | None) -> str:
    """The description of a command, with examples that start it as :func:`program` does."""
    return (text or "").replace(f"mozoo {name}", program(name)).strip()
