"""The diamonds task: clean-up, split, targets, and what it says about damaged files."""

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import DataError, create_task
from tasks.diamonds import _SHA256, _split

CSV = Path("tasks/data/diamonds.csv.xz")


@pytest.fixture(scope="module")
def task():
    made = create_task("diamonds")
    made.splits()
    return made


def test_counts_are_those_of_the_documentation(task):
    assert [len(part) for part in task.splits()] == [37_431, 8_021, 8_021]
    assert sum(len(part) for part in task.splits()) == 53_473


def test_no_stone_is_in_two_splits(task):
    rows = [{row.tobytes() for row in part.inputs[0].numpy()} for part in task.splits()]
    assert [len(r) for r in rows] == [37_431, 8_021, 8_021]
    assert not rows[0] & rows[1] | rows[0] & rows[2] | rows[1] & rows[2]


def test_every_split_has_the_same_mix_of_cuts(task):
    shares = [torch.bincount(part.targets["cut"], minlength=5) / len(part) for part in task.splits()]
    assert (shares[0] - shares[1]).abs().max() < 2e-4
    assert (shares[0] - shares[2]).abs().max() < 2e-4


def test_the_split_never_changes():
    cut = np.random.RandomState(1).randint(0, 5, 1000)
    train, val, test = _split(cut)
    assert sorted([*train, *val, *test]) == list(range(1000))
    assert [part[:4].tolist() for part in (train, val, test)] == [[0, 3, 4, 6], [1, 14, 27, 31], [2, 5, 8, 18]]


def test_inputs_are_standardised_with_the_training_split(task):
    numbers = task.splits().train.inputs[0][:, :6]
    assert numbers.mean(0).abs().max() < 1e-4
    assert (numbers.std(0) - 1).abs().max() < 1e-3
    indicators = task.splits().test.inputs[0][:, 6:]
    assert torch.equal(indicators[:, :7].sum(1), torch.ones(8_021))
    assert torch.equal(indicators[:, 7:].sum(1), torch.ones(8_021))


def test_targets_are_two_views_of_one_price(task):
    dollars = create_task("diamonds", target="price_usd").splits().test.targets["price"]
    logs = task.splits().test.targets["price"]
    assert dollars.min() >= 326
    assert dollars.max() <= 18_823
    torch.testing.assert_close(task.objectives[1].inverse_transform(logs), dollars, rtol=1e-4, atol=0)
    assert abs(task.splits().train.targets["price"].std() - 1) < 1e-3


def test_losses_before_training_are_seven_orders_apart():
    raw = create_task("diamonds", target="price_usd")
    raw.splits()
    initial = raw.initial_losses(raw.splits())
    assert initial["cut"] == pytest.approx(np.log(5))
    assert 6.5 < np.log10(initial["price"] / initial["cut"]) < 7.5
    assert raw.prior_losses(raw.splits())["price"] == pytest.approx(1.58e7, rel=0.02)


def test_reference_losses_of_standardised_targets(task):
    assert task.prior_losses(task.splits()) == pytest.approx({"cut": 1.3726, "price": 1.0}, abs=1e-3)
    assert task.auto_value("classification", task.splits()) == ("cut",)
    with pytest.raises(KeyError):
        task.auto_value("in_channels", task.splits())


def test_labels_cannot_be_asked_for_before_the_data_are_there():
    with pytest.raises(TypeError, match="splits"):
        create_task("diamonds").prior_losses()


def lines():
    with lzma.open(CSV, "rt") as file:
        return file.read().splitlines()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: [row.rpartition(",")[0] for row in rows], "has no column 'z'"),
        (lambda rows: [*rows[:500], rows[500][:12]], "line 501: 3 cells here and 10 in the header"),
        (
            lambda rows: [*rows[:300], '0.3,"Ideal","E","SI2",61.5,55,nan,3.95,3.98,2.43'],
            "line 301: price must be a positive",
        ),
        (lambda rows: [*rows[:300], '0.3,"Fine","E","SI2",61.5,55,326,3.95,3.98,2.43'], "line 301: 'Fine' is no cut"),
        (lambda rows: [*rows[:300], rows[300] + ",7"], "line 301: 11 cells here and 10 in the header"),
        (lambda rows: rows[:50], "too few"),
        (lambda rows: [], "has no column"),
    ],
)
def test_a_damaged_table_names_the_file_and_the_line(tmp_path, damage, message):
    path = tmp_path / "stones.csv"
    path.write_text("\n".join(damage(lines())))
    task = create_task("diamonds", csv=str(path))
    with pytest.raises(DataError, match=r"stones\.csv") as caught:
        task.splits()
    assert message in str(caught.value)


def test_blank_lines_empty_cells_without_a_column_and_a_byte_order_mark_make_no_difference(tmp_path):
    plain, odd = tmp_path / "plain.csv", tmp_path / "odd.csv"
    rows = lines()[:400]
    plain.write_text("\n".join(rows))
    odd.write_text("\ufeff" + "\n\n".join([rows[0], *(row + ",," for row in rows[1:200]), *rows[200:]]) + "\n\n")
    first, second = (create_task("diamonds", csv=str(path)).splits() for path in (plain, odd))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.inputs[0], b.inputs[0])
        assert all(torch.equal(a.targets[name], b.targets[name]) for name in ("cut", "price"))


def test_a_truncated_archive_is_damaged_not_short(tmp_path):
    path = tmp_path / "stones.csv.xz"
    path.write_bytes(CSV.read_bytes()[:100_000])
    with pytest.raises(DataError, match="is damaged"):
        create_task("diamonds", csv=str(path)).splits()


def test_the_shipped_file_is_checked(monkeypatch):
    monkeypatch.setattr("tasks.diamonds._SHA256", _SHA256[::-1])
    with pytest.raises(DataError, match="checksum"):
        create_task("diamonds").splits()


def test_a_missing_file_says_where_it_was_looked_for():
    with pytest.raises(DataError, match=r"no file nowhere\.csv"):
        create_task("diamonds", csv="nowhere.csv").splits()


def test_unknown_target_is_refused():
    with pytest.raises(ValueError, match="log_price or price_usd"):
        create_task("diamonds", target="euros")
