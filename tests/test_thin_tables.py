"""Tables of runs are read into little memory: short ones as they are, long ones as means, damaged ones not at all."""

import tracemalloc

import numpy as np
import pytest

import mozoo
from mozoo import thin_tables
from mozoo.thin_tables import FEWEST, read_thin


def written(path, rows, columns=("step", "phase", "loss/a", "weight/a")):
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_a_short_table_is_kept_as_it_is(tmp_path):
    rows = [(1, "all", 0.5, ""), (2, "all", "nan", 2), (3, "other", 1.5, "inf"), (4, "all", 2.5, 3)]
    tables = read_thin(written(tmp_path / "t.csv", rows), "phase")
    assert list(tables) == ["all", "other"]
    assert tables["all"].merged == 1
    assert tables["all"].series("loss/a", "step") == ([1, 4], [0.5, 2.5])
    assert tables["all"].series("weight/a", "step") == ([2, 4], [2, 3])
    assert tables["other"].series("weight/a", "step") == ([], [])
    assert tables["all"].series("none", "step") == ([], [])
    assert tables["all"].last == {"step": 4, "loss/a": 2.5, "weight/a": 3}


@pytest.mark.parametrize("count", [2 * FEWEST, 2 * FEWEST + 1, 7777])
def test_a_long_table_becomes_means_of_neighboring_rows(tmp_path, count):
    values = np.random.default_rng(0).random(count)
    rows = [(i + 1, "all", f"{value:.17g}", "" if i % 3 else i) for i, value in enumerate(values)]
    table = read_thin(written(tmp_path / "t.csv", rows), "phase")["all"]
    assert (table.merged > 1) == (count > 2 * FEWEST)
    assert FEWEST < len(table.columns["step"]) <= 2 * FEWEST
    pieces = [values[i : i + table.merged] for i in range(0, count, table.merged)]
    np.testing.assert_allclose(table.columns["loss/a"], [piece.mean() for piece in pieces], rtol=1e-12)
    starts = range(0, count, table.merged)
    known = [np.mean([i for i in range(s, min(s + table.merged, count)) if i % 3 == 0] or [np.nan]) for s in starts]
    np.testing.assert_allclose(table.columns["weight/a"], known, rtol=1e-12)


def test_of_a_larger_table_a_sample_is_read_and_the_last_row(tmp_path, monkeypatch):
    monkeypatch.setattr(thin_tables, "_CELLS", 8000)
    path = written(tmp_path / "t.csv", [(i, "all", i, 1) for i in range(20_000)])
    with path.open("a") as file:
        file.write("20000,al")  # the process was killed here
    table = read_thin(path, "phase")["all"]
    x, y = table.series("loss/a", "step")
    assert x == y == sorted(x)
    assert table.last["step"] == 19_999
    assert 1500 < table.merged * len(x) < 2600  # about 2,000 rows of four cells
    assert np.mean(x) == pytest.approx(10_000, rel=0.05)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    def most(rows):
        path = written(tmp_path / f"{rows}.csv", [(i, "all", 0.5, 0.25) for i in range(rows)])
        tracemalloc.start()
        read_thin(path, "phase")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = most(10_000), most(30_000)
    assert large < 1.2 * small


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"step,phase,a\n1,all,b\n", "could not convert"),
        (b"step,phase,a\n\xff\xfe,all,1\n", "decode"),
        (b"step,phase,a\n" + b"".join(b"1,%d,2\n" % i for i in range(100)), "more than 64 values of phase"),
    ],
)
def test_a_damaged_table_is_one_message(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(mozoo.ConfigError, match=f"t.csv is damaged .*{message}.*; restore it, or remove it"):
        read_thin(tmp_path / "t.csv", "phase")


def test_what_is_not_there_has_no_rows(tmp_path):
    assert read_thin(tmp_path / "t.csv", "phase") == {}
    (tmp_path / "t.csv").touch()
    assert read_thin(tmp_path / "t.csv", "phase") == {}
