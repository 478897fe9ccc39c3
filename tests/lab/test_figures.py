"""The pictures show what the methods do, and every method is in one of them."""

import math

import pytest
import torch

from balancing import balancer_class, list_balancers
from lab.figures import FAMILIES, FIGURES, example, label, pictures
from lab.results import RESULTS

PANELS = [(family, name) for family, panels in pictures().items() for name in panels]


def test_every_method_belongs_to_the_family_of_its_module():
    families = {name: family for family, names in FAMILIES.items() for name in names}
    ours = [name for name in list_balancers() if balancer_class(name).__module__.startswith("balancing.")]
    assert families == {name: balancer_class(name).__module__.split(".")[1] for name in ours}
    drawn = {name for _, name in PANELS}
    assert {name for name in ours if name not in drawn} == {"torchjd", *FAMILIES["bilevel"]}


@pytest.mark.parametrize(("family", "name"), PANELS)
def test_panels_show_the_weights_of_today(family, name):
    picture = (RESULTS / f"arrows_{family}.svg").read_text()
    assert f">{name}</text>" in picture
    assert f">{label(example(name)[1])}</text>" in picture


def test_arrows_are_what_the_formulas_say():
    jacobian, step = example("pcgrad")
    (a, b), product = jacobian, jacobian[0] @ jacobian[1]
    torch.testing.assert_close(step.direction, a - product / (b @ b) * b + b - product / (a @ a) * a)
    _, step = example("mgda")
    assert math.isclose(step.direction @ a, step.direction @ b, rel_tol=1e-9)
    _, step = example("sum")
    torch.testing.assert_close(step.direction, a + b)
    assert step.direction @ a < 0 < step.direction @ b


def test_pictures_are_the_same_every_time(tmp_path):
    for name in ("once.svg", "again.svg"):
        FIGURES["arrows_jacobians.svg"](tmp_path / name)
    assert (tmp_path / "once.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
