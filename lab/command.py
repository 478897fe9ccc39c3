"""The command line that benchmarks and tables share: names, and ``--collect``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from rich.console import Console


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the script, as it stands there."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, kind: str, known: Iterable[str]
) -> argparse.Namespace:
    """Options with ``names``, by default all, and ``collect``; exits at an unknown name."""
    known = list(known)
    metavar = "PART" if kind == "part" else "NAME"
    parser.add_argument("names", nargs="*", metavar=metavar, help=f"one of {', '.join(known)}; default: all")
    parser.add_argument("--collect", action="store_true", help="run nothing, only collect what there is")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in known:
            parser.error(f"unknown {kind} {name!r}; choose from {', '.join(known)}")
    options.names = options.names or known
    return options


def console() -> Console:
    """A console of the width of the terminal, or wide enough for a file."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=160)
