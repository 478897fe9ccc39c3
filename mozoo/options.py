"""Options of the configuration, declared once: type, default, bounds, one line of help.

Checks, the files in ``configs/`` and the tables of the documents follow from fields made by :func:`option`.
"""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import Any

from mozoo.arguments import ConfigError
from mozoo.renames import renamed_value

_RULES = {
    "least": (lambda value, limit: value >= limit, "at least {}"),
    "below": (lambda value, limit: value < limit, "below {}"),
    "positive": (lambda value, _: value > 0, "positive"),
    "share": (lambda value, _: 0 <= value <= 1, "between 0 and 1"),
    "choices": (lambda value, choices: value in choices, "one of {}"),
}


def option(
    default: Any,
    help: str,
    *,
    least: int | None = None,
    below: int | None = None,
    positive: bool | None = None,
    share: bool | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Field of a dataclass with one line of help and bounds; ``None`` is always within bounds."""
    rules = {"least": least, "below": below, "positive": positive, "share": share, "choices": choices}
    given = {rule: limit for rule, limit in rules.items() if limit is not None}
    return field(default=default, metadata={"help": help, "rules": given})


def bounds(rules: dict[str, Any]) -> str:
    """The rules of an option in words, e.g. ``at least 1``."""
    return " and ".join(_RULES[rule][1].format(_text(limit)) for rule, limit in rules.items())


def check_options(prefix: str, section: Any) -> None:
    """Raise ConfigError for the first field of a dataclass that is out of bounds."""
    for item in fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        numbers = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        if item.metadata and any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{key} must be finite, got {value!r}")
        if item.metadata and any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers):
            raise ConfigError(f"{key} must be a number of 64 bits, got {value!r}")
        for rule, limit in item.metadata.get("rules", {}).items():
            holds, words = _RULES[rule]
            if value is not None and not holds(value, limit):
                share = "is a share and " if rule == "share" else ""
                problem = f"{key} {share}must be {words.format(_text(limit))}, got {value!r}"
                raise ConfigError(renamed_value(key, value) or problem)


def _text(limit: Any) -> str:
    return ", ".join(limit) if isinstance(limit, tuple) else str(limit)
