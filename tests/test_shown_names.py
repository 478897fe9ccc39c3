"""Names of a user are shown as they are: in the text of pages, in pictures, and with a sign for each control character."""

import base64
import html
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from mozoo import figures, page, svg
from mozoo.visible import visible

NAMES = ["$x^2$", "cost in $", r"\$5 \frac", "a < b & c > d", "[red]bold[/]", "=1+1", '"quoted"', "_minus", "%s {0}"]
CONTROLS = {"a\x00b\x1bc": "a␀b␛c", "two\nlines": "two␊lines", "\x7f\x85": "␡�", "\u202eright": "�right", "\udc80": "�"}


def texts(uri):
    """All text in a picture, each as the reader sees it."""
    root = ET.fromstring(base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")))
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("crop", [False, True])
def test_pictures_show_names_as_they_are(crop):
    lines = {name: ([1, 2, 3], [1.0, i, 2.0]) for i, name in enumerate(NAMES[:8])}
    size = len(NAMES)
    drawn = [
        figures.curves(NAMES[0], lines, "epoch"),
        figures.confusion(NAMES[1], np.arange(size), np.arange(size), NAMES),
        figures.tags(NAMES[2], np.eye(size, dtype=bool), np.eye(size, dtype=bool), NAMES),
        figures.shares(NAMES[3], {name: dict.fromkeys(NAMES, 0.5) for name in NAMES}),
        figures.heat_map(NAMES[4], [1, 2], {name: [0.1, 0.2] for name in NAMES}, "step", "cosine"),
        figures.matrix(NAMES[5], NAMES, np.eye(size), "cosine"),
    ]
    for figure, title in zip(drawn, NAMES, strict=False):
        shown = {text.strip() for text in texts(svg.data_uri(figure, crop))}
        wanted = {title, *(NAMES[:8] if figure is drawn[0] else NAMES)}
        assert wanted <= shown, wanted - shown


def test_figures_of_a_task_show_names_as_they_are():
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    axes.bar(NAMES, range(1, 1 + len(NAMES)))
    axes.set_yscale("log")
    axes.set_title("\n".join(NAMES[:2]))
    shown = texts(svg.data_uri(figure))
    assert {*NAMES} <= {text.strip() for text in shown}
    assert not [text for text in shown if "mathdefault" in text]


def test_control_characters_have_a_sign():
    for text, wanted in CONTROLS.items():
        assert visible(text) == wanted
        figure = figures.confusion(text, np.arange(2), np.arange(2), [text, "other"])
        figure.axes[0].set_xlabel(text.replace("\n", ""))
        shown = texts(svg.data_uri(figure))
        assert shown.count(wanted) >= 3
        assert page.escape(text) == wanted
    assert visible("a\tb\nc\x07", lines=True) == "a\tb\nc␇"


def test_pages_show_names_as_they_are():
    whole = page.page(
        "<t>", [page.table([NAMES], NAMES), page.cards([(NAMES[3], "1", NAMES[0])]), page.heading(NAMES[3])]
    )
    cells = [html.unescape(cell) for cell in re.findall("<t[dh]>(.*?)</t[dh]>", whole)]
    assert cells == NAMES * 2
    assert "a &lt; b &amp; c &gt; d" in whole
    assert "<t>" not in whole


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *(
            (0.0, "0"),
            (1.0, "1"),
            (7.0, "7"),
            (9_999_999.0, "9,999,999"),
            (31_184_676.0, "3.118e+07"),
            (0.98812, "0.9881"),
            (347.06, "347.1"),
        ),
        *((12292.7, "12,293"), (-0.5, "-0.5000")),
        *((1.2345e-5, "1.234e-05"), (0.00012345, "0.0001234"), (1.5e12, "1.500e+12")),
        *((float("nan"), "not finite"), (None, "not finite"), (float("inf"), "not finite")),
    ],
)
def test_numbers_have_one_format(value, shown):
    assert page.number(value) == shown
