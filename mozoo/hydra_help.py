"""hydra's command line under Python 3.14, whose argparse checks the help of every option."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def mend_help() -> None:
    """Let hydra 1.3 make its parser where argparse reads the help of an option at once.

    The help of ``--shell-completion`` is an object that becomes text when it is printed, which Python 3.14 refuses.
    """
    users: list[Any] = [sys.modules[name] for name in ("hydra._internal.utils", "hydra.main")]  # completion, and runs
    make = users[0].get_args_parser
    if not hasattr(argparse.ArgumentParser, "_check_help") or hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)
    def get_args_parser() -> argparse.ArgumentParser:
        with _help_as_text():
            return make()

    for module in users:
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
