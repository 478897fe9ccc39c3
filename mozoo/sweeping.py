"""Sweeps: values checked before the first run, and runs that go on after one that failed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from mozoo.arguments import some
from mozoo.command_line import reporting
from mozoo.config import compose
from mozoo.trust import check_config_folder
from mozoo.words import check_words

_MOST = 50  # values of one key that are checked
_started: list[list[str]] = []  # words of the runs of this process
_failed: list[list[str]] = []


def check_command(words: Sequence[str]) -> None:
    """Raise ConfigError for words that cannot be read, and for any value of a sweep.

    So it does for code in configuration files from elsewhere, without ``trust=true``.

    A sweep with files of the user's own, or with another sweeper than hydra's, is checked run by run instead.
    """
    check_words(words)
    folders = [after for word, after in pairwise(words) if word in ("--config-dir", "-cd")]
    folders += [word.partition("=")[2] for word in words if word.startswith(("--config-dir=", "-cd="))]
    for folder in folders:
        if "trust=true" not in words:
            check_config_folder(Path(folder))
    if not {"-m", "--multirun"} & {*words}:
        return
    plain = [word for word in words if not word.startswith(("-", "hydra"))]
    others = [word for word in words if word.startswith(("-", "hydra/sweeper")) and word not in ("-m", "--multirun")]
    if others or any(word.partition("=")[0] in ("resume", "imports") for word in plain):
        return
    try:
        parsed = OverridesParser.create().parse_overrides(plain)
        choices = [
            list(each.sweep_string_iterator())[:_MOST] if each.is_discrete_sweep() else [each.value()]
            for each in parsed
        ]
    except (HydraException, ValueError):
        return  # hydra says it better
    swept = [place for place, each in enumerate(parsed) if each.is_sweep_override()]
    if any(not parsed[place].is_discrete_sweep() for place in swept):
        return
    first = [
        f"{each.get_key_element()}={choices[place][0]}" if place in swept else plain[place]
        for place, each in enumerate(parsed)
    ]
    for place in swept:
        for value in choices[place]:
            compose([*first[:place], f"{parsed[place].get_key_element()}={value}", *first[place + 1 :]])


@contextmanager
def job() -> Iterator[None]:
    """What :func:`reporting` does, but a sweep in this process goes on after a run that failed."""
    hydra = HydraConfig.get()
    sweeps = hydra.mode == RunMode.MULTIRUN and str(hydra.launcher._target_).endswith("BasicLauncher")
    words = list(hydra.overrides.task)
    _started.append(words)
    try:
        with reporting():
            yield
    except SystemExit as end:
        if not sweeps or not end.code:
            raise
        _failed.append(words)


def end_of_sweep() -> None:
    """End the process with exit code 1 and one line if runs of a sweep failed."""
    if _failed:
        own = [" ".join(word for word in words if not all(word in each for each in _started)) for words in _failed]
        print(f"error: {len(_failed)} of {len(_started)} runs failed: {some(own, separator='; ')}", file=sys.stderr)
        sys.exit(1)
