"""Words of the command line that cannot be read: what to write in their place."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import is_dataclass

from mozoo.arguments import ConfigError
from mozoo.config import REGISTRIES, SCHEDULES, Config, places_of
from mozoo.program import program

#: Options of hydra's command line -> whether a value follows.
_OPTIONS = {
    **dict.fromkeys(("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"), False),
    **dict.fromkeys(("--multirun", "-m", "--shell-completion", "-sc", "--info", "-i"), False),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), True),
    **dict.fromkeys(("--config-dir", "-cd", "--experimental-rerun"), True),
}


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError for words that hydra would meet with its usage.

    These are options that do not exist, such as ``--epochs 3``, options between two ``key=value``, a key with two values, and
    sections given a number.
    """
    value_follows, keys, after = False, 0, ""
    given: dict[str, str] = {}
    for place, word in enumerate(words):
        if value_follows:
            value_follows = False
        elif word.startswith("-") and "=" not in word.lstrip("-") and not word[1:2].isdigit():
            if word not in _OPTIONS:
                raise ConfigError(_no_option(word, words[place + 1 : place + 2]))
            value_follows = _OPTIONS[word]
            after = word if keys else after
        elif word.startswith("--") and word.partition("=")[0] not in _OPTIONS:
            key, _, value = word.partition("=")
            raise ConfigError(_no_option(key, [value]))
        elif not word.startswith("-"):
            keys += 1
            if after:
                raise ConfigError(
                    f"{after} stands between two key=value; write it first: {program('train')} {after} ..."
                )
            _check_section(word)
            key = word.lstrip("+").partition("=")[0]
            if given.setdefault(key, word) != word:
                raise ConfigError(f"{key} is given twice, as {given[key]} and as {word}; keep one")


def _check_section(word: str) -> None:
    group, _, value = word.lstrip("+").partition("=")
    if group in REGISTRIES and value.startswith("["):
        advice = (
            ", or for one before the other: balancer=pcgrad balancer.before=uncertainty" if group == "balancer" else ""
        )
        raise ConfigError(f"{word}: a run has one {group}; for a sweep: {program('train')} -m {group}=a,b{advice}")
    sections = [name for name, section in vars(Config()).items() if is_dataclass(section) or name in REGISTRIES]
    key = word.removeprefix("~").partition("=")[0]
    if word.startswith("~") and places_of(key.rpartition(".")[2]) == [key] and key.partition(".")[0] not in REGISTRIES:
        raise ConfigError(f"{word} deletes {key}, which a run needs; leave the word out, and {key} has its default")
    if group in sections and (value.replace(".", "", 1).isdigit() or value in ("true", "false", "null")):
        raise ConfigError(f"{group} is a section with keys of its own, and {word} names no file of configs/{group}")


def _no_option(word: str, following: Sequence[str]) -> str:
    key = word.lstrip("-").replace("-", "_")
    places = places_of(key) or ([key] if "." in key else [])
    value = following[0] if following and "=" not in following[0] and not following[0].startswith("-") else "..."
    advice = (
        f"write {' or '.join(f'{place}={value}' for place in places)}" if places else "settings are key=value words"
    )
    return f"there is no option {word}; {advice}, without dashes"


def unreadable(word: str, reason: str) -> str:
    """Message about a word that hydra cannot read for this ``reason``."""
    key, separator, value = word.partition("=")
    if not separator:
        groups = [f"{group}={key}" for group, (names, _) in REGISTRIES.items() if key in names()]
        example = " or ".join(groups) or (f"{key}=..." if places_of(key.rpartition(".")[2]) else "seed=1")
        return f"cannot read {word!r}: every setting is one word key=value, such as {example}"
    if not value.lstrip().startswith(("[", "{", "'", '"')):
        return f"cannot read {word!r}; special characters need quotes: {quoted(word)}"
    reason = re.sub(r"^\w+Exception: ", "", reason)
    if value.lstrip().startswith("{"):
        return f"cannot read {word!r} ({reason}); {_mapping_advice(key, value)}"
    return f"cannot read {word!r} ({reason}); in a list, text with special characters has quotes of its own: '{key}=[\"a (b)\", c]'"


def _mapping_advice(key: str, value: str) -> str:
    """What to write for a mapping that cannot be read: for objectives, the same as a list."""
    if sign := re.search(r"separator:\s*([^\w\s'\"{}])", value):
        return f'a separator needs quotes: separator: "{sign[1]}"'
    advice = "a name before a colon can have Latin letters, digits and _ only"
    if key != "task.objectives":
        return f"{advice}; write options of other names in a YAML file (docs/your_own_table.md)"
    pairs = re.findall(r"\s*[\"']?([^{}\"']+?)[\"']?\s*:\s*(\w+|\{[^{}]*\})\s*(?:,|$)", value.strip()[1:-1])
    items = [f'{{column: "{name}", {said[1:]}' if said.startswith("{") else f'"{name}: {said}"' for name, said in pairs]
    return f"{advice}; a list takes all names: {shlex.quote(f'{key}=[' + ', '.join(items) + ']')}"


def quoted(word: str) -> str:
    """``key=value`` as a shell and hydra read it: one string, whatever its characters."""
    key, _, value = word.partition("=")
    end = len(value) - len(value.rstrip("\\"))
    escaped = value.replace('"', '\\"') + "\\" * end  # before a quotation mark alone does a backslash mean something
    return shlex.quote(f'{key}="{escaped}"')


def shell_word(key: str, value: object) -> str:
    """``key=value`` for the command line, with quotes if there must be some."""
    word = f"{key}={value}"
    return word if re.fullmatch(r"[\w./:@%+=-]+", word, re.ASCII) and word.count("=") == 1 else quoted(word)


def values_of_name(group: str) -> Sequence[str]:
    """Values of ``<group>.name`` that are no files of configs."""
    if group == "scheduler":
        return SCHEDULES
    if group == "optimizer":
        from timm.optim import list_optimizers

        return [str(name) for name in list_optimizers()]
    return ()
