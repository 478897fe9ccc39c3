"""Parts of self-contained HTML pages that fit a phone: ``report.html`` and comparisons."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

_CSS = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #0f172a; background: #f8fafc; margin: 0 auto; max-width: 1180px; padding: 24px 16px; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem } h2 { font-size: 1.15rem; margin: 2rem 0 .75rem } p { margin: .25rem 0 .5rem; color: #475569 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 16px; align-items: start }
.stack { display: grid; gap: 16px } .stack img { width: auto; max-width: 100%; margin: auto }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 130px), 1fr)); gap: 12px; margin: 16px 0 8px }
.card, figure, pre, .wide { background: white; border: 1px solid #e2e8f0; border-radius: 10px }
.card { padding: 12px 16px } .card b { display: block; font-size: 1.35rem } .card span { color: #64748b; font-size: .85rem }
figure { margin: 0; padding: 12px; min-width: 0 } figure img { width: 100%; display: block } figcaption { color: #64748b; font-size: .85rem }
.wide { overflow-x: auto; margin: 8px 0 } table { border-collapse: collapse; width: 100%; font-size: .9rem }
td, th { padding: 6px 12px; text-align: left; border-top: 1px solid #e2e8f0; overflow-wrap: normal } tr:first-child > * { border-top: 0 } th { color: #475569 }
th, td { white-space: nowrap } .wide :is(th, td):first-child { white-space: normal; min-width: 130px; position: sticky; left: 0; background: white }
td.best { font-weight: 700 } pre { padding: 12px 16px; white-space: pre-wrap; font-size: .82rem }
details summary { cursor: pointer; color: #475569; margin-top: 8px } .stopped { color: #b45309 } .finished { color: #047857 }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """The whole file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(part for part in sections if part)
        + "\n</body></html>\n"
    )


def section(title: str, pictures: Iterable[tuple[str, str]], layout: str = "grid", note: str = "") -> str:
    """Pictures (data URI, caption) under a heading and a note; nothing without both.

    ``layout``: ``grid``, as many beside each other as fit, or ``stack``, one below the other, none larger than it is.
    """
    shown = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for source, caption in pictures
    )
    if not shown and not note:
        return ""
    text = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<h2>{html.escape(title)}</h2>{text}" + (f'<div class="{layout}">{shown}</div>' if shown else "")


def cards(values: Mapping[str, str]) -> str:
    """Large numbers with their names."""
    shown = "".join(
        f'<div class="card"><span>{html.escape(name)}</span><b>{html.escape(value)}</b></div>'
        for name, value in values.items()
    )
    return f'<div class="cards">{shown}</div>' if shown else ""


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), best: Iterable[tuple[int, int]] = ()) -> str:
    """A table of plain text that scrolls where it is too wide; ``best``: (row, column) in bold."""
    bold = set(best)
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)] if header else []
    for i, row in enumerate(rows):
        kinds = [' class="best"' if (i, j) in bold else "" for j in range(len(row))]
        lines.append("".join(f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)))
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def details(title: str, content: str) -> str:
    """Content (HTML) that opens on request."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"
