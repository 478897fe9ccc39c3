"""Objectives drawn for each step: the step is that of those alone, and its mean over draws is the step of all."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import GRAMIAN, Net, assert_close, core, inputs, make

NAMES = ("a", "b", "c", "d")
PRIMARY = ("cosine_gate", "metabalance", "pcd")
SAMPLING = [name for name in GRAMIAN if name not in (*PRIMARY, "pareto_mtl")]


def drawn_by(balancer, count=2):
    """What the next step will draw; the balancer's generator moves."""
    return sorted(torch.randperm(len(NAMES), generator=core(balancer).generator)[:count].tolist())


def gradients(balancer, net, x, **arguments):
    net.zero_grad()
    report = balancer.backward(net.losses(x), **arguments)
    return net.gradients(), report


@pytest.mark.parametrize("options", [{}, {"scale": "sum"}, {"heads": "weighted"}, {"at": "features"}])
@pytest.mark.parametrize("name", SAMPLING)
def test_a_step_is_that_of_the_objectives_that_were_drawn(name, options):
    convention = core(make(name, NAMES)).convention
    if "scale" in options and convention == "own":
        pytest.skip("the method sets the length of its update itself")
    net, x = Net(NAMES), inputs()
    balancer, other = make(name, NAMES, sample=2, **options), make(name, NAMES, **options)
    summed = convention == "sum" or options.get("scale") == "sum"
    for _ in range(3):
        chosen = drawn_by(other)
        given = {}
        for each in (balancer, other):
            net.zero_grad()
            each.zero_grad()
            z = net.features(x)
            losses = net.losses(x, z)
            if each is other:
                losses = {key: loss if k in chosen else None for k, (key, loss) in enumerate(losses.items())}
            given[each] = each.backward(losses, features=z), net.gradients()
        (report, actual), (_, wanted) = given[balancer], given[other]
        doubled = {key: summed or (key.startswith("head") and balancer.head_rule == "unit") for key in wanted}
        assert report.present == tuple(k in chosen for k in range(4))
        assert_close(actual, {key: (1 + doubled[key]) * g for key, g in wanted.items()}, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("options", "share"), [({}, 1 / 4), ({"scale": "sum"}, 1)])
def test_the_mean_over_draws_of_equal_weights_is_the_step_of_all(options, share):
    net, x = Net(NAMES), inputs()
    balancer, seen = create_balancer("conicgrad", NAMES, c=1.0, sample=2, **options), {}
    for _ in range(60):
        found, report = gradients(balancer, net, x)
        seen[report.present] = {key: found.get(key, torch.zeros_like(p)) for key, p in net.named_parameters()}
    assert len(seen) == 6  # of four objectives, two
    mean = {key: torch.stack([each[key] for each in seen.values()]).mean(0) for key, _ in net.named_parameters()}
    net.zero_grad()
    sum(net.losses(x).values()).backward()
    wanted = {key: g if key.startswith("head") else share * g for key, g in net.gradients().items()}
    assert_close(mean, wanted, rtol=1e-10, atol=1e-14)


PRIORITY = {"preference": {"a": 5.0}}


@pytest.mark.parametrize("options", [{}, PRIORITY, {"before": {"name": "sum", **PRIORITY}}])
def test_the_mean_over_draws_of_a_sum_is_the_sum(options):
    wanted = [6.5, 5, 5.5, 6] if options else [5.0, 6, 7, 8]
    x, seen = torch.zeros(4, requires_grad=True), {}
    balancer = create_balancer("pcgrad", NAMES, sample=3, **options)  # the sum, as nothing conflicts
    for _ in range(40):
        x.grad = None
        report = balancer.backward({name: (k + 1) * x[k] + x.sum() for k, name in enumerate(NAMES)}, shared=[x])
        seen[report.present] = x.grad
    assert len(seen) == 4
    torch.testing.assert_close(torch.stack(list(seen.values())).mean(0), torch.tensor(wanted))


@pytest.mark.parametrize("heads", ["unit", "weighted"])
@pytest.mark.parametrize("name", ["cosine_gate", "metabalance"])
@pytest.mark.parametrize("preference", [None, {"b": 4.0, "c": 0.5}])
@pytest.mark.parametrize(("count", "draws"), [(2, 3), (3, 3)])
def test_with_a_primary_objective_the_mean_over_draws_is_the_step_of_all(name, heads, preference, count, draws):
    net, x = Net(NAMES), inputs()
    options = {"primary": "c", "heads": heads, "preference": preference}
    wanted, _ = gradients(create_balancer(name, NAMES, **options), net, x)
    found = {}
    for seed in range(30):  # metabalance weighs by means of earlier steps, so each draw is a first one
        balancer = create_balancer(name, NAMES, **options, sample=count, seed=seed)
        step, report = gradients(balancer, net, x)
        found[report.present] = {key: step.get(key, torch.zeros_like(p)) for key, p in net.named_parameters()}
    assert len(found) == draws
    assert all(present[2] and sum(present) == count for present in found)
    mean = {key: torch.stack([each[key] for each in found.values()]).mean(0) for key, _ in net.named_parameters()}
    assert_close(mean, {key: wanted[key] for key in mean}, rtol=1e-10, atol=1e-14)


def test_pcd_steps_as_if_the_others_were_absent():
    net, x = Net(NAMES), inputs()
    balancer, other = (create_balancer("pcd", NAMES, primary="b", **options) for options in ({"sample": 3}, {}))
    for _ in range(4):
        actual, report = gradients(balancer, net, x)
        assert report.present[1]
        net.zero_grad()
        here = dict(zip(NAMES, report.present, strict=True))
        other.backward({key: loss if here[key] else None for key, loss in net.losses(x).items()})
        for key, wanted in net.gradients().items():
            factor = 3 / 2 if key.startswith("head") and not key.startswith("head.b") else 1.0
            torch.testing.assert_close(actual[key], factor * wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("count", [2, 3])
def test_a_step_takes_as_many_backward_passes_as_objectives_are_drawn(count):
    net, x, passes = Net(NAMES), inputs(), []
    balancer = create_balancer("mgda", NAMES, sample=count)
    z = net.features(x)
    z.register_hook(lambda gradient: passes.append(1))
    balancer.backward(net.losses(x, z))
    assert len(passes) == count


def test_a_step_of_micro_batches_has_one_draw():
    net, x = Net(NAMES), inputs()
    whole, parts = (create_balancer("upgrad", NAMES, sample=2, seed=3) for _ in range(2))
    for _ in range(4):
        wanted, report = gradients(whole, net, x)
        net.zero_grad()
        for half, last in ((x[:6], False), (x[6:], True)):
            again = parts.backward({key: loss / 2 for key, loss in net.losses(half).items()}, last=last)
        assert again.present == report.present
        assert_close(net.gradients(), wanted, rtol=1e-9, atol=1e-12)


def test_a_step_that_is_given_up_draws_again():
    net, x = Net(NAMES), inputs()
    balancer, other = (create_balancer("mgda", NAMES, sample=2) for _ in range(2))
    balancer.backward(net.losses(x), last=False)
    balancer.discard()
    drawn_by(other)
    assert gradients(balancer, net, x)[1].present == gradients(other, net, x)[1].present


def test_looking_at_the_coming_step_draws_the_same():
    net, x = Net(NAMES), inputs()
    balancer = create_balancer("pcgrad", NAMES, sample=2)
    for _ in range(5):
        ahead, _ = gradients(balancer, net, x, advance=False)
        assert_close(gradients(balancer, net, x)[0], ahead, rtol=0, atol=0)


def test_a_resumed_run_draws_what_the_first_one_did():
    net, x = Net(NAMES), inputs()
    balancer = create_balancer("gradvac", NAMES, before="uncertainty", sample=3)
    for _ in range(3):
        gradients(balancer, net, x)
    fresh = create_balancer("gradvac", NAMES, before="uncertainty", sample=3, seed=7)
    fresh.load_state_dict(balancer.state_dict())
    for _ in range(3):
        wanted, report = gradients(balancer, net, x)
        actual, other = gradients(fresh, net, x)
        assert other.present == report.present
        assert_close(actual, wanted, rtol=0, atol=0)


def test_an_objective_that_is_drawn_may_be_absent():
    net, x = Net(NAMES), inputs()
    balancer, seen = create_balancer("grad_normalize", NAMES, sample=2), set()
    for _ in range(20):
        net.zero_grad()
        report = balancer.backward({**net.losses(x), "a": None})
        seen.add(sum(report.present))
        if sum(report.present) == 1:  # its gradient alone, twice as K / n = 2
            (key,) = [name for name, here in zip(NAMES, report.present, strict=True) if here]
            actual = net.gradients()
            net.zero_grad()
            net.losses(x)[key].backward()
            assert_close(actual, {name: 2 * g for name, g in net.gradients().items()}, rtol=1e-12, atol=0)
    assert seen == {1, 2}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sum", {}, "sum: measures no gradients"),
        ("sum", {"sample": 1}, "sum: measures no gradients"),
        ("uncertainty", {}, "uncertainty: measures no gradients"),
        ("moml", {}, "moml: measures no gradients"),
        ("graddrop", {}, "graddrop: needs the gradients of all objectives"),
        ("moco", {}, "moco: needs the gradients of all objectives"),
        ("lra", {}, "lra: needs the gradients of all objectives"),
        ("pareto_mtl", {}, "pareto_mtl: has rays of all losses"),
        ("mgda", {"update_every": 2}, "mgda: sample= draws other objectives"),
        ("mgda", {"weight_ema": 0.5}, "mgda: sample= draws other objectives"),
        (
            "mgda",
            {"sample": 1},
            "mgda: sample must be a whole number of at least 2 and below the number of objectives, got 1",
        ),
        ("mgda", {"sample": 2.5}, "mgda: sample must be an integer or None, got 2.5"),
        (
            "mgda",
            {"sample": 4},
            "mgda: sample must be at least 2 and below the number of objectives, 4, got 4; it needs three",
        ),
    ],
)
def test_a_combination_without_meaning_is_named(name, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        create_balancer(name, NAMES, **{"sample": 2, **options})


def test_weights_of_another_call_are_refused():
    net, x = Net(NAMES), inputs()
    balancer = create_balancer("mgda", NAMES, sample=2)
    report = balancer.backward(net.losses(x), advance=False)
    with pytest.raises(ValueError, match="mgda: weights_of= needs the same objectives"):
        balancer.backward(net.losses(x), weights_of=report)
