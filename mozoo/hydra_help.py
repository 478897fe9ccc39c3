"""hydra's command line under Python 3.14, whose argparse checks the help of every option."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def mend_help() -> None:
    """Let hydra 1.3 make its parser where argparse reads the help of an option at once.

    The help of ``--shell-completion`` is an object that becomes text when it is printed, which Python 3.14 refuses.
    """
    module: Any = sys.modules["hydra.main"]
    if not hasattr(argparse.ArgumentParser, "_check_help") or getattr(module.get_args_parser, "mended", False):
        return
    make = module.get_args_parser

    def get_args_parser() -> argparse.ArgumentParser:
        with _help_as_text():
            return make()

    get_args_parser.mended = True  # type: ignore[attr-defined]
    module.get_args_parser = get_args_parser


@contextmanager
def _help_as_text() -> Iterator[None]:
    kind: Any = argparse.ArgumentParser
    check = kind._check_help

    def checked(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if action.help is not None:
            action.help = str(action.help)
        check(parser, action)

    kind._check_help = checked
    try:
        yield
    finally:
        kind._check_help = check
