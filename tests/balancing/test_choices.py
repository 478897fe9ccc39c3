"""Arguments annotated with a ``Literal`` are checked in one place, for functions and classes alike."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
import torch

from balancing import balancer_arguments, create_balancer, list_balancers
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


@check_choices()
def mix(share: float, count: int = 1, names: Sequence[str] = (), values: Mapping[str, float] | None = None) -> None:
    pass


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, int])
def test_numbers_of_numpy_pass_without_a_warning(kind):
    mix(2.0**-126)  # the smallest of float32 with all its digits
    mix(kind(1), np.int32(2), values={"a": kind(2)})
    balancer = create_balancer("upgrad", ("a", "b"), seed=np.int64(3), max_norm=kind(1), preference={"a": kind(2)})
    assert torch.equal(balancer.generator.get_state(), torch.Generator().manual_seed(3).get_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": "x"}, "mix: share must be a number, got 'x'"),
        ({"share": True}, "mix: share must be a number, got True"),
        ({"share": 1e308}, "mix: share must be a number of float32, 1.2e-38 to 3.4e38, got 1e+308"),
        ({"share": 2.0**-127}, f"mix: share must be a number of float32, 1.2e-38 to 3.4e38, got {2.0**-127}"),
        ({"share": 1e-320}, "mix: share must be a number of float32, 1.2e-38 to 3.4e38, got 1e-320"),
        ({"share": 10**400}, f"mix: share must be a number of 64 bits, got 1{59 * '0'}..."),
        ({"share": 1, "count": 2.5}, "mix: count must be an integer, got 2.5"),
        ({"share": 1, "names": "ab"}, "mix: names must be a list of a string, got 'ab'"),
        (
            {"share": 1, "values": {"a": None}},
            "mix: values.a must be a number, got None",
        ),
        ({"share": 1, "values": {"a": {"b": float("nan")}}}, "mix: values must be finite, got nan"),
    ],
)
def test_numbers_and_types_are_checked_by_annotation(options, message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(message)}$"):
        mix(**options)
    mix(1, names=["a"], values={"a": 0})


def test_a_default_fits_whatever_its_annotation_says():
    @check_choices()
    def old(width: int = None) -> None:  # noqa: RUF013  as written before PEP 484 changed
        pass

    old(width=None)
    with pytest.raises(TypeError, match="old: width must be an integer"):
        old(width="x")


@pytest.mark.parametrize("value", [1e308, -1e308, 10**400, 1e-320, object(), b"x", [[1]], {1: 2}, torch.tensor(1.0)])
def test_no_balancer_takes_an_option_of_another_type_or_size(value):
    for name in list_balancers():
        for option in balancer_arguments(name):
            if option == "values" or (name, option, type(value)) == ("torchjd", "arguments", dict):
                continue
            with pytest.raises((ValueError, TypeError)):
                create_balancer(name, ("a", "b", "c"), **{option: value})
