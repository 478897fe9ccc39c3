"""What a run folder from elsewhere may do: give data, and name code to a user who agrees."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mozoo.arguments import ConfigError, some
from tasks.file_checks import check_regular

_CODE = ("callbacks", "_target_", "()", "class", "searchpath")
_FILES = ["config.yaml", "summary.json", "metrics.csv", "balance.csv", "last.pt", "services.json", "report.html"]
_FILES += ["best/config.json", "best/model.safetensors", "best/README.md"]


def check_modules(folder: Path, modules: Any, trust: bool, named: Sequence[str] = ()) -> list[str]:
    """The modules that the configuration of ``folder`` asks to import, where the user agrees.

    Args:
        folder: A run folder, or one with weights.
        modules: What its configuration has under ``imports``.
        trust: Whether the user trusts the folder.
        named: Modules that the user named himself; those that are imported already run no code again.

    Raises ConfigError that lists the other modules without ``trust``.
    """
    if not isinstance(modules, Sequence) or isinstance(modules, str) or not all(isinstance(m, str) for m in modules):
        raise ConfigError(f"run: imports in the configuration of {folder} must be a list of names, got {modules!r}")
    foreign = [module for module in modules if module not in named and module not in sys.modules]
    if foreign and not trust:
        raise ConfigError(
            f"{folder} asks to import {some(foreign)}, which runs code of the run's author; if you trust it, add trust=true"
        )
    return list(modules)


def check_config_folder(folder: Path) -> None:
    """Raise ConfigError for configuration files that make hydra import classes.

    These are callbacks and all other parts of ``hydra`` that name a class.
    """
    for path in sorted(file for ending in ("*.yaml", "*.yml") for file in folder.rglob(ending)):
        try:
            check_regular(path)
            content = yaml.load(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
            continue  # hydra says it, if it reads the file at all
        inside = path.parent.relative_to(folder).parts[:1] == ("hydra",)
        section = content if inside else content.get("hydra") if isinstance(content, dict) else None
        if (found := _naming_code(section)) is not None:
            raise ConfigError(f"{path} has hydra's {found}, which runs code; if you know it, add trust=true")


def _naming_code(section: Any) -> str | None:
    """The first key in a section of hydra that names code."""
    waiting, seen = [section], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, (dict, list)) and id(part) not in seen:
            seen.add(id(part))
            if isinstance(part, dict) and (named := [key for key in part if key in _CODE and part[key]]):
                return str(named[0])
            waiting += part.values() if isinstance(part, dict) else part
    return None


def check_files(folder: Path) -> None:
    """Raise ConfigError if one of the files of a run is there and no regular file, as a pipe."""
    for name in _FILES:
        path = folder / name
        try:
            if os.path.lexists(path):
                check_regular(path)
        except OSError as error:
            raise ConfigError(f"run: {path} cannot be used ({error.strerror or error}); restore it") from None


def check_plain(folder: Path, content: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value in the configuration of ``folder`` that looks up others."""
    waiting: list[tuple[str, Any]] = list(content.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{inner}", item) for inner, item in value.items()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            waiting += [(key, item) for item in value]
        elif isinstance(value, str) and "${" in value:
            raise ConfigError(f"{folder}: {key} is {value!r}; the configuration of a run holds plain values only")
