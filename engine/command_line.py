"""Commands that are functions: words ``key=value``, as for train.py, become their arguments."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import make_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.arguments import ConfigError, did_you_mean
from engine.explain import reporting


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
    values = {}
    for word in words:
        key, _, values[key] = word.partition("=")
        if key not in known:
            raise ConfigError(f"there is no key {key!r}; {did_you_mean(key, known)}")
        if not values[key]:
            raise ConfigError(f"{key} needs a value: {key}=...")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in values:
            raise ConfigError(f"{name} must be given: {name}=...; --help says more")
    schema = make_dataclass("Arguments", [(name, known[name].annotation) for name in values])
    try:
        return vars(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None
