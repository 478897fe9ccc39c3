"""Links of pages as the documentation site needs them.

Pages are written for the repository host, where a link such as `../results/cost.svg` or `../lab/tables.py` is a path beside the
page. On the site, pages and pictures have other places, and source files are on the host.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: File of the repository outside docs/ -> page of the site.
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PICTURES = (".svg", ".png")
_CODE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$|(?<!`)(`+)(?!`).+?(?<!`)\3(?!`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
_COMMENT = re.compile(r"^(<!--.*?-->)\n(?=\S)", re.MULTILINE)
_ARXIV = re.compile(r"(?<![\w/\[])arXiv:(\d{4}\.\d{4,5})")


def place(file: str) -> str | None:
    """Path on the site of a file of the repository; None if the site does not have it."""
    if file in PAGES:
        return PAGES[file]
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    return file if file.startswith("results/") and file.endswith(PICTURES) else None


def rewrite(text: str, source: str, page: str, host: str) -> str:
    """The Markdown of ``source`` for the site.

    Links lead to pages and pictures of the site, and to the host for other files of the repository. A link that leads nowhere
    stays as it is, which the strict build refuses. Numbers of arXiv become links. What Python-Markdown takes for part of a
    paragraph, and the host does not, gets an empty line.

    Args:
        text: The Markdown.
        source: File of the repository that the links are relative to.
        page: Path on the site of the page that shows the text.
        host: Address of the repository's files, without a slash at its end.
    """
    text = _COMMENT.sub(r"\1\n\n", text)

    def link(match: re.Match[str]) -> str:
        return match[1] + target(match[2], source, page, host) + match[3]

    def change(part: str) -> str:
        part = part.replace(" ± ", "\u00a0±\u00a0")  # both numbers in one line of a cell
        return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", part)

    return outside_code(text, change, link)


def target(link: str, source: str, page: str, host: str) -> str:
    """Where a link of ``source`` leads on the site."""
    path, mark, anchor = link.partition("#")
    if not path or ":" in path:
        return link
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    where = place(file)
    if where is not None:
        return posixpath.relpath(where, posixpath.dirname(page) or ".") + mark + anchor
    if file.startswith("..") or not (ROOT / file).exists():
        return link
    return f"{host}/{'tree' if (ROOT / file).is_dir() else 'blob'}/main/{file}{mark}{anchor}"


def outside_code(text: str, change: Callable[[str], str], link: Callable[[re.Match[str]], str]) -> str:
    """Text with ``link`` applied to each link, and ``change`` to all outside of code."""
    hidden: list[str] = []

    def hide(match: re.Match[str]) -> str:
        hidden.append(match[0])
        return f"\0{len(hidden) - 1}\0"

    text = change(_LINK.sub(link, _CODE.sub(hide, text)))
    return re.sub("\0(\\d+)\0", lambda match: hidden[int(match[1])], text)
