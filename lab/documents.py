"""Parts of documents that scripts write: each stands between two marks that name it and its script.

documents.fill_in(Path("docs/cost.md"), "benchmark_balancers", {"cost_steps": table})
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import engine

__all__ = ["block", "fill_in"]


def block(document: Path, script: str, name: str) -> str:
    """What stands between the marks. Raises ValueError if the document lacks them."""
    return _split(document.read_text(encoding="utf-8"), document, script, name)[1]


def fill_in(document: Path, script: str, blocks: Mapping[str, str]) -> None:
    """Replace what stands between the marks of each name. Raises ValueError if the document lacks them."""
    text = document.read_text(encoding="utf-8")
    for name, content in blocks.items():
        before, _, after = _split(text, document, script, name)
        text = before + content + after
    engine.write_text(document, text)


def _split(text: str, document: Path, script: str, name: str) -> tuple[str, str, str]:
    first, last = f"<!-- {name}: written by lab/{script}.py -->\n", f"<!-- end of {name} -->"
    before, opened, rest = text.partition(first)
    content, closed, after = rest.partition(last)
    if not opened or not closed:
        raise ValueError(f"{document} has no place for {name}: it needs the lines {first.strip()!r} and {last!r}")
    return before + first, content, last + after
