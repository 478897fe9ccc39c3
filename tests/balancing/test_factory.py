"""Balancers are made, listed and documented by name."""

import math

import pytest
import torch

from balancing import (
    MOML,
    Balancer,
    BilevelBalancer,
    CAGrad,
    Composed,
    GramianBalancer,
    JacobianBalancer,
    LossBalancer,
    PCGrad,
    Scalarization,
    Sum,
    create_balancer,
    list_balancers,
    register_balancer,
)
from tests.balancing.problems import ALL, make


def test_objectives_must_be_distinct():
    with pytest.raises(ValueError, match="different names"):
        create_balancer("sum", ("a", "a"))


@pytest.mark.parametrize(("given", "problem"), [(2, "is no list"), ("ab", "is no list"), ({"a", "b"}, "has no order")])
def test_objectives_are_an_ordered_list_of_names(given, problem):
    for make_it in (lambda: create_balancer("pcgrad", given), lambda: PCGrad(given)):
        with pytest.raises(ValueError, match=rf"pcgrad: objectives must be a list or tuple of names; .* {problem}"):
            make_it()
    with pytest.raises(ValueError, match="objectives must be a list or tuple"):
        create_balancer(["uncertainty", "pcgrad"], given)
    assert create_balancer("imtl", iter(["a", "b"])).objectives == ("a", "b")


def test_unknown_names_come_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean pcgrad"):
        create_balancer("pcgrd", ("a", "b"))
    with pytest.raises(TypeError, match="evry"):
        create_balancer("mgda", ("a", "b"), evry=3)
    with pytest.raises(ValueError, match="needs the name of a method"):
        create_balancer([], ("a", "b"))


def test_registry_lists_by_glob_and_refuses_a_second_owner():
    assert list_balancers("pc*") == ["pcd", "pcgrad"]
    assert "mgda" in list_balancers()
    with pytest.raises(ValueError, match="already registered"):
        register_balancer("mgda")(type("Other", (Balancer,), {}))


@pytest.mark.parametrize("name", ALL)
def test_docstring_says_what_the_method_needs(name):
    doc = type(make(name)).__doc__
    assert f"needs: {make(name).needs}" in doc
    assert "heads: " + make(name).head_rule in doc
    assert all(word in doc for word in ("scale:", "heads:"))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (LossBalancer, "compute_weights"),
        (Scalarization, "loss"),
        (GramianBalancer, "compute_weights"),
        (JacobianBalancer, "combine"),
        (BilevelBalancer, "look_ahead"),
    ],
)
def test_a_class_without_its_formula_is_refused(kind, method):
    unfinished = type("Unfinished", (kind,), {"name": "unfinished"})
    with pytest.raises(TypeError, match=rf"unfinished: Unfinished must define {method}\(\)"):
        unfinished(["a", "b"])


def test_a_class_of_no_kind_names_the_kinds():
    a, b = (torch.ones((), requires_grad=True) for _ in range(2))
    with pytest.raises(TypeError, match="balancer: derive from a kind, such as LossBalancer or GramianBalancer"):
        Balancer(["a", "b"]).backward({"a": a * 2, "b": a + b})


def test_arguments_of_classes_are_checked_as_those_of_names():
    with pytest.raises(ValueError, match="cagrad: c must be finite, got nan"):
        CAGrad(["a", "b"], c=math.nan)
    with pytest.raises(TypeError, match="pcgrad has no option 'sed'; did you mean seed"):
        PCGrad(["a", "b"], sed=1)
    with pytest.raises(ValueError, match="moml: learns the weights of the losses itself, so sum cannot come before it"):
        Composed(Sum(["a", "b"]), MOML(["a", "b"]))


def test_a_composition_has_the_attributes_of_its_second_method():
    balancer = create_balancer(["realtime", "pcgrad"], ["a", "b"], seed=5)
    assert (balancer.name, balancer.needs) == ("pcgrad", "gramian")
    assert balancer.generator.initial_seed() == 5
    balancer.step = 40  # counts nothing twice, and no step is lost
    a = torch.ones((), requires_grad=True)
    balancer.backward({"a": a * 2, "b": a.square()})
    assert (balancer.loss_balancer.step, balancer.gradient_balancer.step) == (1, 1)
