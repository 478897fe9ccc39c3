"""Commands in the documents, the files that a reader writes, and rules to run both.

A command is a line of a bash block, or inline code that begins with `python` or `torchrun`. What a text block right after a bash
block shows is what the last command of that block prints. A block after a line that ends with a path beside this repository, such
as `../mine/model.py` and a colon, is a file that the reader is told to write.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from lab.results import read_yaml

RULES = read_yaml(Path(__file__).with_suffix(".yaml"))
#: Run folder that stands for a placeholder -> the command that makes it.
RUNS: dict[str, str] = RULES["runs"]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:python|torchrun)\s[^`]+)`")
_FILE = re.compile(r"`((?:\.\./)?\w+/\S+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Args:
        page: Where it stands.
        text: As it stands there, in one line and without comment.
        shown: The lines that the page says it prints; empty if it does not say.
    """

    page: str
    text: str
    shown: tuple[str, ...] = ()


def commands(page: str, text: str) -> list[Command]:
    """All commands of the page, in order; each once, unless the page shows what it prints."""
    listed, end = [], 0
    fences = list(_FENCE.finditer(text))
    for fence, following in zip_longest(fences, fences[1:]):
        listed += _inline(page, text[end : fence.start()])
        end = fence.end()
        if fence[1] == "bash":
            *others, last = _lines(fence[2])
            shows = following and following[1] == "text" and not text[end : following.start()].strip()
            shown = following[2].splitlines() if shows else []
            listed += [Command(page, line) for line in others]
            listed.append(Command(page, last, tuple(line for line in shown if line.strip() not in ("", "..."))))
    listed += _inline(page, text[end:])
    return [
        each for i, each in enumerate(listed) if each.shown or each.text not in {other.text for other in listed[:i]}
    ]


def _inline(page: str, text: str) -> list[Command]:
    return [Command(page, " ".join(code.split())) for code in _INLINE.findall(text)]


def _lines(block: str) -> list[str]:
    """Commands of a bash block, a line each, without comments and split at &&."""
    plain = [re.split(r"(?:^|\s+)#", line)[0] for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(part.split()) for line in plain for part in line.split(" && ") if part.strip()]


def files(text: str) -> dict[str, str]:
    """Path -> content of the files that the reader of the page is told to write."""
    return dict(_FILE.findall(text))


def reason(command: Command) -> str:
    """Why the command is not carried out; empty if it is."""
    for pattern, (why, module) in RULES["skipped"].items():
        if re.search(pattern, command.text) and not (module and is_installed(module)):
            return why
    return ""


def is_installed(module: str) -> bool:
    """Whether the module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def completed(command: Command) -> tuple[str, Sequence[str]]:
    """The command to run, shortened unless its output is shown, and the lines it must print."""
    line, *shown = [_fill(text) for text in (command.text, *command.shown)]
    return line if shown else shorter(line), shown


def _fill(text: str) -> str:
    for pattern, words in RULES["placeholders"].items():
        text = re.sub(pattern, words, text)
    return text


def shorter(line: str) -> str:
    """The same command, with words that let it end soon in place of its own."""
    added = [words for pattern, words in RULES["shorter"].items() if re.search(pattern, line)]
    keys = {word.partition("=")[0] for words in added for word in words.split() if "=" in word}
    return " ".join([*(word for word in line.split(" ") if word.partition("=")[0] not in keys or "'" in word), *added])
