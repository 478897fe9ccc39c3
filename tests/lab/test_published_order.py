"""The order of methods on QM9 beside the published one."""

from types import SimpleNamespace

from lab import published_order
from mozoo.comparison.estimates import Estimate


def test_pairs_that_are_ordered_alike_are_counted():
    assert published_order.alike({"a": 1, "b": 2, "c": 3}, {"a": 10, "b": 30, "c": 20}) == (2, 3)
    assert published_order.alike({"a": 1, "b": 2}, {"a": 1, "b": 2}) == (1, 1)


def test_block_has_both_columns_in_the_published_order(monkeypatch):
    monkeypatch.setattr(published_order, "finished", lambda name: False)
    assert "when the study has run" in published_order.qm9_order()
    here = {method: float(i) for i, method in enumerate(published_order.PRINTED)}
    study = SimpleNamespace(delta=lambda method: Estimate(here[method], None))
    monkeypatch.setattr(published_order, "finished", lambda name: True)
    monkeypatch.setattr(published_order, "Results", lambda name: study)
    lines = published_order.qm9_order().splitlines()
    assert lines[2] == "| `famo` (FAMO) | 58.5 | 9.0 |"
    assert lines[-1].startswith("Of 45 pairs of methods ")
    assert lines[11] == "| `sum` (LS) | 177.6 | 0.0 |"
