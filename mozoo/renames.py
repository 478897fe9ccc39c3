"""Public names that changed: a message with the new name, and a translation of old runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

#: Group -> old name of an option -> new one.
_KEYS = {
    "trainer": {
        "accumulate": "grad_accum_steps",
        "clip_norm": "max_grad_norm",
        "checkpoint_activations": "grad_checkpointing",
        "workers": "num_workers",
        "threads": "num_threads",
        "select": "monitor",
        "batch_statistics": "batchnorm",
    },
    "balancer": {"every": "update_every", "ema": "weight_ema"},
}
#: (group, old value) -> new one, of every option of the group.
_VALUES = {("trainer", "synchronised"): "synchronized", ("model", "task"): "auto", ("balancer", "task"): "auto"}
#: Task -> options that earlier versions did not have -> what those did.
_ABSENT: dict[str, dict[str, Any]] = {
    "image_table": {"split": "position", "missing": [], "similar_classes": "keep"},
}
_REMOVED = ("seeds", "tier", "source", "expected", "published")  # keys of recipes


def renamed(key: str) -> str | None:
    """Message with the new name of the option ``group.key``; ``None`` if it never had another."""
    section, _, name = key.rpartition(".")
    new = _KEYS.get(section.partition(".")[0], {}).get(name)  # balancer.before has the options of balancer
    return new and f"{key} was renamed to {section}.{new}"


def renamed_value(key: str, value: Any) -> str | None:
    """The same for a value of that option."""
    new = _VALUES.get((key.partition(".")[0], value)) if isinstance(value, str) else None
    return new and f"{key}={value} was renamed to {key}={new}"


def translate(config: Mapping[str, Any], known: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """A configuration that an earlier version saved, in today's words.

    Args:
        config: In plain containers.
        known: Group -> today's names of its options; of ``""``, the groups.
    """
    translated = {
        key: _section(key, value, known.get(key, ())) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key in known[""] or key not in _REMOVED
    }
    task = translated.get("task")
    if isinstance(task, dict):
        translated["task"] = task | {
            key: value for key, value in _ABSENT.get(str(task.get("name")), {}).items() if key not in task
        }
    return translated


def _section(group: str, section: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    names = {old: new for old, new in _KEYS.get(group, {}).items() if new in known and new not in section}
    translated = {}
    for key, value in section.items():
        if isinstance(value, Mapping) and "name" in value:  # a method before another
            value = _section(group, value, known)
        elif isinstance(value, str):
            value = _VALUES.get((group, value), value)
        translated[names.get(key, key)] = value
    return translated
