"""Commands as functions of words ``key=value``, and errors of the user in one plain message."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import make_dataclass
from typing import Any

import torch
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import balancing
import tasks
from mozoo.arguments import ConfigError, PartialError, did_you_mean
from mozoo.checkpoint import SaveError
from mozoo.config import REGISTRIES, places_of, unknown_key
from mozoo.data import WorkerError
from mozoo.program import program
from mozoo.renames import renamed
from mozoo.visible import printable
from mozoo.words import quoted, unreadable, values_of_name


@contextmanager
def reporting() -> Iterator[None]:
    """End the process with one line instead of a traceback.

    Of several processes the traceback of an error that is nobody's input goes into a file that the line names. Exit code 2 for
    bad input, 1 for a step or some files that failed or what the system refuses, 0 for an interrupt before there was anything to
    save.
    """
    try:
        yield
    except (ConfigError, tasks.DataError) as error:
        message, code = str(error), 2
    except (HydraException, OmegaConfBaseException) as error:
        message, code = explain(error), 2
    except (balancing.BalancingError, SaveError, PartialError, WorkerError) as error:
        message, code = str(error), 1
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        message, code = f"{place}{error.strerror or error}", 1
    except torch.distributed.DistError as error:
        message, code = f"another process ended ({str(error).splitlines()[0]})", 1
    except Exception as error:
        if int(os.environ.get("WORLD_SIZE") or 1) < 2:
            raise
        number, path = tempfile.mkstemp(prefix="mozoo-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
        first = (str(error).splitlines() or [""])[0]
        message, code = f"{type(error).__name__}: {first} (its traceback: {path})", 1
    except KeyboardInterrupt:
        print("interrupted before the first step; nothing is lost, start again", file=sys.stderr)
        sys.exit(0)
    else:
        return
    rank = os.environ.get("RANK", "0")
    place = "" if rank == "0" else f" in process {rank}"
    print(f"error{place}: {printable(message)}", file=sys.stderr)
    sys.exit(code)


def explain(error: Exception) -> str:
    """Message about an error in the command line, with the nearest valid names."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if name in values_of_name(group):
            return f"{group}={name} names a file of configs/{group}, and there is none; write {group}.name={name}"
        options = [option for option in error.options if not option.startswith("_")]
        return f"unknown {group} {name!r}; {did_you_mean(name, options)}"
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override), str(error).splitlines()[0])
    text = "\n".join(str(part) for part in (error, error.__cause__) if part is not None)
    if several := re.search(r"Ambiguous value for argument '(?P<word>.+)'", text):
        word = several["word"]
        whole = "" if word.partition("=")[0] in REGISTRIES else f"; if it is one value, write {quoted(word)}"
        return f"{word} has several values, for a sweep: {program('train')} -m {shlex.quote(word)}{whole}"
    deleted = re.search(r"Could not delete from config. '(?P<key>[^']+)' does not exist", text)
    if deleted:
        return unknown_key(deleted["key"])
    unknown = re.search(r"Key '(?P<key>[^']+)' is not in struct", text)
    if unknown:
        full = re.search(r"full_key: (?P<key>\S+)", text)
        key = full["key"] if full else unknown["key"]
        section = key.rpartition(".")[0]
        if section in REGISTRIES and not renamed(key):
            option, (names, arguments) = key.rpartition(".")[2], REGISTRIES[section]
            known = {name: set(arguments(name)) for name in names()}
            owners = [name for name, options in known.items() if option in options]
            if owners:
                return f"this {section} has no option {option!r}; it is one of {', '.join(owners)}"
            if places_of(option):
                return unknown_key(key)
            hint = did_you_mean(option, set().union(*known.values()))
            if not hint.startswith("did you mean"):  # all options of all are no help
                hint = f"`mozoo info NAME` lists the options of one {section}"
            return f"{section} has no option {option!r}; {hint}"
        return unknown_key(key)
    return text.splitlines()[0]


def run_command(function: Callable[..., None], words: Sequence[str] | None, usage: str | None) -> None:
    """Call ``function`` with words ``key=value``, by default those of the command line.

    ``--help`` prints ``usage``. An error of the user is one line and ends the process: an unknown key, with the nearest names, a
    value of a wrong type, a key that must be given, or what ``function`` raises.
    """
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print((usage or "").strip())
        sys.exit(0)
    with reporting():
        function(**_arguments(inspect.signature(function, eval_str=True).parameters, words))


def _arguments(known: Mapping[str, inspect.Parameter], words: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    # the parameter task_csv is for the option csv of the task
    names = {name.replace("task_", "task."): name for name in known}
    for word in words:
        key, _, value = word.partition("=")
        if word.startswith("-"):
            raise ConfigError(f"{word} is no key=value; write {key.strip('-').replace('-', '_')}=...; --help says more")
        if key not in names:
            raise ConfigError(f"there is no key {key!r}; {did_you_mean(key, names)}")
        if not value:
            raise ConfigError(f"{key} needs a value: {key}=...")
        values[names[key]] = value
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in values:
            raise ConfigError(f"{name} must be given: {name}=...; --help says more")
    schema = make_dataclass("Arguments", [(name, known[name].annotation) for name in values])
    try:
        return vars(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None
