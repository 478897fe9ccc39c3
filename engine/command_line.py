"""Options of the scripts: words ``key=value``, as train.py takes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar, cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.arguments import ConfigError, did_you_mean

__all__ = ["read_options"]

T = TypeVar("T")


def read_options(schema: type[T], words: Sequence[str], usage: str) -> T:
    """An object of the dataclass ``schema`` from words ``key=value``. ``--help`` prints ``usage`` and ends the process.

    Raises ConfigError for an unknown key, with the nearest names, a value of a wrong type, or a key that must be given.
    """
    if {"-h", "--help"} & set(words):
        print(usage.strip())
        sys.exit(0)
    known = [item.name for item in fields(schema)]  # type: ignore[arg-type]
    values = {}
    for word in words:
        key, _, values[key] = word.partition("=")
        if key not in known:
            raise ConfigError(f"there is no key {key!r}; {did_you_mean(key, known)}")
        if not values[key]:
            raise ConfigError(f"{key} needs a value: {key}=...")
    for item in fields(schema):  # type: ignore[arg-type]
        if item.default == MISSING and item.name not in values:
            raise ConfigError(f"{item.name} must be given: {item.name}=...; --help says more")
    try:
        return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None
