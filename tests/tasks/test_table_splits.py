"""Splits by what is in a row: others stay when rows come or go. Fingerprints name what has changed in a table."""

import json

import numpy as np
import pytest

from tasks import DataError
from tasks.table_files import TextTable
from tasks.table_splits import PARTS, Shares, check_shares, difference, fingerprint, row_keys, split_rows


def table_of(rows=500, **columns):
    return TextTable.of_columns("task", "labels.csv", {"id": [f"r{i}" for i in range(rows)], **columns})


def members(table, **options):
    """Part -> the rows' names."""
    keys = table.cells("id")
    return {part: {keys[i] for i in index} for part, index in split_rows(table, keys, **options).items()}


def parts_by_row(parts):
    return {key: part for part, keys in parts.items() for key in keys}


def test_rows_that_are_added_removed_or_moved_leave_the_others_where_they_are():
    before = parts_by_row(members(table_of(500)))
    names = [f"r{i}" for i in range(20, 503)]
    np.random.RandomState(0).shuffle(names)
    after = parts_by_row(members(TextTable.of_columns("task", "labels.csv", {"id": names})))
    assert all(after[name] == before[name] for name in names if name in before)
    assert set(after) - set(before) == {"r500", "r501", "r502"}


def test_shares_are_about_as_asked_and_no_part_is_empty():
    counts = {part: len(keys) for part, keys in members(table_of(20_000), shares=Shares(0.1, 0.3)).items()}
    assert counts == {
        part: pytest.approx(count, rel=0.05) for part, count in zip(PARTS, (12_000, 2000, 6000), strict=True)
    }
    for seed in range(50):
        few = members(table_of(20), seed=seed)
        assert min(map(len, few.values())) >= 2
        assert sum(map(len, few.values())) == 20
    assert len({tuple(sorted(members(table_of(20), seed=seed)["val"])) for seed in range(50)}) > 40


def test_equal_rows_are_in_one_part():
    keys = [f"r{i % 7}" for i in range(70)]
    table = table_of(70, kind=[f"{i % 3}" for i in range(70)])
    for rule in ("random", "stratified"):
        parts = split_rows(TextTable.of_columns("task", "t", {"id": keys, "kind": ["x"] * 70}), keys, rule, "kind")
        assert not {keys[i] for i in parts["train"]} & {keys[i] for i in [*parts["val"], *parts["test"]]}
    assert sorted(np.concatenate(list(split_rows(table, keys, "stratified", "kind").values()))) == list(range(70))


def test_strata_have_exact_shares():
    kinds = ["rare" if i % 50 == 0 else "common" for i in range(1000)]
    parts = split_rows(
        table_of(1000, kind=kinds), [f"r{i}" for i in range(1000)], "stratified", "KIND", Shares(0.1, 0.2)
    )
    counted = {
        part: [sum(kinds[i] == kind for i in index) for kind in ("rare", "common")] for part, index in parts.items()
    }
    assert counted == {"train": [14, 686], "val": [2, 98], "test": [4, 196]}


def test_a_group_is_on_one_side():
    customers = [f"c{i % 100}" for i in range(500)]
    parts = split_rows(table_of(500, customer=customers), [str(i) for i in range(500)], "group", "customer")
    sides = [{customers[i] for i in index} for index in parts.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 100


@pytest.mark.parametrize(
    "times",
    [
        [f"{i // 2}" for i in range(100)],
        [f"2026-0{1 + i // 20}-{1 + i % 20 // 2:02}" for i in range(100)],
        [f"2026-0{1 + i // 20}-{1 + i % 20 // 2:02}T00:00:00+01:00" for i in range(100)],
    ],
)
def test_the_latest_rows_test(times):
    order = np.random.RandomState(0).permutation(100)
    parts = split_rows(table_of(100, day=[times[i] for i in order]), [str(i) for i in range(100)], "time", "day")
    found = {part: sorted(order[index]) for part, index in parts.items()}
    assert found["test"] == list(range(84, 100))  # 15, and the one of the same time as the first of them
    assert found["val"] == list(range(70, 84)) or found["val"] == list(range(68, 84))
    assert found["train"] == list(range(min(found["val"])))


def test_a_column_of_parts_is_followed_in_any_case():
    table = table_of(6, Split=["Train", "VAL", "test", "train", "val", "test"])
    assert {part: index.tolist() for part, index in split_rows(table, table.cells("id")).items()} == {
        "train": [0, 3],
        "val": [1, 4],
        "test": [2, 5],
    }


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"split": ["train", "val", "testing"]}, {}, "row 3: split must be train, val or test, got 'testing'"),
        (
            {"split": ["train", "val", "val"]},
            {},
            "no rows in the split 'test'; write it on some lines, or remove the column split",
        ),
        (
            {"split": ["train", "val", "test"]},
            {"rule": "group", "by": "id"},
            "has a column 'split', and task.split=group",
        ),
        ({}, {"rule": "group"}, "task.split=group needs the name of a column: task.split_by=..."),
        ({}, {"rule": "group", "by": "ids"}, "has no column 'ids'; did you mean id?"),
        ({"g": ["a", "", "b"]}, {"rule": "group", "by": "g"}, "row 2: g is empty, so the row is in no group"),
        ({"g": ["1", "", "2"]}, {"rule": "time", "by": "g"}, "row 2: g is empty, so the row has no time"),
        (
            {"g": ["2026-01-01", "today", "1"]},
            {"rule": "time", "by": "g"},
            "row 2: 'today' is no g, which must be a number or a date",
        ),
        ({"g": ["a", "b", "c"]}, {"rule": "stratified", "by": "g"}, "3 rows are too few to split; add more"),
    ],
)
def test_what_cannot_be_split_is_one_message(columns, options, message):
    table = table_of(3, **columns)
    with pytest.raises(DataError, match=r"^task: .*labels\.csv|^task: task\.split") as caught:
        split_rows(table, table.cells("id"), **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("shares", [(0, 0.5), (0.5, 0), (0.5, 0.5), (-0.1, 0.5)])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ValueError, match="leave some for training"):
        check_shares("task", Shares(*shares))


# ---- fingerprints ----------------------------------------------------------------------------------------------------


def changed(change, rows=500):
    cells = {"id": [f"r{i}" for i in range(rows)], "kind": [f"k{i % 3}" for i in range(rows)]}
    known = json.loads(json.dumps(fingerprint(TextTable.of_columns("task", "a", cells), ["id", "kind"])))
    change(cells)
    table = TextTable(
        "task", "b", TextTable.of_columns("task", "b", cells).columns, lines=np.arange(len(cells["id"])) + 2
    )
    return difference(table, list(cells), known)


def extend(cells, place):
    for name, column in cells.items():
        column[place:place] = [f"{name}-new"] * 3


def rename(cells):
    cells["kind"][:] = [cell.replace("k0", "q") for cell in cells["kind"]]


def edit(cells):
    cells["kind"][200] = "k9"


def cut(cells):
    for column in cells.values():
        del column[490:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cells: None, ""),
        (lambda cells: extend(cells, 500), "500 rows then, 503 now: 3 added at the end, from line 502 on"),
        (lambda cells: extend(cells, 0), "500 rows then, 503 now: the first difference is in line 2 to line 9"),
        (rename, "500 rows as before: the first difference in 'kind' is in line 2 to line 9"),
        (edit, "500 rows as before: the first difference in 'kind' is in line 202 to line 209"),
        (cut, "500 rows then, 490 now: the first difference is in line 490 to line 491"),
        (lambda cells: cells.pop("kind"), "now without the column 'kind'"),
        (
            lambda cells: cells.update(size=cells.pop("kind")),
            "now without the column 'kind' and with the column 'size'",
        ),
    ],
)
def test_a_change_is_seen_and_said(change, words):
    assert changed(change) == words


def test_rows_are_told_apart_by_all_of_their_cells():
    table = TextTable.of_columns("task", "a", {"x": ["1", "11", "1"], "y": ["12", "2", "12"]})
    first, second, third = row_keys(table, ["x", "y"])
    assert first == third != second
