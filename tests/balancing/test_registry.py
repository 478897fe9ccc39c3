"""Names of balancers, models and tasks are kept by one class."""

import pytest

from balancing.registry import Registry, suggestion


def test_entries_are_found_by_name_and_glob():
    registry = Registry("shape")
    registry.add("line", 1)
    registry.add("arc", 2)
    assert (registry.get("arc"), registry.names(), registry.names("l*")) == (2, ["arc", "line"], ["line"])


def test_a_name_is_given_once():
    registry = Registry("shape")
    registry.add("line", int)
    with pytest.raises(ValueError, match=r"a shape named 'line' is already registered \(int\)"):
        registry.add("line", float)


def test_an_unknown_name_is_answered_with_near_ones_or_all():
    registry = Registry("shape")
    registry.add("line", 1)
    registry.add("arc", 2)
    with pytest.raises(ValueError, match="unknown shape 'lien'; did you mean line\\?"):
        registry.get("lien")
    with pytest.raises(ValueError, match="unknown shape 'zzz'; known: arc, line"):
        registry.get("zzz")
    assert suggestion("zzz", ["b", "a"], "choose from {}") == "choose from a, b"
