"""lab/peers.py: what is counted in packages that are not imported, and the page from it."""

import sys

import pytest

from balancing import list_balancers
from lab import documents, peers, results


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a list of methods, which fails when it is imported."""
    (tmp_path / "otherlib" / "weighting").mkdir(parents=True)
    (tmp_path / "otherlib" / "__init__.py").write_text("raise RuntimeError('old')\n")
    (tmp_path / "otherlib" / "weighting" / "__init__.py").write_text("__all__ = ['Base', 'MGDA', 'MGDAWeighting']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_names_are_read_without_an_import(package, monkeypatch):
    described = {"packages": {"methods": ["otherlib.weighting"]}, "bases": ["Base"], "names": {"MGDA": "mgda"}}
    monkeypatch.setattr(peers, "PEERS", {"otherlib": described})
    monkeypatch.setattr(peers.importlib.metadata, "version", lambda name: "1.2")
    (row,) = peers.counted()
    assert "otherlib" not in sys.modules
    assert (row["version"], row["names"], row["imports"]) == ("1.2", "MGDA", "RuntimeError: old")


def test_every_counted_method_has_a_name_here_or_none():
    for row in results.read_rows(peers.FILE):
        if row["kind"] == "methods":
            assert set(row["names"].split()) == set(peers.PEERS[row["library"]]["names"])
    here = {name for peer in peers.PEERS.values() for name in peer["names"].values() if name}
    assert here <= {*list_balancers()}


@pytest.mark.parametrize("name", list(peers.BLOCKS["docs/peers.md"]))
def test_the_page_holds_what_was_counted_and_measured(name):
    page = results.ROOT / "docs/peers.md"
    assert documents.block(page, "peers", name) == peers.BLOCKS["docs/peers.md"][name]()
