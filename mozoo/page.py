"""Parts of self-contained HTML pages that fit a phone: ``report.html`` and comparisons.

They are light or dark as the reader's system is.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Container, Iterable, Sequence

from mozoo.visible import visible

_CSS = """
:root { color-scheme: light dark; --ink: #0f172a; --soft: #475569; --faint: #64748b; --page: #f8fafc; --card: #ffffff; --line: #e2e8f0; --good: #047857; --warn: #b45309 }
@media (prefers-color-scheme: dark) { :root { --ink: #f1f5f9; --soft: #cbd5e1; --faint: #94a3b8; --page: #0f172a; --card: #1e293b; --line: #334155; --good: #34d399; --warn: #fbbf24 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 1180px; padding: 24px 16px; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem } h2 { font-size: 1.15rem; margin: 2rem 0 .75rem } p, nav { margin: .25rem 0 .5rem; color: var(--soft) }
nav a { margin-right: 1rem } a { color: inherit }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 16px; align-items: start }
.stack { display: grid; gap: 16px } .stack img { width: auto; max-width: 100%; margin: auto } .stack figure { overflow-x: auto } .stack img.broad { max-width: max(100%, 640px) }
.wide-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)); gap: 16px; align-items: start }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 150px), 1fr)); gap: 12px; margin: 16px 0 8px }
.card, figure, pre, .wide { background: var(--card); border: 1px solid var(--line); border-radius: 10px }
.card { padding: 12px 16px } .card b { display: block; font-size: 1.35rem; overflow-wrap: normal } .card span { color: var(--faint); font-size: .85rem } .card small { font-size: .85rem; font-weight: 400; color: var(--faint) }
figure { margin: 0; padding: 12px; min-width: 0 } figure img { width: 100%; display: block } figcaption { color: var(--faint); font-size: .85rem }
.wide { overflow-x: auto; margin: 8px 0 } table { border-collapse: collapse; width: 100%; font-size: .9rem }
td, th { padding: 6px 12px; text-align: left; border-top: 1px solid var(--line); overflow-wrap: normal } tr:first-child > * { border-top: 0 } th { color: var(--soft) }
th, td { white-space: nowrap } .wide :is(th, td):first-child { white-space: normal; min-width: 130px; position: sticky; left: 0; background: var(--card) }
td.best { font-weight: 700 } th button { all: unset; cursor: pointer } th button:focus-visible { outline: 2px solid } pre { padding: 12px 16px; white-space: pre-wrap; font-size: .82rem }
details summary { cursor: pointer; color: var(--soft); margin-top: 8px } .stopped, .running, .failed { color: var(--warn) } .finished { color: var(--good) }
"""
#: Sorts the rows of a table by the column whose heading is pressed, a second time the other way round.
_SORT = """<script>
for (const table of document.querySelectorAll("table.sortable"))
  for (const [column, button] of Array.from(table.querySelectorAll("th button")).entries())
    button.onclick = () => {
      const rows = Array.from(table.rows).slice(1), value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const numbers = rows.every(row => row.cells[column].dataset.value !== undefined);
      const order = button.dataset.order === "up" ? "down" : "up", sign = order === "up" ? 1 : -1;
      const compare = (a, b) => {
        if (!numbers) return sign * value(a).localeCompare(value(b));
        const [x, y] = [a, b].map(row => value(row) === "" ? NaN : Number(value(row)));
        return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
      };
      for (const other of table.querySelectorAll("th")) { other.removeAttribute("aria-sort"); delete other.firstChild.dataset.order; }
      button.dataset.order = order;
      button.parentNode.setAttribute("aria-sort", order === "up" ? "ascending" : "descending");
      rows.sort(compare).forEach(row => row.parentNode.append(row));
    };
</script>"""
_BROAD = ' class="broad"'
#: Loads the page again, where the reader was.
_RELOAD = """<script>
const place = "mozoo " + location.pathname;
try { scrollTo(0, Number(sessionStorage.getItem(place) ?? 0)); } catch (error) {}
setTimeout(() => { try { sessionStorage.setItem(place, scrollY); } catch (error) {} location.reload(); }, %d);
</script>"""


def escape(text: str, lines: bool = False) -> str:
    """Any text as HTML, with a sign for each control character; ``lines``: several lines."""
    return html.escape(visible(text, lines))


def number(value: float | None) -> str:
    """Four significant digits, or all of a whole number.

    ``0.9881``, ``347.1``, ``12,293``, ``1.184e-05``, ``7``.
    """
    if value is None or not math.isfinite(value):
        return "not finite"
    if abs(value) < 1e7 and value == round(value):
        return f"{value:,.0f}"
    digits = 3 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(digits, 0)}f}" if -3 <= digits <= 7 else f"{value:.3e}"


def page(title: str, sections: Iterable[str], script: str = "") -> str:
    """The whole file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(part for part in sections if part)
        + f"\n{script}</body></html>\n"
    )


def reloading(seconds: float) -> str:
    """A script that loads the page again after this time."""
    return _RELOAD % round(1000 * seconds)


def sorting() -> str:
    """A script that sorts tables."""
    return _SORT


def heading(title: str) -> str:
    """Of a section, with a place that :func:`index` links to."""
    return f'<h2 id="{_place(title)}">{escape(title)}</h2>'


def index(titles: Iterable[str]) -> str:
    """Links to sections."""
    return "<nav>" + "".join(f'<a href="#{_place(title)}">{escape(title)}</a>' for title in titles) + "</nav>"


def _place(title: str) -> str:
    return re.sub(r"\W+", "-", title).strip("-").lower() + f"-{sum(map(ord, title)) % 997}"


def section(
    title: str, pictures: Iterable[tuple[str, str]], layout: str = "grid", note: str = "", broad: Container[str] = ()
) -> str:
    """Pictures (data URI, caption) under a heading and a note; nothing without both.

    ``layout``: ``grid``, as many beside each other as fit, ``wide-grid``, the same of larger ones, or ``stack``, one below the
    other, none larger than it is. ``broad``: captions of pictures whose text a phone would make too small, which scroll there.
    """
    shown = figures(pictures, layout, broad)
    if not shown and not note:
        return ""
    return f"<h2>{escape(title)}</h2>" + (f"<p>{escape(note)}</p>" if note else "") + shown


def figures(pictures: Iterable[tuple[str, str]], layout: str = "grid", broad: Container[str] = ()) -> str:
    """Pictures (data URI, caption) without a heading."""
    shown = "".join(
        f'<figure><img{_BROAD * (caption in broad)} alt="{escape(caption)}" src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'
        for source, caption in pictures
    )
    return f'<div class="{layout}">{shown}</div>' if shown else ""


def cards(values: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: (name, number, unit)."""
    shown = "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}{f" <small>{escape(unit)}</small>" if unit else ""}</b></div>'
        for name, value, unit in values
    )
    return f'<div class="cards">{shown}</div>' if shown else ""


def table(
    rows: Sequence[Sequence[str]],
    header: Sequence[str] = (),
    best: Iterable[tuple[int, int]] = (),
    values: Sequence[Sequence[float | None]] = (),
) -> str:
    """A table of plain text that scrolls where it is too wide.

    Args:
        rows: Of cells.
        header: Of columns.
        best: (row, column) of the cells in bold.
        values: Number of each cell, ``None`` for text; with them, a press on a heading sorts the rows.
    """
    bold = set(best)
    names = [f"<button>{escape(cell)}</button>" if values else escape(cell) for cell in header]
    lines = ["".join(f"<th>{name}</th>" for name in names)] if header else []
    for i, row in enumerate(rows):
        kinds = [' class="best"' if (i, j) in bold else "" for j in range(len(row))]
        if values:
            kinds = [kind + _sort_key(value) for kind, value in zip(kinds, values[i], strict=True)]
        lines.append("".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)))
    start = '<table class="sortable">' if values else "<table>"
    return f'<div class="wide">{start}' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _sort_key(value: float | None) -> str:
    if value is None:
        return ""
    return f' data-value="{value:.8g}"' if math.isfinite(value) else ' data-value=""'


def details(title: str, content: str) -> str:
    """Content (HTML) that opens on request."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"
