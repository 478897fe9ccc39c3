"""The look of figures in results/: colors and sizes that can be read on a page, light or dark."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from lab import figure_style, results
from lab.figure_style import COLORS, DARK, INK, SOFT, limits, look, spread

SVGS = sorted(results.RESULTS.glob("*.svg"))
PAGE = 830  # pixels of a page, of 96 per inch


def contrast(one: str, other: str) -> float:
    """Of two colors, 1 to 21, as WCAG defines it."""

    def luminance(color: str) -> float:
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [*COLORS, INK, SOFT])
def test_colors_can_be_told_from_light_and_dark_pages(color):
    assert contrast(color, "#ffffff") >= 3
    assert contrast(DARK[color], "#0d1117") >= 4.5


def test_no_two_lines_look_alike():
    looks = [tuple(look(index).values()) for index in range(40)]
    assert len(set(looks)) == 40


@pytest.mark.parametrize("path", SVGS, ids=lambda path: path.name)
def test_pictures_follow_the_page_and_their_text_is_large_enough(path):
    text = path.read_text()
    assert "@media (prefers-color-scheme:dark)" in text
    assert 'style="fill: #ffffff"' not in text, "a white background"
    width = float(re.findall(r'width="([\d.]+)pt"', text)[0]) * 96 / 72
    sizes = [float(size) for size in re.findall(r"(?:font-size|font):[^;\"]*?([\d.]+)px", text)]
    sizes = sizes or [12.0]  # a picture without text
    # one decimal less than 8 pt is what rounding of widths costs; indices of letters are smaller
    assert min(size for size in sizes if size > 7.5) * min(1.0, PAGE / width) >= 7.95


def test_a_theme_changes_colors_of_the_dark_alone():
    svg = figure_style.themed('<?xml version="1.0"?>\n<svg width="1">\n<text>a</text></svg>')
    ElementTree.fromstring(svg)
    light, _, dark = svg.partition("@media")
    assert f"{{fill:{INK}}}" in light
    assert f"[style*='stroke: {COLORS[0]}']{{stroke:{DARK[COLORS[0]]}!important}}" in dark


def test_one_far_value_does_not_set_the_axis():
    near = np.linspace(1.0, 2.0, 11)
    low, high = limits(np.append(near, [100.0, np.nan]))
    assert 0.9 < low < 1.0
    assert 2.0 < high < 2.1
    assert limits(np.array([3.0, 3.0])) == (2.5, 3.5)


def test_labels_keep_their_order_and_distance():
    assert spread([0.1, 0.5, 0.9], gap=0.1) == [0.1, 0.5, 0.9]
    places = spread([0.5, 0.5, 0.5, 0.52], gap=0.1)
    assert np.diff(places).min() >= 0.0999
    places = spread([0.0, 0.01, 0.02], gap=0.1)
    assert places[0] >= 0.0
    assert np.diff(places).min() >= 0.0999


def test_no_line_to_a_name_crosses_another_name():
    figure = Figure()
    axes = figure.add_axes((0.1, 0.1, 0.6, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 10))
    names = ["a_long_name", "another_long_name", "the_third", "d"]
    figure_style.label_lines(axes, dict.fromkeys(names, (1, 5)), dict(zip(names, COLORS, strict=False)), height=3)
    figure.draw_without_rendering()
    for text in axes.texts:
        line = text.arrow_patch.get_window_extent()
        assert line.width > 0
        assert all(line.x1 <= Text.get_window_extent(other).x0 + 1 for other in axes.texts)


def test_every_line_has_its_name_beside_it():
    axes = Figure().add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 10))
    figure_style.label_lines(axes, {"a": (1, 5), "b": (1, 5.1)}, {"a": COLORS[0], "b": COLORS[1]}, height=3)
    texts = {text.get_text(): (text.get_color(), text.get_position()) for text in axes.texts}
    assert texts["a"][0] == COLORS[0]
    assert texts["b"][1][1] - texts["a"][1][1] >= 0.05
