"""Figures as self-contained SVG images, with names as they are, for light and dark pages."""

from __future__ import annotations

import base64
import io
import re
import warnings
from typing import Any

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from mozoo.visible import visible
from tasks.marks import WRONG

#: Color of objectives and other lines, in their order -> the same in the dark.
PALETTE = {
    "#2563eb": "#60a5fa",
    "#d97706": "#fbbf24",
    "#059669": "#34d399",
    "#9333ea": "#c084fc",
    "#dc2626": "#f87171",
    "#0891b2": "#22d3ee",
    "#65a30d": "#a3e635",
    "#be185d": "#f472b6",
}
_DARK = {"#000000": "#cbd5e1", "#e2e8f0": "#334155", **PALETTE}
PAPER, INK = "#ffffff", "#1e293b"  # of cells of a table, whose text keeps its color
_CARD = "#1e293b"  # behind a figure in the dark


def _theme() -> str:
    rules = [
        f'text:not([style*="fill: {PAPER}"], [style*="fill: {INK}"]){{fill:#cbd5e1!important}}',
        f'text[style*="fill: {WRONG}"]{{fill:#f87171!important}}',
        f'path[style*="fill: {PAPER}"],use[style*="fill: {PAPER}"]{{fill:{_CARD}!important}}',
    ]
    for light, dark in _DARK.items():
        rules += [f'[style*="{kind}: {light}"]:not(text){{{kind}:{dark}!important}}' for kind in ("stroke", "fill")]
    return "<style>@media (prefers-color-scheme:dark){" + "".join(rules) + "}</style>"


def data_uri(figure: Figure, crop: bool = False) -> str:
    """The figure as an image for a page; ``crop`` removes margins in twice the time.

    All text is shown as it is: dollar signs are no formulas, and control characters have a sign each. In a dark page, text and
    lines are light.
    """
    _show_names(figure)
    drawn = io.StringIO()
    look: Any = {"svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.rc_context(look), warnings.catch_warnings():
        # letters that matplotlib has no font for: a browser has
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(drawn, format="svg", metadata={"Date": None}, bbox_inches="tight" if crop else None)
    text = re.sub(r"(<svg[^>]*>)", lambda start: start[1] + _theme(), visible(drawn.getvalue(), lines=True), count=1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _show_names(figure: Figure) -> None:
    """Draw every text as it is, names of a user among them."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatter):  # which writes formulas
                plain_ticks(axis)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(visible(text.get_text(), lines=True))
