"""What a model, balancer, task, optimizer or scheduler is: description, options, example.

mozoo info pcgrad
mozoo info dense_vit
mozoo info own_net 'imports=[own]'     # of a module of yours, own.py in this folder
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import balancing
import tasks
import zoo
from mozoo.arguments import ConfigError, did_you_mean
from mozoo.command_line import reporting
from mozoo.commands.entries import KINDS, Row, with_imports
from mozoo.config import CONFIG_DIR
from mozoo.program import program, words_or_usage

_CODE = {"model": zoo.model_entrypoint, "balancer": balancing.balancer_class, "task": tasks.task_class}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print a description."""
    words = words_or_usage("info", __doc__, arguments)
    if not words:
        return
    with reporting():
        words = with_imports(words)
        if len(words) != 1:
            raise ConfigError(f"mozoo info takes one name, got {' '.join(words) or 'none'}")
        rows = {(kind.removesuffix("s"), row["name"]): row for kind, entries in KINDS.items() for row in entries()}
        found = {key: row for key, row in rows.items() if key[1] == words[0]}
        if not found and words[0] in zoo.list_models("*", pretrained=True):
            model = words[0].partition(".")[0]
            raise ConfigError(f"{words[0]} are trained weights; mozoo info {model} describes their model")
        if not found:
            near = did_you_mean(words[0], [name for _, name in rows])
            if near.startswith("choose"):  # from hundreds
                near = f"mozoo list {' | '.join(KINDS)} has the names; of a module of yours: 'imports=[module]'"
            raise ConfigError(f"there is nothing named {words[0]!r}; {near}")
        print("\n\n".join(description(group, row) for (group, _), row in found.items()))


def description(group: str, row: Row) -> str:
    """What a user would look up about ``row`` of ``models``, ``balancers`` and so on."""
    name = row["name"]
    parts = [f"{name} ({group})"]
    if group not in _CODE:
        parts += [row["description"], _options(group, "adamw" if group == "optimizer" else "one_cycle")]
        return "\n\n".join([*parts, f"example: {program('train')} {group}.name={name}"])
    code = _CODE[group](name)
    if group == "model":
        about = zoo.model_info(name)
        parts.append(
            f"{about.summary}\ninputs: {about.inputs}\nobjectives: {about.objectives}\norigin: {about.origin}\n"
            f"default task: {about.default_task}"
        )
    parts += [inspect.getdoc(code) or "", *_measured(row), _options(group, name)]
    place = "" if (CONFIG_DIR / group / f"{name}.yaml").is_file() else " --config-dir <folder of your configs>"
    parts += [f"source: {_source(code)}", f"example: {program('train')}{place} {group}={name}"]
    return "\n\n".join(filter(None, parts))


def _options(group: str, name: str) -> str:
    """The file in configs/ with every option, its default and its meaning."""
    files = [CONFIG_DIR / group / f"{each}.yaml" for each in (name, *(["_options"] if group == "balancer" else []))]
    shown = [
        f"options, {group}.<option>=... ({file.name}):\n\n{file.read_text(encoding='utf-8').strip()}"
        for file in files
        if file.is_file()
    ]
    return "\n\n".join(shown)


def _measured(row: Row) -> list[str]:
    if row.get("parameters"):
        text = f"{row['parameters']:,} parameters; {row['operations']:,} multiply-accumulates for a sample of {row['task']}"
        results = ", ".join(f"{key} {value:g}" for key, value in row["results"].items())
        weights = f"\ntrained weights: {', '.join(row['weights'])}" if row["weights"] else ""
        return [text + (f"\n{results}, by {row['command']}" if results else "") + weights]
    if row.get("time"):
        return [f"{row['time']:g} times the time of a plain step, for a small convolutional network with two losses"]
    return []


def _source(code: Any) -> str:
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(code)) or "")
    except TypeError:  # registered by code that was never in a file
        return str(code.__module__)
    root = CONFIG_DIR.parent
    return str(file.relative_to(root)) if root in file.parents else str(file)
