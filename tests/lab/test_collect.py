"""lab/collect.py: everything that scripts write from results/ and from the code is, byte for byte, what stands there."""

import re

import pytest

from lab import collect, method_tables, results, tables
from lab.studies import STUDIES

MARK = re.compile(r"<!-- (\S+): written by lab/(\w+)\.py -->")


#: Takes 40 seconds, as every method that is promised to do no harm is tried on dozens of random problems.
LONG = "docs/balancing.md: figures: chooser"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == LONG else [])
        for name in (*collect.block_names(), *collect.FIGURES)
    ],
)
def test_collecting_again_changes_nothing(name):
    assert collect.is_current(name)


@pytest.mark.parametrize("name", sorted(file.name for file in results.RESULTS.glob("*.csv")))
def test_results_are_read_and_written_without_change(tmp_path, name):
    rows = results.read_rows(results.RESULTS / name)
    results.write_rows(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == (results.RESULTS / name).read_bytes()


def test_every_block_of_every_document_is_collected():
    marks = {
        f"{page.relative_to(results.ROOT)}: {script}: {name}"
        for page in (results.ROOT / "README.md", *(results.ROOT / "docs").glob("*.md"))
        for name, script in MARK.findall(page.read_text(encoding="utf-8"))
    }
    assert marks == set(collect.block_names())


def test_only_figures_of_runs_are_left_out():
    of_tables = {file for each in tables.EXPERIMENTS.values() for file in each.figures}
    assert set(collect.of_runs()) == of_tables | {"famo_toy.svg"} | {
        file.name for name in STUDIES if (file := method_tables.weights_file(name)).is_file()
    }


def test_a_table_or_figure_that_would_change_is_an_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(collect, "BLOCKS", {"tables": {"README.md": {"quickstart": lambda: "another table\n"}}})
    monkeypatch.setattr(collect, "FIGURES", {"balancer_cost.svg": lambda path: path.write_text("another figure")})
    with pytest.raises(SystemExit, match=r"would change: README.md: tables: quickstart, balancer_cost.svg"):
        collect.main(["--check"])
    assert capsys.readouterr().out.startswith("0 of 2 tables and figures are the same; left out: ")
