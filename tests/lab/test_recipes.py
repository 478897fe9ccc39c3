"""The protocols of lab/recipes: every row composes, and one of each trains on a few files in the public format."""

import csv
import json
import math
import statistics

import pytest
import torch
from omegaconf import OmegaConf
from torchvision.models.segmentation import deeplabv3_resnet50

import mozoo
import tasks
import zoo
from balancing import create_balancer
from lab import reproduce
from lab.reproductions.published_rows import published_rows
from lab.reproductions.published_tables import read
from lab.reproductions.recipes import RECIPES
from mozoo import tools
from tests.tasks import test_celeba, test_dense_folders, test_office, test_qm9

ROWS = {each.name: each for each in reproduce.experiments().values() if each.family}
PLAIN = ("trainer.device=cpu", "trainer.num_workers=0", "logger.tensorboard=false", "trainer.precision=fp32")
MAPS = ("image", "label", "depth")


def nyuv2(folder):
    test_dense_folders.save(folder / "nyuv2", {"train": 4, "val": 4})
    return []


def cityscapes(folder):
    test_dense_folders.save(folder / "cityscapes", {"train": 4, "val": 4}, classes=7, kinds=MAPS)
    return ["task.height=16", "task.width=24"]


def celeba(folder):
    test_celeba.build(folder / "celeba", **test_celeba.TREES["official"])
    return ["model.channels=[2,3]", "model.width=4", "task.image_size=8", "trainer.batch_size=4"]


def office(folder):
    test_office.build(folder / "office_31")
    return ["model.backbone=test_resnet", "model.pretrained=false", "task.image_size=32", "trainer.batch_size=2"]


def qm9(folder):
    pytest.importorskip("torch_geometric")
    test_qm9.build_raw(folder / "qm9")
    return ["model.width=4", "model.hidden=4", "task.val=4", "task.test=4", "trainer.batch_size=4", "trainer.epochs=2"]


DEEP = ("model.encoder=test_resnet", "model.pretrained=false", "trainer.batch_size=2")
#: A row of each recipe, with what makes its data and its model small.
TINY = {
    "nyuv2_segnet_sum": (nyuv2, ["model.width=4", "trainer.epochs=2"]),
    "nyuv2_segnet_single_depth": (nyuv2, ["model.width=4", "trainer.epochs=1"]),
    "cityscapes_segnet_nash_mtl": (cityscapes, ["model.width=4", "trainer.epochs=1", "trainer.batch_size=2"]),
    "nyuv2_deeplab_mgda": (nyuv2, [*DEEP, "trainer.epochs=2"]),
    "cityscapes_deeplab_sum": (cityscapes, [*DEEP, "trainer.epochs=1"]),
    "celeba_famo": (celeba, ["trainer.epochs=1"]),
    "qm9_nash_nash_mtl": (qm9, []),
    "qm9_nash_single_homo": (qm9, []),
    "qm9_libmtl_gradvac": (qm9, []),
    "office_31_uncertainty": (office, ["trainer.epochs=1"]),
    "office_31_single_dslr": (office, ["trainer.epochs=1"]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Row -> what it gives on tiny data, and its run folder; trained once."""
    known = {}

    def give(name):
        if name not in known:
            place = tmp_path_factory.mktemp(name)
            make, small = TINY[name]
            overrides = [*PLAIN, f"data_dir={place / 'data'}", *make(place / "data"), *small]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tools, "write_report", lambda *arguments: None)  # takes longer than the rest
                patch.setattr(tools, "write_model_card", lambda *arguments: None)
                compose = mozoo.compose
                patch.setattr(mozoo, "compose", lambda chosen: compose([*chosen, *overrides]))
                known[name] = ROWS[name].run(0, place), place / "run"
        return known[name]

    return give


@pytest.mark.parametrize("name", TINY)
def test_row_gives_what_it_expects(trained, name):
    metrics, _ = trained(name)
    assert set(ROWS[name].expected) <= set(metrics)
    assert all(math.isfinite(metrics[key]) for key in ROWS[name].expected)


def test_every_recipe_has_a_row_that_trains():
    assert {ROWS[name].family for name in TINY} == {each.family for each in ROWS.values()}


@pytest.mark.parametrize("family", sorted({each.family for each in ROWS.values()}))
def test_rows_expect_results_of_their_task(family):
    config = mozoo.compose([f"experiment={family}"])
    known = {f"test/{name}" for name in tasks.create_task(**config.task).results()} | {published(family)["statistic"]}
    for each in ROWS.values():
        if each.family == family:
            assert set(each.expected) <= known, each.name
            assert (each.tier, each.seeds) == ("gpu", (0, 1, 2))


# what several recipes add alike is tried once
@pytest.mark.parametrize("overrides", sorted({each.overrides[1:]: each.overrides for each in ROWS.values()}.values()))
def test_rows_compose_and_their_balancers_take_the_options(overrides):
    config = mozoo.compose(list(overrides))
    task = tasks.create_task(**config.task)
    objectives = [objective.name for objective in task.objectives]
    name, options = tools.resolve_arguments("balancer", config.balancer, task, tasks.Splits([], [], []), objectives)
    assert f"balancer={create_balancer(name, objectives, **options).name}" == overrides[1]


def test_a_row_is_a_command():
    assert ROWS["celeba_cagrad"].overrides == (
        *("experiment=celeba", "balancer=cagrad", "balancer.c=0.4", "balancer.scale=sum", "balancer.max_norm=1"),
    )
    config = mozoo.compose(list(ROWS["nyuv2_segnet_single_depth"].overrides))
    assert (config.model["name"], config.model["maps"], config.trainer.monitor) == ("dense_segnet", ["depth"], "last10")
    assert config.model["original"]


def test_expected_lies_around_what_the_tables_print():
    row = ROWS["nyuv2_segnet_sum"].expected
    assert row["delta-m"] == pytest.approx(((5.59 + 2.35) / 2, (5.59 - 2.35) / 2 + 2))
    assert row["test/segmentation/miou"] == pytest.approx((0.4009, 0.008 + 0.1 * 0.383))
    assert ROWS["nyuv2_segnet_single_depth"].expected["test/depth/abs_err"] == pytest.approx((0.6754, 0.06754))
    assert ROWS["office_31_nash_mtl"].expected["delta-p"] == (0.24, 1)


@pytest.mark.parametrize("name", ["nyuv2_segnet_nash_mtl", "nyuv2_resnet50", "office31"])
def test_statistic_of_a_printed_row_is_the_printed_one(name):
    recipe = {"nyuv2_resnet50": "nyuv2_deeplab", "office31": "office_31"}.get(name, "nyuv2_segnet")
    method, table = ("Nash-MTL", name if name in read() else "nyuv2_segnet")
    row = next(
        each
        for each in published_rows(recipe, (f"experiment={recipe}",), published(recipe))
        if each.name == f"{recipe}_nash_mtl"
    )
    assert row.baseline is not None
    units = {"segmentation": 0.01, "amazon": 0.01, "dslr": 0.01, "webcam": 0.01, "depth": 1.0, "normals": 1.0}
    printed = dict(zip(row.baseline.values, read()[table]["rows"][method], strict=True))
    metrics = {
        f"test/{key}": value * (0.01 if "within" in key else units[key.split("/")[0]]) for key, value in printed.items()
    }
    statistic = row.baseline.statistic
    assert row.complete(metrics)[statistic] == pytest.approx(read()[table]["printed"][statistic][method], abs=0.02)


def published(name):
    return OmegaConf.to_container(OmegaConf.load(RECIPES / f"{name}.yaml").expect.published)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tables": ["nyuv2_segnt"]}, "there is no table nyuv2_segnt"),
        ({"statistic": "delta"}, "must be delta-m or delta-p"),
        ({"rows": {"krum": {"prints": ["Krum"]}}}, "print nothing of krum"),
        ({"spread": None}, "needs spread"),
    ],
)
def test_wrong_recipes_are_refused(change, problem):
    changed = {key: value for key, value in {**published("nyuv2_segnet"), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=problem):
        published_rows("nyuv2_segnet", (), changed)


# ---- rules of selection ----------------------------------------------------------------------------------------------


def values(folder, split):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return [{key: float(value) for key, value in row.items() if "/" in key} for row in rows]


def test_last10_reports_means_over_epochs(trained):
    metrics, folder = trained("nyuv2_segnet_sum")
    epochs = values(folder, "val")
    assert len(epochs) == 2
    means = {key: statistics.fmean(each[key] for each in epochs) for key in epochs[0]}
    assert values(folder, "test") == [pytest.approx(means, rel=1e-6)]
    assert {f"test/{key}": value for key, value in means.items()} == pytest.approx(
        {key: value for key, value in metrics.items() if key != "delta-m"}, rel=1e-6
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["select"] == "last10"
    assert summary["tested"] == "after every epoch; values are means over the last ten"


def test_last10_forgets_earlier_epochs_and_survives_a_checkpoint(trained, tmp_path):
    _, folder = trained("nyuv2_segnet_sum")
    seen = tools.load_checkpoint(folder / "last.pt")["state"]["seen"]
    assert [pytest.approx(each, rel=1e-6) for each in values(folder, "val")] == seen
    selector = tools.Selector("last10", *loaded(tmp_path, "validation=0"))
    for epoch in range(12):
        seen = selector.remember(seen, {"depth/loss": float(epoch)})
    assert [each["depth/loss"] for each in seen] == list(range(2, 12))
    assert selector.results({"depth/loss": 99.0}, seen) == {"depth/loss": 6.5}
    assert selector.score({"depth/loss": 5.0}, 4) < selector.score({"depth/loss": 1.0}, 3)


def test_last10_needs_a_task_that_validates_on_its_test_split(tmp_path):
    with pytest.raises(mozoo.ConfigError, match=r"use task\.validation=0"):
        tools.Selector("last10", *loaded(tmp_path, "validation=0.5"))


def loaded(folder, *options):
    nyuv2(folder)
    task = tasks.create_task("nyuv2", **{key: float(value) for key, value in (each.split("=") for each in options)})
    return task, task.splits(folder)


def test_gain_is_relative_to_the_first_epoch_and_an_objective_counts_once(tmp_path):
    task, splits = loaded(tmp_path, "validation=0")
    selector = tools.Selector("gain", task, splits)
    first = dict.fromkeys(task.results(), 2.0)
    # half of the metrics of a third of the objectives
    better = first | {"segmentation/miou": 3.0, "segmentation/loss": 9.0}
    worse = first | {"depth/abs_err": 3.0}
    seen = selector.remember([], first)
    assert selector.remember(seen, better) == seen == [first]
    assert selector.score(first, 1, seen) == 0
    assert selector.score(better, 2, seen) == pytest.approx(-0.5 / 2 / 3)
    assert selector.score(worse, 2, seen) > 0
    assert selector.score(first | {"depth/rmse": math.nan}, 2, seen) == math.inf


def test_a_star_is_the_mean_over_objectives():
    task = tasks.create_task("celeba", attributes=["Smiling", "Bald"])
    nothing = tasks.Splits([], [], [])
    selector = tools.Selector("val/*/f1", task, nothing)
    assert selector.score({"Smiling/f1": 0.5, "Bald/f1": 0.25}, 1) == -0.375
    assert tools.Selector("val/*/loss", task, nothing).score({"Smiling/loss": 0.5, "Bald/loss": 0.25}, 1) == 0.375


def test_selecting_on_the_test_split_is_said(trained):
    deeplab, celeba = (
        json.loads((trained(name)[1] / "summary.json").read_text()) for name in ("nyuv2_deeplab_mgda", "celeba_famo")
    )
    assert deeplab["tested"] == f"after every epoch, to choose the weights of epoch {deeplab['best_epoch']} of 2"
    assert celeba["tested"] == "once, with the weights of epoch 1 of 1"


# ---- the published architectures -------------------------------------------------------------------------------------


def test_deeplab_is_that_of_torchvision():
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=13).eval()
    ours = zoo.create_model("dense_deeplab", in_channels=3, maps=("segmentation",), segmentation_classes=13).eval()
    ours.trunk.encoder.load_state_dict({k: v for k, v in theirs.backbone.state_dict().items() if k[:2] != "fc"})
    ours.head["segmentation"].pyramid.load_state_dict(theirs.classifier.state_dict())
    image = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        features = ours.features(image)
        torch.testing.assert_close(features[0], theirs.backbone(image)["out"])
        torch.testing.assert_close(
            ours.head["segmentation"].pyramid(features[0]), theirs.classifier(theirs.backbone(image)["out"])
        )


def test_depths_of_published_models_may_be_negative():
    for name, options in (("dense_deeplab", {"encoder": "test_resnet"}), ("dense_mtan_original", {"width": 4})):
        torch.manual_seed(0)
        model = zoo.create_model(name, in_channels=3, maps=("depth", "normals"), **options)
        outputs = model(torch.randn(4, 3, 33, 47))
        assert outputs["depth"].shape == (4, 1, 33, 47)
        assert outputs["depth"].min() < 0
        torch.testing.assert_close(outputs["normals"].norm(dim=1), torch.ones(4, 33, 47))


def test_attention_paths_share_what_carries_them():
    model = zoo.create_model("dense_mtan_original", in_channels=3, maps=("depth", "normals"), width=4)
    features = model.features(torch.randn(2, 3, 32, 32))
    (gradient,) = torch.autograd.grad(features[1].sum(), model.shared.up[0][0].weight, retain_graph=True)
    assert gradient.abs().sum() > 0
    alone = torch.autograd.grad(features[1].sum(), list(model.masks["depth"].parameters()), allow_unused=True)
    assert all(each is None for each in alone)


def test_the_network_of_celeba_has_the_published_layers():
    attributes = dict.fromkeys((f"a{i}" for i in range(40)), 2)
    model = zoo.create_model("shared_trunk_cnn", in_channels=3, classifiers=attributes, regressors={})
    widths = [m.out_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert widths == [64, 128, 128, 256, 256, 512, 512]
    kinds = [type(m).__name__ for m in model.trunk.blocks]
    assert [i for i, kind in enumerate(kinds) if kind == "MaxPool2d"] == [3, 10, 17]
    assert model.features(torch.rand(2, 3, 64, 64)).shape == (2, 512)


def test_a_hidden_layer_is_shared_and_pretrained_weights_go_below_it():
    options = {"in_channels": 3, "classifiers": {"a": 3, "b": 3}, "regressors": {}, "backbone": "test_resnet"}
    model = zoo.create_model("shared_trunk_timm", **options, hidden=7)
    assert model.features(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert set(model.shared_parameters()) == set(model.trunk.parameters())
    with pytest.raises(ValueError, match="hidden must not be negative"):
        zoo.create_model("shared_trunk_timm", **options, hidden=-1)
