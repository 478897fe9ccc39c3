"""Docstrings taken apart, and as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

_ROLE = re.compile(r":(?:class|meth|func|attr|mod):`([^`]+)`")
_CODE = re.compile(r"``(.+?)``", re.DOTALL)
_SESSION = re.compile(r"^>>> .*(?:\n(?:>>>|\.\.\.).*)*", re.MULTILINE)  # of Python, line by line
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Docstring:
    """Parts of a docstring, as Markdown.

    Args:
        summary: The first paragraph.
        formula: What follows up to the line that begins with ``needs:``: formulas and their source. Everything, if there is
            no such line.
        notes: What follows that line.
        arguments: Name -> what it means.
    """

    summary: str
    formula: str
    notes: str
    arguments: dict[str, str]


def parse(item: Any) -> Docstring:
    """The docstring of a class or function."""
    text = markdown(inspect.getdoc(item) or "")
    text, *sections = re.split(rf"^({'|'.join(_SECTIONS)}):$", text, flags=re.MULTILINE)
    parts = dict(zip(sections[::2], sections[1::2], strict=True))
    summary, _, body = text.strip().partition("\n\n")
    formula, needs, notes = body.partition("needs: ")
    if needs:  # the line may go on
        notes = "\n".join(line for line in notes.splitlines()[1:] if not re.match(r"\w+: ", line))
    arguments = {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(parts.get("Args", ""))}
    return Docstring(" ".join(summary.split()), formula.strip(), notes.strip(), arguments)


def meanings(item: Any) -> dict[str, str]:
    """What arguments mean, by this docstring, those of bases and of classes that it names."""
    named = re.findall(r":class:`(\w+)`", item.__doc__ or "")
    others = [getattr(inspect.getmodule(item), name, None) for name in named]
    bases = item.__mro__[1:] if inspect.isclass(item) else ()
    words: dict[str, str] = {}
    for other in [*(other for other in others if inspect.isclass(other)), *reversed(bases), item]:
        words |= parse(other).arguments
    return words


def markdown(text: str) -> str:
    """A docstring as Markdown.

    Roles of Sphinx are code, code stands between single backticks where that is enough, and sessions of Python are blocks.
    """
    parts = _FENCED.split(_SESSION.sub(_code_block, text))  # text and blocks of code in turn
    parts[::2] = map(_inline, parts[::2])
    parts[1::2] = (re.sub("(?<!`)``(?!`)", "", block) for block in parts[1::2])
    return "".join(parts)


def _inline(text: str) -> str:
    text = _ROLE.sub(lambda match: f"`{match[1].removeprefix('~')}`", text)
    return _CODE.sub(lambda match: match[0] if "`" in match[1] else f"`{match[1]}`", text)


def _code_block(session: re.Match[str]) -> str:
    """Lines with a prompt of Python as a block of code without the prompts."""
    return "```python\n" + re.sub(r"^(?:>>>|\.\.\.) ?", "", session[0], flags=re.MULTILINE) + "\n```"


def signature_table(build: Callable[..., Any], skip: tuple[str, ...] = (), words: dict[str, str] | None = None) -> str:
    """A Markdown table of arguments: name, values, default, meaning; empty if there are none."""
    meaning = parse(build).arguments if words is None else words
    lines = []
    for name, parameter in inspect.signature(build, eval_str=True).parameters.items():
        if name in skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = "required" if parameter.default is parameter.empty else f"`{shown(parameter.default)}`"
        cells = (f"`{name}`", values(parameter.annotation), default, meaning.get(name, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if not lines:
        return ""
    return "\n".join(["| option | values | default | meaning |", "|---|---|---|---|", *lines]) + "\n"


def shown(value: Any) -> str:
    """A default as one writes it."""
    if isinstance(value, float):
        return f"{float(f'{value:.6g}')!r}"
    return f'"{value}"' if isinstance(value, str) else f"{value!r}"


def values(annotation: Any) -> str:
    """A type in words: its names, or the choices of a ``Literal``."""
    if annotation is inspect.Parameter.empty:
        return ""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if annotation is type(None):
        return "none"
    members = get_args(annotation)
    if members and type(annotation).__name__ in ("UnionType", "Union", "_UnionGenericAlias"):
        kinds = [values(member) for member in members]
        return (", or " if any(" " in kind for kind in kinds[:-1]) else " or ").join(kinds)
    name = getattr(annotation, "__name__", str(annotation))
    inner = [values(member) for member in members if member is not Ellipsis]
    if name == "Mapping" and len(inner) == 2:
        return f"mapping of {inner[0]} to {inner[1]}"
    if name in ("Sequence", "list", "tuple") and inner:
        return f"list of {inner[0]}"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true, false", "Any": "any value"}.get(
        name, name
    )
