"""lab/recorded.py: what `mozoo list` shows is what results/ and the models say."""

import json

import pytest

import zoo
from lab import method_tables, recorded
from lab.studies import STUDIES
from mozoo.commands.recorded import FILE

KNOWN = json.loads(FILE.read_text(encoding="utf-8"))


def test_collecting_again_changes_nothing():
    """If results/ or the registries have changed: python lab/recorded.py --collect."""
    assert recorded.content(KNOWN["models"]) == KNOWN


def test_only_finished_studies_count_whose_problem_is_solved():
    """In those that are not finished the rival is the plain sum, not tuned static weights."""
    finished = [method_tables.Results(name) for name in STUDIES if method_tables.finished(name)]
    known = max(sum((line["studies"] or {}).values()) for line in KNOWN["balancers"].values())
    assert 0 < len(method_tables.counted(finished)) == known


@pytest.mark.parametrize("name", ["shared_trunk", "esmm", "gan_points"])
def test_sizes_are_those_of_the_model(name):
    assert recorded.size_of(name) == {key: KNOWN["models"][name][key] for key in ("parameters", "operations")}


def test_every_model_was_measured():
    assert [name for name in zoo.list_models() if not KNOWN["models"][name]["parameters"]] == []


def test_a_model_without_its_data_keeps_its_line(monkeypatch, capsys):
    def gone(name):
        raise ValueError(f"{name} needs a package")

    monkeypatch.setattr(recorded, "size_of", gone)
    assert recorded.measured() == {}
    assert "esmm keeps its line: esmm needs a package" in capsys.readouterr().err
