"""Blocks of documents that scripts write, between two marks with block and script.

documents.fill_in(Path("docs/cost.md"), "benchmark_balancers", {"cost_steps": table})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lab import results
from mozoo import tools

#: Document -> name of a block -> what writes its content.
Blocks = Mapping[str, Mapping[str, Callable[[], str]]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head).rstrip()} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]) + "\n"


def block(document: Path, script: str, name: str) -> str:
    """The text between the marks. Raises ValueError if the document lacks them."""
    return _split(document.read_text(encoding="utf-8"), document, script, name)[1]


def fill_in(document: Path, script: str, blocks: Mapping[str, str]) -> None:
    """Replace the text between the marks of each name. Raises ValueError if they are missing."""
    text = document.read_text(encoding="utf-8")
    for name, content in blocks.items():
        before, _, after = _split(text, document, script, name)
        text = before + content + after
    tools.write_text(document, text)


def write(script: str, blocks: Blocks) -> None:
    """Write all blocks of a script into their documents."""
    for document, writers in blocks.items():
        fill_in(results.ROOT / document, script, {name: content() for name, content in writers.items()})


def _split(text: str, document: Path, script: str, name: str) -> tuple[str, str, str]:
    first, last = f"<!-- {name}: written by lab/{script}.py -->\n", f"<!-- end of {name} -->"
    before, opened, rest = text.partition(first)
    content, closed, after = rest.partition(last)
    if not opened or not closed:
        raise ValueError(f"{document} has no place for {name}: it needs the lines {first.strip()!r} and {last!r}")
    return before + first, content, last + after
