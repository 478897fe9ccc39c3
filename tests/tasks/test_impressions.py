"""Impressions: rates as asked for, labels of both kinds, and results about the true conversion rate."""

import pytest
import torch

import mozoo
import train
from mozoo import tools
from tasks import create_task
from tasks.rate_metrics import RateAUC, RateBias
from zoo import create_model


@pytest.fixture(scope="module")
def small():
    return {
        labels: create_task("impressions", samples=20_000, users=200, items=50, click_rate=0.2, labels=labels)
        for labels in ("all", "clicked")
    }


def test_impressions_have_the_rates_that_were_asked_for(small):
    parts = [*small["all"].splits()]
    assert [len(part) for part in parts] == [20_000, 4_000, 4_000]
    click, conversion, rate = (
        torch.cat([part.targets[name].flatten() for part in parts]) for name in ("click", "conversion", "cvr")
    )
    assert float(rate.mean()) == pytest.approx(0.05, abs=1e-6)
    assert float(click.float().mean()) == pytest.approx(0.2, abs=0.01)
    assert not conversion[click == 0].any()
    clicked = click == 1
    assert float(conversion[clicked].float().mean()) == pytest.approx(float(rate[clicked].mean()), abs=0.01)
    assert rate[clicked].mean() > 1.5 * rate.mean()  # why clicks mislead
    x = torch.cat([part.inputs[0] for part in parts])
    torch.testing.assert_close(x.mean(0), torch.zeros(2), rtol=0, atol=0.03)
    torch.testing.assert_close(x.std(0), torch.ones(2), rtol=0, atol=0.03)


def test_codes_fit_the_embeddings_and_leave_one_for_what_is_unseen(small):
    sizes = small["all"].info["categories"]
    codes = torch.cat([part.inputs[1] for part in small["all"].splits()])
    assert codes.min() == 1
    assert all(codes[:, i].max() < size for i, size in enumerate(sizes))


def test_labels_of_clicked_impressions_are_the_same_and_others_absent(small):
    one, other = (small[labels].splits().train for labels in ("all", "clicked"))
    assert torch.equal(one.inputs[1], other.inputs[1])
    clicked = one.targets["click"] == 1
    assert torch.equal(one.targets["conversion"][clicked], other.targets["conversion"][clicked])
    assert (other.targets["conversion"][~clicked] == -1).all()


def test_the_seed_decides_everything():
    first, same, other = (
        create_task("impressions", samples=100, users=10, items=10, data_seed=seed).splits().train for seed in (0, 0, 1)
    )
    assert torch.equal(first.inputs[0], same.inputs[0])
    assert not torch.equal(first.inputs[0], other.inputs[0])


def test_the_true_rate_is_evaluated_and_never_trained(small):
    task = small["all"]
    model = create_model(
        "esmm", in_features=2, classifiers=task.info["classifiers"], categories=task.info["categories"]
    )
    own, splits = task.restrict(model.objectives), task.splits()
    assert [o.name for o in own.objectives] == ["click", "conversion", "cvr"]
    assert set(own.losses(model, splits.val.batch(torch.arange(8)), "train")[0]) == {"click", "conversion"}
    assert set(own.prior_losses(splits)) == set(own.initial_losses(splits)) == {"click", "conversion"}
    precision = tools.Precision("fp32", torch.device("cpu"))
    found = tools.evaluate(model, own, splits, 1024, precision)
    assert {"cvr/bias", "cvr/auc", "cvr/mae", "cvr/loss", "conversion/auroc"} <= set(found.values)
    x, codes = splits.val.inputs
    rate = model.tower["conversion"](model.features(x, codes)[0]).detach().double().sigmoid()
    assert found.values["cvr/mae"] == pytest.approx(float((rate - splits.val.targets["cvr"]).abs().mean()), rel=1e-4)
    assert [o.name for o in task.restrict(["conversion"]).objectives] == ["conversion"]  # no quotient without a click
    assert [o.name for o in small["clicked"].restrict(["conversion"]).objectives] == ["conversion", "cvr"]


def test_a_product_is_not_trained_on_clicks_alone(tmp_path):
    config = mozoo.compose(["model=esmm", "task.labels=clicked", "task.samples=100", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(mozoo.ConfigError, match="asks its task for 'stages'"):
        train.run(config)


@pytest.mark.parametrize("options", [{"samples": 3}, {"click_rate": 1.0}, {"conversion_rate": 0.0}, {"labels": "some"}])
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=f"impressions: .*{next(iter(options))}"):
        create_task("impressions", **options)


def test_rate_metrics_are_those_of_many_draws():
    generator = torch.Generator().manual_seed(0)
    rates, predictions = torch.rand(300, generator=generator), torch.rand(300, generator=generator)
    predictions = (predictions + rates).mul(10).round() / 20  # with ties
    bias, auc = RateBias(), RateAUC()
    for part in (slice(0, 100), slice(100, 300)):
        bias.update(predictions[part], rates[part])
        auc.update(predictions[part], rates[part])
    assert float(bias.compute()) == pytest.approx(abs(float(predictions.mean() / rates.mean()) - 1), rel=1e-5)
    order = (predictions[:, None] > predictions).double() + 0.5 * (predictions[:, None] == predictions)
    mass = rates.double()[:, None] * (1 - rates.double())
    assert float(auc.compute()) == pytest.approx(float((order * mass).sum() / mass.sum()), rel=1e-9)
