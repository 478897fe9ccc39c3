"""Balancers are made, listed and documented by name."""

import pytest

from balancing import Balancer, create_balancer, list_balancers, register_balancer
from tests.balancing.problems import ALL, make


def test_objectives_must_be_distinct():
    with pytest.raises(ValueError, match="different names"):
        create_balancer("sum", ("a", "a"))


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
