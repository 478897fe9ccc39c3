"""Arguments annotated with a ``Literal`` are checked in one place, for functions and classes alike."""

import re
from typing import Literal

import pytest

from balancing.choices import check_choices


@check_choices()
def draw(shape: Literal["line", "dot"], size: Literal[1, 2] = 1, color: str = "red") -> tuple:
    return shape, size, color


@check_choices("pen")
class Pen:
    def __init__(
        self, start: "float | Literal['here']" = "here", tip: "Literal['fine', 'broad', 'flat'] | None" = None
    ):
        self.start, self.tip = start, tip


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw("circle"), "draw: shape must be line or dot, got 'circle'"),
        (lambda: draw(shape=None), "draw: shape must be line or dot, got None"),
        (lambda: draw("dot", 3), "draw: size must be 1 or 2, got 3"),
        (lambda: draw("dot", size=True), "draw: size must be 1 or 2, got True"),
        (lambda: Pen("there"), "pen: start must be a number or here, got 'there'"),
        (lambda: Pen(tip="thick"), "pen: tip must be fine, broad or flat, got 'thick'"),
        (lambda: Pen(tip=1), "pen: tip must be fine, broad or flat, got 1"),
    ],
)
def test_other_values_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_values_that_are_named_pass():
    assert draw("dot", 2, color="blue") == ("dot", 2, "blue")
    assert (Pen(2.5).start, Pen("here", "flat").tip, Pen(tip=None).tip) == (2.5, "flat", None)


def test_a_call_that_does_not_fit_is_told_by_python():
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        draw()
    with pytest.raises(TypeError, match="pen has no option 'ink'; choose from start, tip"):
        Pen(ink=1)
