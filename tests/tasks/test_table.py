"""Tables of one's own: what columns become, what a run keeps, and what is said about mistakes."""

import importlib.util
import json
import math
import re
from datetime import date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
import torch

import mozoo
import train
from tasks import DataError, Prediction, create_task
from tasks.table_files import moment
from tasks.table_frames import read_any
from tasks.table_labels import LabelChoice, choose_labels
from zoo import create_model

CITIES = ("Bergen", "Oslo", "Tromsø")
OBJECTIVES = {
    "churn": "classes",
    "spend": "number",
    "tags": "tags",
    "visits": "count",
    "size": {"kind": "ordered", "order": ["S", "M", "L"]},
}


def customers(rows=120):
    """Columns of customers: every label follows from age and city, some cells are missing, one city is rare."""
    random = np.random.RandomState(0)
    table = {name: [] for name in ("id", "age", "city", "joined", "zip", "churn", "spend", "tags", "visits", "size")}
    for i in range(rows):
        age, city = random.randint(18, 80), random.randint(3)
        tags = [tag for tag, limit in (("mail", 30), ("vip", 50)) if age > limit]
        cells = {
            "id": f"C{i}",
            "age": "" if i % 11 == 0 else str(age),
            "city": "Vardø" if i % 40 == 7 else "?" if i % 6 == 3 else CITIES[city],
            "joined": f"20{10 + i % 9}-0{1 + i % 8}-11",
            "zip": ("0150", "5003")[i % 2],
            "churn": "" if i % 13 == 0 else ("no", "yes")[age > 45],
            "spend": "NA" if i % 17 == 0 else f"{3.0 * age + 10 * city}",
            "tags": ";".join(tags),
            "visits": str(age // 20),
            "size": "SML"[min(age // 30, 2)],
        }
        for name, cell in cells.items():
            table[name].append(cell)
    return table


def write(path, columns):
    rows = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def csv(tmp_path):
    return write(tmp_path / "customers.csv", customers())


def table_of(csv, objectives=OBJECTIVES, **options):
    return create_task("table", csv=str(csv), objectives=objectives, **options)


class Frame:
    """What a data frame of pandas or polars has in common."""

    class Column:
        def __init__(self, values):
            self.values = values

        def to_numpy(self):
            return self.values

    def __init__(self, columns):
        self.own, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return Frame.Column(self.own[name])


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_dates_with_the_day_first_are_dates_and_others_are_named(tmp_path):
    columns = customers()
    iso = [f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(120)]
    days = {
        "dots": [f"{text[8:].lstrip('0')}.{text[5:7]}.{text[:4]}" for text in iso],
        "slashes": [f"{text[5:7]}/{text[8:]}/{text[:4]}" for text in iso],
        "iso": iso,
    }
    csv = write(tmp_path / "customers.csv", {**columns, **days})
    task = table_of(csv, ignore=["joined"], split="time", split_by="dots")
    splits = task.splits()
    notes = "\n".join(splits.notes)
    assert "dots date" in notes
    assert "slashes (dates? They are read as 2026-11-28 or 28.11.2026)" in notes
    dots, same = splits.train.inputs[0][:, 2:4].T
    assert torch.equal(dots, same)


def test_classes_that_may_be_tags_are_pointed_out(tmp_path):
    columns = customers()
    columns["tags"] = [("a|b", "b|c", "a|c", "c", "a|b|c")[i % 5] for i in range(120)]
    notes = table_of(write(tmp_path / "customers.csv", columns), ["churn", "tags"]).splits().notes
    assert "(several in a cell? {kind: tags, separator: '|'} tells them apart)" in notes[-1]
    assert "several in a cell" not in notes[-2]


def test_cells_say_what_a_column_is(csv):
    task = table_of(csv)
    notes = "\n".join(task.splits().notes)
    assert "age number, " in notes
    assert "city category (4, other for " in notes  # three cities and missing ones; Vardø is rare
    assert "joined date" in notes
    assert "zip category (2)" in notes  # numbers, but with leading zeros
    assert "left out: id (120 different texts in 120 rows" in notes
    assert re.search(r"objective churn: classes: no, yes, 8.\d % missing; cross_entropy", notes)
    assert "objective size: ordered: S, M, L; ordinal" in notes
    assert task.info["in_features"] == 3  # age, whether it is missing, and the date
    assert task.info["categories"] == (5, 3)
    assert task.info["classifiers"] == {"churn": 2, "tags": 2, "size": 2}
    assert task.info["regressors"] == {"spend": 1, "visits": 1}


def test_types_can_be_set_and_columns_left_out(csv):
    task = table_of(csv, types={"zip": "number", "age": "category"}, ignore=["joined", "id"], min_count=1)
    notes = "\n".join(task.splits().notes)
    assert "zip number" in notes
    assert "age category" in notes
    assert "joined" not in notes
    assert "left out" not in notes
    assert task.info["in_features"] == 1


def test_numbers_are_standardized_and_missing_ones_filled_in_by_the_training_rows(csv):
    task = table_of(csv)
    train, *_ = task.splits()
    age, absent = train.inputs[0][:, 0].double(), train.inputs[0][:, 1]
    assert set(absent.tolist()) == {0, 1}
    assert abs(age[absent == 0].mean()) < 1e-6
    assert age[absent == 0].std(correction=0) == pytest.approx(1, rel=1e-5)
    assert age[absent == 1].unique().numel() == 1
    known = age[absent == 0].sort().values
    assert known[(len(known) - 1) // 2] <= age[absent == 1][0] <= known[len(known) // 2]
    mean, *_ = table_of(csv, impute="mean").splits()
    assert mean.inputs[0][absent == 1, 0].abs().max() < 1e-6


def test_rare_and_unseen_categories_have_one_code(csv, tmp_path):
    task = table_of(csv)
    task.splits()
    columns = {name: cells[:4] for name, cells in customers().items() if name not in OBJECTIVES}
    columns["city"] = ["Oslo", "Vardø", "Paris", "n/a"]
    columns["age"] = ["40", "", "44", "45"]
    data = task.preprocess(write(tmp_path / "new.csv", columns))
    assert data.inputs[1][:, 0].tolist() == [3, 0, 0, 1]
    assert data.inputs[0][:, 1].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("model", ["shared_trunk", "cross_stitch", "mmoe", "ple"])
def test_models_embed_categories_and_learn_from_them(model):
    arguments = {"in_features": 2, "classifiers": {"a": 2}, "regressors": {"b": 1}}
    torch.manual_seed(0)
    net = create_model(model, **arguments, categories=[4, 3])
    x, codes = torch.randn(6, 2), torch.tensor([[0, 0], [1, 2], [3, 1], [2, 2], [1, 0], [0, 1]])
    outputs = net(x, codes)
    other = net(x, (codes + torch.tensor([1, 0])) % 4 % 3)
    assert not torch.allclose(outputs["a"], other["a"])
    sum(value.sum() for value in outputs.values()).backward()
    assert net.embedding.table.weight.grad.abs().sum(1).gt(0).all()
    assert {*net.embedding.parameters()} <= {*net.shared_parameters()}
    assert sum(p.numel() for part in net.networks().values() for p in part.parameters()) == sum(
        p.numel() for p in net.parameters()
    )
    with pytest.raises(TypeError, match="takes numbers and codes"):
        net(x)
    assert create_model(model, **{**arguments, "in_features": 0}, categories=[4, 3])(x[:, :0], codes)["a"].shape == (
        6,
        2,
    )


def test_a_model_without_categories_gets_indicators(csv):
    task = table_of(csv)
    splits = task.splits()
    assert task.for_model({"in_features", "categories"}).info["in_features"] == 3
    numbers = task.for_model({"in_features"}).info["in_features"]
    assert numbers == 3 + 4 + 2

    def net(x):
        assert x.shape == (9, numbers)
        return {"x": x}

    batch = splits.train.batch(torch.arange(9))
    x = task.outputs(net, batch)["x"]
    torch.testing.assert_close(
        x[:, 3:7].argmax(1)[x[:, 3:7].sum(1) > 0] + 1, batch.inputs[1][:, 0][batch.inputs[1][:, 0] > 0]
    )


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_masked_where_they_are_missing_and_in_the_unit_of_the_user(csv):
    task = table_of(csv, min_count=1)
    train, *_ = task.splits()
    targets = train.targets
    assert (targets["churn"] == -1).any()
    assert targets["spend"].isnan().any()
    assert not targets["tags"].isnan().any()
    assert set(targets["size"].tolist()) == {0, 1, 2}
    assert targets["visits"].max() >= 3  # not standardized
    assert {o.name: o.unit for o in task.objectives}["spend"] == "spend"
    columns = customers()
    spend = {float(cell) for cell in columns["spend"] if cell != "NA"}
    (objective,) = (o for o in task.objectives if o.name == "spend")
    found = objective.inverse_transform(targets["spend"][~targets["spend"].isnan()])
    assert all(min(abs(value - s) for s in spend) < 1e-3 for value in found.tolist())


@pytest.mark.parametrize("said", ["spend", ["spend"], ["spend: number"], {"spend": "number"}])
def test_an_objective_is_named_in_several_ways(csv, said):
    task = table_of(csv, said)
    task.splits()
    assert [(o.name, o.criterion.name) for o in task.objectives] == [("spend", "squared_error")]


def test_kinds_of_listed_objectives_are_those_of_their_cells(csv):
    task = table_of(csv, ["churn", "spend", "tags", "visits"])
    notes = " ".join(task.splits().notes)
    for said in ("churn: classes", "spend: number", "tags: tags", "visits: number"):
        assert f"objective {said}" in notes


def test_an_empty_cell_says_that_there_are_no_tags_or_that_they_are_unknown(csv):
    none = table_of(csv, {"tags": "tags"}).splits().train.targets["tags"]
    unknown = table_of(csv, {"tags": {"kind": "tags", "empty": "missing"}}).splits().train.targets["tags"]
    assert (none.sum(1) == 0).any()
    assert torch.equal(unknown.isnan().all(1), none.sum(1) == 0)


def test_logarithms_are_learned_and_reported_as_numbers(csv):
    task = table_of(csv, {"spend": {"kind": "number", "log": True}})
    targets = task.splits().train.targets["spend"]
    (objective,) = task.objectives
    known = targets[~targets.isnan()]
    assert abs(known.mean()) < 1e-5
    assert objective.inverse_transform(known).min() >= 50
    assert objective.inverse_transform(torch.tensor([1e6])).isfinite()
    assert task.decode({"spend": known[:2, None]}).cells["spend"] == pytest.approx(
        objective.inverse_transform(known[:2]).tolist()
    )


def test_criteria_are_chosen_by_objective(csv):
    criteria = {"churn": {"name": "focal", "weights": "balanced"}, "spend": "quantile"}
    task = table_of(csv, {"churn": "classes", "spend": "number"}, criteria=criteria)
    splits = task.splits()
    names = {o.name: o.criterion.name for o in task.objectives}
    assert names == {"churn": "focal", "spend": "quantile"}
    assert task.info["regressors"] == {"spend": 3}
    assert len(task.objectives[0].criterion.weights) == 2
    assert all(value > 0 for value in (task.initial_losses(splits) | task.prior_losses(splits)).values())


def test_what_a_run_keeps_is_enough_to_read_and_decode(csv):
    task, other = table_of(csv), table_of("elsewhere.csv")
    splits = task.splits()
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert other.info == task.info
    data = other.preprocess(csv)
    assert len(data) == sum(map(len, splits))
    assert {tuple(row) for row in splits.test.inputs[0].tolist()} <= {tuple(row) for row in data.inputs[0].tolist()}
    outputs = {o.name: torch.zeros(2, o.criterion.outputs) for o in other.objectives}
    cells = other.decode(outputs).cells
    assert cells["size"] == ["S", "S"]
    assert cells["tags"] == ["mail;vip", "mail;vip"]


def test_a_restricted_task_stays_restricted(csv):
    task = table_of(csv)
    task.splits()
    restricted = task.restrict(["spend"])
    restricted.load_state_dict(task.state_dict())
    assert [o.name for o in restricted.objectives] == ["spend"]
    assert len(task.objectives) == 5


def test_rows_with_the_same_inputs_are_in_one_part(tmp_path):
    columns = customers()
    twice = {name: cells + cells for name, cells in columns.items()}
    splits = table_of(write(tmp_path / "twice.csv", twice)).splits()
    parts = [{(*x.tolist(), *c.tolist()) for x, c in zip(*part.inputs, strict=True)} for part in splits]
    ones = table_of(write(tmp_path / "once.csv", columns)).splits()
    assert [len(part) for part in splits] == [2 * len(part) for part in ones]
    assert not parts[0] & parts[1]


def test_groups_stay_together_and_are_no_input(tmp_path):
    columns = customers()
    columns["household"] = [f"H{i // 4}" for i in range(120)]
    task = table_of(write(tmp_path / "a.csv", columns), {"churn": "classes"}, split="group", split_by="household")
    splits = task.splits()
    assert all(len(part) % 4 == 0 for part in splits)
    assert "household" not in " ".join(splits.notes)


# ---- frames and Parquet ----------------------------------------------------------------------------------------------


def test_a_data_frame_is_read_like_its_file(csv):
    columns = {name: np.array(cells, object) for name, cells in customers().items()}
    columns["age"] = np.array([float(cell) if cell else math.nan for cell in columns["age"]])
    columns["visits"] = columns["visits"].astype(np.int64)
    columns["joined"] = columns["joined"].astype("datetime64[ns]")
    columns["tags"] = np.array([[t for t in cell.split(";") if t] for cell in columns["tags"]] + [[]], object)[:-1]
    columns["churn"] = np.array([cell or None for cell in columns["churn"]], object)
    task = create_task("table", frame=Frame(columns), objectives=OBJECTIVES)
    for mine, theirs in zip(task.splits(), table_of(csv).splits(), strict=True):
        for a, b in zip(mine.inputs, theirs.inputs, strict=True):
            torch.testing.assert_close(a.sort(0).values, b.sort(0).values)
    assert len(task.preprocess(Frame(columns))) == 120


def test_parquet_without_a_package_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "customers.parquet"
    path.write_bytes(b"PAR1 and so on")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=rf"{path} is a Parquet file, .*pip install 'mozoo\[parquet\]', or save .* as CSV"
    ):
        read_any(path, "table")


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_real_packages_give_the_same_table(package, csv, tmp_path):
    module = pytest.importorskip(package)
    text = read_any(csv, "table")
    if package == "pyarrow":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(module.table({name: text.cells(name) for name in text.names}), tmp_path / "a.parquet")
        frame = tmp_path / "a.parquet"
    else:
        frame = module.DataFrame({name: text.cells(name) for name in text.names})
    found = read_any(frame, "table")
    assert found.names == text.names
    assert all(found.cells(name) == text.cells(name) for name in text.names)


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_columns_of_every_type_are_read_with_their_missing_cells(package, tmp_path):
    module = pytest.importorskip(package)
    columns = {
        "whole": [1, 2**40, None],
        "float": [1.5, 2.0, None],
        "flag": [True, False, None],
        "day": [date(2024, 3, 1), date(2024, 3, 2), None],
        "time": [datetime(2024, 3, 1, 7, 30), datetime(2024, 3, 2), None],
        "wait": [timedelta(days=1), timedelta(hours=36), None],
        "price": [Decimal("1.50"), Decimal("2.25"), None],
        "tags": [["mail", "vip"], ["vip"], None],
        "text": ["a", "ø", None],
    }
    if package == "pyarrow":
        parquet = pytest.importorskip("pyarrow.parquet")
        frame = module.table({**columns, "kind": module.array(["p", "q", None]).dictionary_encode()})
        parquet.write_table(frame, tmp_path / "a.parquet")
        tables = [read_any(frame, "table"), read_any(tmp_path / "a.parquet", "table")]
    elif package == "polars":
        frame = module.DataFrame({**columns, "kind": module.Series(["p", "q", None], dtype=module.Categorical)})
        with pytest.raises(DataError, match=r"not computed yet; give what its method collect\(\) returns"):
            read_any(frame.lazy(), "table")
        tables = [read_any(frame, "table")]
    else:
        frame = module.DataFrame({**columns, "kind": module.Categorical(["p", "q", None])})
        tables = [read_any(frame, "table"), read_any(frame.convert_dtypes(), "table")]
    expected = {
        "whole": ["1", str(2**40), ""],
        "float": ["1.5", "2", ""],
        "flag": ["True", "False", ""],
        "day": ["2024-03-01", "2024-03-02", ""],
        "wait": ["1", "1.5", ""],
        "price": ["1.50", "2.25", ""],
        "tags": ["mail;vip", "vip", ""],
        "text": ["a", "ø", ""],
        "kind": ["p", "q", ""],
    }
    for table in tables:
        assert {name: table.cells(name) for name in expected} == expected
        assert list(map(moment, table.cells("time")[:2])) == columns["time"][:2]


def test_a_list_takes_columns_of_any_name_with_options():
    size = {"column": "size (cm)", "kind": "ordered", "order": ["S", "M"]}
    chosen = choose_labels("table", ["churn", "zip (home): count", size])
    assert chosen == {
        "churn": LabelChoice("churn"),
        "zip__home_": LabelChoice("zip (home)", "count"),
        "size__cm_": LabelChoice("size (cm)", "ordered", order=("S", "M")),
    }
    with pytest.raises(ValueError, match=r"needs the name of its column"):
        choose_labels("table", [{"kind": "number"}])
    with pytest.raises(ValueError, match=r'write options as \{column: "size", kind: number\}'):
        choose_labels("table", ["size: {kind: number}"])


def test_cells_that_training_has_not_seen_are_counted_by_column(csv, tmp_path):
    task = table_of(csv)
    task.splits()
    columns = {name: cells[:9] for name, cells in customers().items() if name in ("age", "city", "joined", "zip")}
    columns["city"][:4] = ["Paris", "Rome", "Paris", ""]
    columns["age"] = ["", "30", "31", "", "41", "50", "51", "52", "53"]
    columns["zip"][4] = "9999"
    rows = task.preprocess(write(tmp_path / "new.csv", columns))
    told = task.annotate(rows, Prediction({"churn": ["no"] * 9})).notes
    assert told[0] == (
        "5 cells have categories that are new, or were rare in training, and count as one: city 4 (Paris, Rome, Vardø), zip 1 (9999)"
    )
    assert told[1] == "3 cells are missing: age 2, city 1"
    columns = {name: cells[-1:] for name, cells in columns.items()}
    assert task.preprocess(write(tmp_path / "known.csv", columns)).notes == ()


def test_rows_that_were_trained_on_are_counted_in_another_table(csv, tmp_path):
    task = table_of(csv)
    train = task.splits().train
    assert task.labelled(csv).notes == (f"{csv} is the table of the run, whose parts are kept",)
    new, old = customers(150), customers()
    rows = [{name: cells[row] for name, cells in new.items()} for row in range(120, 150)]
    rows += [{name: cells[row] for name, cells in old.items()} for row in range(40)]
    for row in rows:
        row["age"] = row["age"] and f"{row['age']}.0"  # another spelling of the same number
    both = {name: [row[name] for row in reversed(rows)] for name in reversed(new)}
    other = task.labelled(write(tmp_path / "other.csv", both))
    inside = sum(bool((other.test.inputs[0][i] == train.inputs[0]).all(1).any()) for i in range(40))
    assert 20 < inside < 40
    assert other.notes[-1].startswith(f"{inside} of 70 rows have the inputs and labels of a training row")
    csv.unlink()
    assert "whether rows were trained on cannot be told" in task.labelled(tmp_path / "other.csv").notes[-1]


# ---- mistakes --------------------------------------------------------------------------------------------------------


def cell(name, row, value):
    def change(columns):
        columns[name][row] = value

    return change


def column(name, value):
    return lambda columns: columns.update({name: [value] * 120})


MISTAKES = {
    "currency": (cell("spend", 3, "€120"), {}, r"line 5: '€120' is no spend, .*write numbers alone, .*'spend \(€\)'"),
    "percent": (cell("spend", 3, "12.5 %"), {}, r"line 5: '12.5 %' is no spend, .*'spend \(%\)'"),
    "decimal comma": (cell("spend", 3, '"75,5"'), {}, r"line 5: '75,5' is no spend, .*write it with a decimal point$"),
    "no column": (None, {"objectives": {"chrun": "classes"}}, r"has no column 'chrun'; did you mean churn"),
    "ignored": (None, {"ignore": ["idd"]}, r"has no column 'idd'; did you mean id"),
    "typed": (None, {"types": {"cty": "category"}}, r"has no column 'cty'; did you mean city"),
    "no number": (cell("spend", 4, "a lot"), {}, r"customers.csv, line 6: 'a lot' is no spend, which must be a number; leave the"),
    "input": (cell("age", 5, "old"), {"types": {"age": "number"}}, r"line 7: 'old' is no age.*task.types=\{age: category\}"),
    "date": (cell("joined", 2, "12/31/2025"), {"types": {"joined": "date"}}, r"line 4: '12/31/2025' is no joined.*task.ignore=\[joined\]"),
    "mistyped number": (cell("age", 5, "4o"), {}, r"line 7: '4o' is no number, but most other cells of 'age' are.*task.types=\{age: category\}"),
    "frequent word": (lambda columns: columns.update(age=["?!" if i % 3 else "31" if i % 2 else "50" for i in range(60)] + ["44"] * 60), {}, r"'\?!' is no number.*add its spelling to task.missing"),
    "mistyped date": (cell("joined", 2, "2024-02-31"), {}, r"line 4: '2024-02-31' is no date, but most other cells of 'joined' are"),
    "mistyped target": (cell("spend", 4, "12 EUR"), {"objectives": ["spend"]}, r"line 6: '12 EUR' is no number, but most .*task.objectives=\{spend: classes\}"),
    "no rows": (lambda columns: columns.update({name: [] for name in columns}), {}, r"customers.csv has no rows below the names"),
    "infinite": (cell("spend", 4, "inf"), {}, r"line 6: 'inf' is no spend"),
    "count": (cell("visits", 9, "2.5"), {}, r"line 11: visits is 2.5, and counts are whole numbers from 0"),
    "negative": (cell("visits", 9, "-1"), {}, r"line 11: visits is -1, and counts"),
    "log": (cell("spend", 3, "0"), {"objectives": {"spend": {"kind": "number", "log": True}}}, r"line 5: spend is 0, which has no log"),
    "order": (cell("size", 8, "XL"), {}, r"line 10: size is 'XL', which is not in its order; add it there"),
    "no order": (None, {"objectives": {"size": "ordered"}}, r"'size' needs the order of its classes \(L, M, S\).*order: \[\.\.\.\]"),
    "similar": (cell("churn", 4, "No"), {}, r"line 6: churn is 'No' .* write 'No' and 'no' alike"),
    "ids": (None, {"objectives": {"id": "classes"}}, r"'id' has 120 classes in 120 labels.*id: number"),
    "constant": (column("churn", "no"), {}, r"every training row has the same churn"),
    "few": (column("churn", ""), {}, r"'churn' has 0 labels|column 'churn'"),
    "no tags": (column("tags", ""), {}, r"'tags' has 0 tags in its training rows.*separator"),
    "criterion": (None, {"objectives": ["spend"], "criteria": {"spend": "focal"}}, r"task.criteria.spend: focal is for classes, and these labels are number"),
    "poisson": (cell("spend", 1, "-5"), {"objectives": ["spend"], "criteria": {"spend": "poisson"}}, r"poisson needs counts of 0 or more"),
    "cells": (cell("city", 3, "Oslo,Norway"), {}, r"line 5: 11 cells here and 10 in the header; a cell with commas in it"),
    "part": (lambda columns: columns.update(split=["train"] * 119 + ["tests"]), {}, r"line 121: split must be train, val or test, got 'tests'"),
    "parts": (lambda columns: columns.update(split=["train"] * 60 + ["val"] * 60), {}, r"no rows in the split 'test'"),
    "nothing left": (None, {"ignore": ["id", "age", "city", "joined", "zip"]}, r"no column left as an input; look at task.ignore"),
    "no input": (None, {"ignore": ["age", "city", "joined", "zip"]}, r"no input to learn from \(id: 120 different texts .*; see task.types"),
    "same type": (column("zip", "0150"), {"types": {"zip": "category"}}, r"'zip' is the same in all training rows"),
    "time": (None, {"split": "time", "split_by": "city"}, r"is no city, which must be a number or a date"),
    "no times": (None, {"split": "time"}, r"task.split=time needs the name of a column: task.split_by"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_table_are_named_with_their_place_and_remedy(name, tmp_path):
    change, options, message = MISTAKES[name]
    columns = customers()
    if change is not None:
        change(columns)
    with pytest.raises(DataError, match=message) as told:
        table_of(write(tmp_path / "customers.csv", columns), **options).splits()
    assert str(told.value).startswith("table: ")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objectives": {"churn": "clases"}},
            "objectives.churn: there is no kind 'clases' of labels; did you mean classes",
        ),
        ({"objectives": {"churn": {"kind": "classes", "log": True}}}, "classes has no option 'log'; it has none"),
        ({"objectives": {"spend": {"kind": "number", "log": "yes"}}}, "log must be true or false, got 'yes'"),
        ({"objectives": {"a b": "number", "a_b": "number"}}, "'a b' and 'a_b' would be two objectives of one name"),
        ({"ignore": ["churn"]}, "'churn' is named in two of objectives, types and ignore"),
        ({"min_count": 0}, "min_count must be at least 1"),
        ({"val_share": 0.7, "test_share": 0.4}, "val_share and test_share"),
        ({"types": {"zip": "categorical"}}, "types.zip must be number, category or date, got 'categorical'"),
        ({"impute": "zero"}, "impute must be median or mean, got 'zero'"),
        ({"frame": Frame({})}, "either csv or frame"),
        ({"criteria": {"spend": "focal"}}, "task.criteria.spend: focal is for classes"),
        ({"criteria": {"spnd": "huber"}}, "task.criteria names 'spnd', which is no objective; did you mean spend"),
    ],
)
def test_options_that_cannot_be_are_refused_without_reading_anything(options, message):
    with pytest.raises(ValueError, match=message):
        table_of("nowhere.csv", **{"objectives": OBJECTIVES, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"csv": None}, "say which table to read: task.csv="),
        ({"objectives": None}, "say what to learn: 'task.objectives="),
        ({"csv": "nowhere.csv"}, "there is no file nowhere.csv"),
        ({"csv": None, "frame": [1, 2]}, "the data frame is no data frame of pandas or polars with columns, but list"),
    ],
)
def test_what_is_needed_is_asked_for(options, message):
    with pytest.raises(DataError, match=message):
        create_task("table", **{"csv": "a.csv", "objectives": OBJECTIVES, **options}).splits()


def test_a_table_to_predict_needs_the_inputs_of_training(csv, tmp_path):
    task = table_of(csv)
    task.splits()
    columns = {name: cells[:3] for name, cells in customers().items() if name not in (*OBJECTIVES, "age")}
    with pytest.raises(DataError, match=r"new.csv has no column 'age'; it has"):
        task.preprocess(write(tmp_path / "new.csv", columns))
    with pytest.raises(DataError, match=r"empty.csv has no rows after the header"):
        task.preprocess(write(tmp_path / "empty.csv", {name: [] for name in customers()}))
    columns = {name: cells[:3] for name, cells in customers().items()}
    columns["age"][1] = "old"
    with pytest.raises(DataError, match=r"odd.csv, line 3: 'old' is no age"):
        task.preprocess(write(tmp_path / "odd.csv", columns))


# ---- a trained run's table ---------------------------------------------------------------------------------------------


def trained(csv, **options):
    """The task of a run, with what the run knows."""
    task = table_of(csv, **options)
    task.splits()
    other = table_of(csv, **options)
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    return task, other


def test_a_run_reads_its_table_with_what_it_knows(csv):
    task, other = trained(csv)
    for mine, theirs in zip(task.splits(), other.splits(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.inputs, theirs.inputs, strict=True))
        assert all(mine.targets[name].equal(theirs.targets[name]) for name in ("churn", "tags", "visits", "size"))
    assert other.state_dict() == task.state_dict()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (cell("spend", 100, "1"), r"the first difference in 'spend' is in line 10[12]"),
        (cell("city", 0, "Paris"), r"in 'city'"),
        (lambda columns: [cells.pop() for cells in columns.values()], "120 rows then, 119 now"),
        (lambda columns: columns.pop("zip"), "without the column 'zip'"),
        (lambda columns: columns.update(new=["1"] * 120), "with the column 'new'"),
    ],
)
def test_a_table_that_has_changed_since_training_is_refused(csv, change, difference):
    _, other = trained(csv)
    columns = customers()
    change(columns)
    write(csv, columns)
    with pytest.raises(DataError, match=rf"has changed since training \(.*{difference}.*\); restore it, or train anew"):
        other.splits()


def test_another_labelled_table_is_prepared_as_in_training(csv, tmp_path):
    task, other = trained(csv)
    columns = {name: cells[:30] for name, cells in customers().items()}
    columns["city"][0] = "Paris"
    splits = other.labelled(write(tmp_path / "other.csv", columns))
    assert [len(part) for part in splits] == [30, 30, 30]
    assert splits.test.inputs[1][0, 0] == 0
    assert splits.state["labels"] == task.state_dict()["labels"]
    same = other.labelled(write(tmp_path / "copy.csv", customers()))
    assert [len(part) for part in same] == [len(part) for part in task.splits()]
    columns["churn"][3] = "perhaps"
    with pytest.raises(DataError, match=r"other.csv, line 5: churn is 'perhaps', which is none of the classes"):
        other.labelled(write(tmp_path / "other.csv", columns))


# ---- training --------------------------------------------------------------------------------------------------------


def test_a_step_with_a_bilevel_method_and_with_absent_objectives(csv, tmp_path):
    words = ["task=table", f"task.csv={csv}", "task.objectives=[churn,spend]", f"run_dir={tmp_path / 'run'}"]
    tiny = ["model.width=4", "model.depth=1", "trainer.batch_size=8", "trainer.max_steps=2", "logger.tensorboard=false"]
    summary = train.run(mozoo.compose([*words, *tiny, "balancer=auto_lambda", "trainer.device=cpu"]))
    assert summary["status"] == "finished"
    report = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Inputs in the training rows" in report
    assert "Share of training rows in which an input is missing" in report
