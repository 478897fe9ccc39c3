"""ESMM: logits of products in log space, and a conversion rate that is less biased than one learned from clicks alone."""

import pytest
import torch
import torch.nn.functional as F

import balancing
import zoo
from tasks import create_task
from tests.zoo.tiny import build, tiny
from zoo.esmm import product_logit, stage_rates


def test_the_logit_of_a_product_is_exact_and_never_overflows():
    a, b = torch.meshgrid(torch.linspace(-30, 30, 25), torch.linspace(-30, 30, 25), indexing="ij")
    p, q = a.double(), b.double()
    rest = p.neg().exp() + q.neg().exp() + (-p - q).exp()  # 1 / product - 1, exact enough in float64
    torch.testing.assert_close(product_logit(a, b), -rest.log().float(), rtol=1e-6, atol=1e-6)
    extreme = torch.tensor([[-1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [88.0, -104.0]], requires_grad=True)
    logit = product_logit(extreme[:, 0], extreme[:, 1])
    torch.testing.assert_close(logit[:2], torch.tensor([-2e4, -1e4]))
    F.binary_cross_entropy_with_logits(logit, torch.tensor([1.0, 1.0, 0.0, 1.0])).backward()
    assert extreme.grad.isfinite().all()


def test_outputs_are_products_of_the_rates_of_the_stages():
    model, (x,) = build("esmm"), tiny("esmm").inputs(16)
    rates = {name: model.tower[name](x).double().sigmoid() for name in model.objectives}
    outputs, product = model(x), 1.0
    assert list(outputs) == list(rates)
    for name, rate in rates.items():
        product = product * rate
        torch.testing.assert_close(outputs[name].double().sigmoid(), product, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(stage_rates(outputs)[name].double().exp(), rate, rtol=1e-5, atol=1e-6)


def test_stages_may_have_another_order_than_the_classifiers():
    model = build("esmm", stages=["c", "a", "b"])
    assert model.objectives == ("c", "a", "b")
    assert [name for name in "abc" if model.head_parameters(name)] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"classifiers": {"a": 1, "b": 3}},
            "esmm: a stage has one logit, but 'b' has 3; use the criterion binary_cross",
        ),
        ({"stages": ["a", "b"]}, "esmm: stages must be the classifiers"),
        ({"classifiers": {}}, "esmm needs at least one objective"),
        ({"depth": 0}, "esmm: depth must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        build("esmm", **arguments)


def test_the_product_is_less_biased_than_a_model_of_clicks_alone():
    """Mean, ranking and error of the rate over all impressions against the true rates, in a small world."""
    found = {}
    for name in ("esmm", "shared_trunk"):
        labels = "all" if name == "esmm" else "clicked"
        task = create_task("impressions", samples=12_000, users=400, items=200, labels=labels)
        splits = task.splits()
        torch.manual_seed(0)
        heads = {"classifiers": dict.fromkeys(("click", "conversion") if labels == "all" else ("conversion",), 1)}
        heads |= {} if labels == "all" else {"regressors": {}}
        model = zoo.create_model(name, in_features=2, categories=task.info["categories"], width=64, depth=2, **heads)
        task = task.restrict(model.objectives)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
        steps = 6 * 24
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        for step in range(steps):
            rows = torch.randperm(12_000, generator=torch.Generator().manual_seed(step // 24)).split(512)[step % 24]
            losses, _ = task.losses(model, splits.train.batch(rows), "train")
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
        test = splits.test.batch(torch.arange(len(splits.test)))
        with torch.no_grad():
            rate = task.outputs(model, test)["cvr"]
        cvr = next(o for o in task.objectives if o.name == "cvr")
        metrics = {key: spec.make() for key, spec in cvr.metrics.items()}
        for metric in metrics.values():
            metric.update(*cvr.criterion.labelled_pairs(rate, test.targets["cvr"]))
        found[name] = {key: float(metric.compute()) for key, metric in metrics.items()}
    product, naive = found["esmm"], found["shared_trunk"]
    assert naive["bias"] > 1  # more than twice the true rate
    assert product["bias"] < naive["bias"] / 2
    assert product["mae"] < 0.7 * naive["mae"]
    assert product["auc"] > naive["auc"] + 0.02


def test_gradients_through_the_features_are_those_of_the_sum_with_categories():
    model = zoo.create_model("esmm", in_features=2, classifiers={"a": 1, "b": 1}, categories=[3], width=4)
    inputs = torch.randn(5, 2), torch.randint(3, (5, 1))

    def losses(features):
        return {name: output.square().mean() for name, output in model.heads(features).items()}

    sum(losses(model.features(*inputs)).values()).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    features = model.features(*inputs)
    balancer = balancing.create_balancer("mgda", model.objectives, at="features")
    balancer.compute_weights = lambda values, gramian: torch.ones_like(values)
    balancer.backward(losses(features), features=features, shared=model.shared_parameters())
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
