"""docs/your_own_loop.md: each row names set-ups of tests/balancing/test_set_ups.py, and none of these is left out."""

import re

from tests.balancing.test_set_ups import CHECKS
from tests.loops.pages import ROOT

TEXT = (ROOT / "docs" / "your_own_loop.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*?) <!-- ([\w ]+) --> \| (.*?) \| ?(.*?) ?\|$", TEXT, re.MULTILINE)
NAMES = [name for _, names, *_ in ROWS for name in names.split()]


def test_the_page_has_one_row_for_every_set_up():
    assert sorted(NAMES) == sorted(CHECKS)


def test_every_row_says_what_happens():
    assert len(ROWS) >= 40
    assert len(NAMES) == len(set(NAMES))
    assert len(ROWS) == len(re.findall("<!--", TEXT))
    for set_up, _, *cells in ROWS:
        assert any(re.match(r"(right|refused)\b", cell) for cell in cells), set_up
