"""Options of the configuration, declared once: type, default, bounds, one line of help.

A field of a dataclass made by :func:`option` is what the checks, the files in ``configs/`` and the tables of the documents
are derived from.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from engine.arguments import ConfigError
from engine.renames import renamed_value

__all__ = ["bounds", "check_options", "option"]

_RULES = {
    "least": (lambda value, limit: value >= limit, "at least {}"),
    "below": (lambda value, limit: value < limit, "below {}"),
    "positive": (lambda value, _: value > 0, "positive"),
    "share": (lambda value, _: 0 <= value <= 1, "between 0 and 1"),
    "choices": (lambda value, choices: value in choices, "one of {}"),
}


def option(default: Any, help: str, **rules: Any) -> Any:
    """Field of a dataclass whose value the user chooses.

    Args:
        default: Its value unless chosen otherwise; ``None`` is always within bounds.
        help: One line, without the bounds.
        rules: ``least=n``, ``below=n``, ``positive=True``, ``share=True`` or ``choices=(...)``.
    """
    return field(default=default, metadata={"help": help, "rules": rules})


def bounds(rules: dict[str, Any]) -> str:
    """The rules of an option in words, e.g. ``at least 1``."""
    return " and ".join(_RULES[rule][1].format(_text(limit)) for rule, limit in rules.items())


def check_options(prefix: str, section: Any) -> None:
    """Raise ConfigError for the first field of a dataclass that is out of bounds."""
    for item in fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        for rule, limit in item.metadata.get("rules", {}).items():
            holds, words = _RULES[rule]
            if value is not None and not holds(value, limit):
                share = "is a share and " if rule == "share" else ""
                problem = f"{key} {share}must be {words.format(_text(limit))}, got {value!r}"
                raise ConfigError(renamed_value(key, value) or problem)


def _text(limit: Any) -> str:
    return ", ".join(limit) if isinstance(limit, tuple) else str(limit)
