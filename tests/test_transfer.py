"""Weights of a run for another table: a row has the prediction that it had, however the new table is written."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mozoo import ConfigError
from mozoo.fine_tuning import initialize
from mozoo.transfer import match
from tasks import Splits, TensorData, create_task
from tasks.table_inputs import CategoryInput
from tasks.table_transfer import number_meanings
from tests.tasks.test_table import write
from zoo import create_model, model_arguments

OBJECTIVES = {"churn": "classes", "spend": "number", "tags": "tags", "size": {"kind": "ordered", "order": ["S", "M"]}}
CITIES = ("Bergen", "Oslo", "Tromsø")


class Plain(nn.Module):
    """A model of one's own, which takes indicators of categories."""

    def __init__(self, in_features, classifiers, regressors):
        super().__init__()
        self.body = nn.Linear(in_features, 6)
        self.out = nn.ModuleDict({name: nn.Linear(6, size) for name, size in {**classifiers, **regressors}.items()})

    def forward(self, x):
        return {name: layer(self.body(x).tanh()) for name, layer in self.out.items()}

    def objective_parameters(self, name):
        return list(self.out[name].parameters())


def columns(names=CITIES, classes=("no", "yes"), ages=(18, 80)):
    """The same kinds of columns, with other cells."""
    random = np.random.RandomState(len(names) + ages[0])
    age, city = random.randint(*ages, 90), random.randint(len(names), size=90)
    return {
        "age": ["" if i % 17 == 0 else str(a) for i, a in enumerate(age)],
        "city": [names[c] for c in city],
        "zone": [("north", "south")[c % 2] for c in random.randint(2, size=90)],
        "churn": [classes[int(a > sum(ages) / 2) if a % 7 else -1] for a in age],
        "spend": [str(3.5 * a + c) for a, c in zip(age, city, strict=True)],
        "tags": [";".join(("mail", "vip")[: 1 + int(c) % 2]) for c in city],
        "size": ["SM"[a % 2] for a in age],
    }


def start(path, cells, model, objectives=OBJECTIVES, **options):
    """Task, splits and model for a table."""
    task = create_task("table", csv=str(write(path, cells)), objectives=objectives, min_count=3)
    splits = task.splits()
    arguments = [] if model is Plain else model_arguments(model)
    seen = task.for_model(arguments)
    given = {key: seen.info[key] for key in ("in_features", "classifiers", "regressors")}
    if model is Plain:
        return task, splits, Plain(**given)
    return task, splits, create_model(model, **given, categories=seen.info["categories"], **options)


def save(folder, task, model):
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    stored = {"task": {"name": "table", "objectives": OBJECTIVES, "min_count": 3}, "learnt": task.state_dict()}
    (folder / "config.json").write_text(json.dumps({**stored, "imports": []}))
    return str(folder / "model.safetensors")


@torch.no_grad()
def predicted(task, model, path):
    rows = task.preprocess(path)
    return task.decode(task.outputs(model.eval(), rows.batch(torch.arange(len(rows))))).cells


MODELS = {
    "shared_trunk": {"width": 8, "depth": 2, "norm": "layer"},
    "cross_stitch": {"width": 8, "depth": 2},
    "mmoe": {"width": 8, "depth": 1, "experts": 2},
    "ple": {"width": 8, "depth": 1},
    "conditioned": {"width": 8, "depth": 1, "hidden": 4},
    Plain: {},
}


@pytest.mark.parametrize("model", MODELS)
def test_rows_of_both_tables_have_the_predictions_that_they_had(tmp_path, model):
    cells = columns()
    task, _, source = start(tmp_path / "a.csv", cells, model, **MODELS[model])
    weights = save(tmp_path / "best", task, source)
    # other columns' order, ages and spends, another order of categories (a new one first), and classes that sort otherwise
    other = columns(("Alta", *CITIES), ("no", "yes", "?maybe"), ages=(30, 60))
    other = {name: other[name] for name in ("zone", *(name for name in reversed(other) if name != "zone"))}
    new, splits, target = start(tmp_path / "b.csv", other, model, **MODELS[model])
    told = initialize(target, weights, new, splits)
    rows = {
        name: [c for c, age in zip(cells[name], cells["age"], strict=True) if age] for name in ("age", "city", "zone")
    }
    write(tmp_path / "new.csv", rows)
    before, after = (predicted(t, m, tmp_path / "new.csv") for t, m in ((task, source), (new, target)))
    for name in ("spend", "tags_mail", "size_probability"):
        np.testing.assert_allclose(after[name], before[name], rtol=2e-5)
    assert "age (number)" in told
    assert "spend: rescaled" in told
    assert "churn: 2 of 3 classes by name, new: ?maybe" in told
    assert ("city = Alta" if model is Plain else "city Alta") in told
    layer = [p for name, p in target.named_parameters() if "churn" in name][-1]  # the bias of the last layer
    kept = [p for name, p in source.named_parameters() if "churn" in name][-1]
    order = [new.objectives[0].criterion.classes.index(name) for name in ("no", "yes")]
    assert torch.equal(layer[order], kept)


def test_the_same_table_takes_all_weights_as_they_are(tmp_path):
    task, splits, source = start(tmp_path / "a.csv", columns(), "shared_trunk", **MODELS["shared_trunk"])
    weights = save(tmp_path / "best", task, source)
    target = start(tmp_path / "a.csv", columns(), "shared_trunk", **MODELS["shared_trunk"])[2]
    assert (
        initialize(target, weights, task, splits)
        == f"{len(source.state_dict())} of {len(source.state_dict())} tensors from {weights}"
    )
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name])


@pytest.mark.parametrize(
    ("model", "part"),
    [("cross_stitch", "mixes"), ("ple", "shared_gate"), ("conditioned", "modulation"), ("mmoe", None)],
)
def test_weights_with_a_place_for_each_objective_need_the_same_order(tmp_path, model, part):
    task, _, source = start(tmp_path / "a.csv", columns(), model, **MODELS[model])
    for tensor in source.state_dict().values():
        tensor.normal_()
    weights = save(tmp_path / "best", task, source)
    objectives = dict(reversed(OBJECTIVES.items()))
    new, splits, target = start(tmp_path / "a.csv", columns(), model, objectives, **MODELS[model])
    told = initialize(target, weights, new, splits)
    assert ("in another order" in told) == (part is not None)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]) == (part not in name.split(".")), name


def changed(cells, kind):
    if kind == "inputs of one width":
        return {("height" if name == "age" else name): column for name, column in cells.items()}, OBJECTIVES
    if kind == "classes of one number":
        return {**cells, "churn": [{"no": "old", "yes": "new"}[cell] for cell in cells["churn"]]}, OBJECTIVES
    if kind == "logarithms":
        return cells, {**OBJECTIVES, "spend": {"kind": "number", "log": True}}
    return cells, {**OBJECTIVES, "size": {"kind": "ordered", "order": ["M", "S"]}}


@pytest.mark.parametrize(
    ("kind", "told", "left_out"),
    [
        ("inputs of one width", "not in this table: age (number), whether age is missing", ()),
        ("classes of one number", "churn: head.churn.weight, head.churn.bias left out (no class is the same)", ("head.churn.weight",)),
        ("logarithms", "spend: head.spend.weight, head.spend.bias left out (another unit)", ("head.spend.bias",)),
        ("another order", "size: head.size.weight, head.size.bias left out (other classes)", ("head.size.weight",)),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_left_out_and_said(tmp_path, kind, told, left_out):
    cells = columns()
    task, _, source = start(tmp_path / "a.csv", cells, "shared_trunk", **MODELS["shared_trunk"])
    weights = save(tmp_path / "best", task, source)
    cells, objectives = changed(cells, kind)
    new, splits, target = start(tmp_path / "b.csv", cells, "shared_trunk", objectives, **MODELS["shared_trunk"])
    own = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    assert told in initialize(target, weights, new, splits)
    for name in left_out:
        assert torch.equal(target.state_dict()[name], own[name])
    first = target.state_dict()["trunk.0.0.weight"]
    if kind == "inputs of one width":
        assert torch.equal(first[:, :2], own["trunk.0.0.weight"][:, :2])
        assert torch.equal(first[:, 2:], source.state_dict()["trunk.0.0.weight"][:, 2:])


def test_weights_of_another_task_leave_out_what_reads_the_inputs(tmp_path):
    task, splits, target = start(tmp_path / "a.csv", columns(), Plain)
    other = Plain(task.for_model([]).info["in_features"], {"churn": 2}, {})
    (tmp_path / "best").mkdir()
    save_file(other.state_dict(), tmp_path / "best/model.safetensors")
    stored = {"task": {"name": "diamonds"}, "learnt": {}, "imports": []}
    (tmp_path / "best/config.json").write_text(json.dumps(stored))
    own = target.body.weight.clone()
    told = initialize(target, str(tmp_path / "best"), task, splits)
    assert "left out: body.weight, body.bias" in told
    assert torch.equal(target.body.weight, own)


def test_weights_without_a_description_are_taken_and_that_is_said(tmp_path):
    task, splits, source = start(tmp_path / "a.csv", columns(), Plain)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    told = initialize(source, str(tmp_path / "w.pt"), task, splits)
    assert re.search("what inputs and classes they mean is not known.*there is none", told)


def test_an_empty_place_is_refused():
    with pytest.raises(ConfigError, match="init needs a run folder"):
        initialize(nn.Linear(1, 1), "")


def test_the_text_missing_is_not_a_missing_cell():
    column = CategoryInput("city", ("", "missing", "Oslo"), 0.1, (0, 3, 3, 3))
    names = [number.name for number in number_meanings([column])]
    assert names == ["city, missing category", "city = missing", "city = Oslo"]


def test_a_generator_of_other_classes_is_refused(tmp_path):
    tasks = [create_task("picture_gan", image_size=8) for _ in range(2)]
    for task, classes in zip(tasks, (("cat", "dog"), ("dog", "elk")), strict=True):
        task.load_state_dict({"classes": classes})
    images = TensorData((torch.zeros(2, 3, 8, 8),), {})
    with pytest.raises(ConfigError, match="of the classes cat, dog, and these data have dog, elk"):
        match(nn.Linear(1, 1), {}, *tasks, Splits(images, images, images))


def test_classes_of_images_are_matched_too(tmp_path):
    def task_of(classes):
        task = create_task("image_table", csv="a.csv", classification=["kind"], image_size=8)
        task.load_state_dict({"classes": {"kind": classes}, "scales": {}, "table": {}})
        return task

    model = create_model("shared_trunk_lenet", in_channels=3, image_size=8, classifiers={"kind": 3}, regressors={}, channels=[2], kernels=[3], width=4)  # fmt: skip
    images = TensorData((torch.rand(2, 3, 8, 8),), {"kind": torch.zeros(2).long()})
    found = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    old, new = task_of(["a", "b", "c"]), task_of(["a", "aa", "c"])
    weights, told = match(model, found, old, new, Splits(images, images, images))
    assert told == ["kind: 2 of 3 classes by name, new: aa, not in these data: b"]
    (name,) = [name for name in found if not torch.equal(weights[name], found[name]) and name.endswith("weight")]
    assert torch.equal(weights[name][[0, 2]], found[name][[0, 2]])
    assert torch.equal(weights[name][1], model.state_dict()[name][1])
