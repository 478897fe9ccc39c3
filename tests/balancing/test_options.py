"""The options that every balancer takes."""

import pytest
import torch

from balancing import BalancerOptions, balancer_arguments, balancer_class, create_balancer
from tests.balancing.problems import (
    ALL,
    GRADIENT,
    WEIGHS,
    Net,
    assert_close,
    core,
    expected,
    inputs,
    make,
    reference_rows,
)


def effective(balancer, losses=(1.0, 4.0), rows=((-4.0, 1, 1), (6.0, 1, 1))):
    j = torch.tensor(rows, dtype=torch.float64)
    gramian = (j @ j.T,) if balancer.measures else ()
    return balancer.effective_weights(torch.tensor(losses, dtype=torch.float64), *gramian)


def test_options_are_named_alike_everywhere():
    base = set(balancer_arguments("sum"))
    assert base == {*BalancerOptions.__annotations__, "before"}


@pytest.mark.parametrize("name", ["sum", "fixed", "realtime", "uncertainty", "prior_loss", "inverse_mean"])
def test_preference_multiplies_the_weights_of_loss_methods(name):
    plain, preferred = make(name, tuple("ab")), make(name, tuple("ab"), preference={"a": 3.0})
    torch.testing.assert_close(effective(preferred), effective(plain) * torch.tensor([1.5, 0.5]), check_dtype=False)


def test_preference_depends_on_ratios_only():
    one, ten = (
        make("mgda", tuple("ab"), preference={"a": 2, "b": 1}),
        make("mgda", tuple("ab"), preference={"a": 20, "b": 10}),
    )
    torch.testing.assert_close(effective(one), effective(ten))


def test_scale_sum_multiplies_mean_like_weights_by_the_number_of_objectives():
    torch.testing.assert_close(
        effective(make("mgda", tuple("ab"), scale="sum")), 2 * effective(make("mgda", tuple("ab")))
    )
    torch.testing.assert_close(
        effective(make("pcgrad", tuple("ab"), scale="sum")), effective(make("pcgrad", tuple("ab")))
    )


@pytest.mark.parametrize("kind", ["l2", "loss", "loss+"])
def test_normalize_balances_scaled_gradients_and_keeps_the_sum_of_weights(kind):
    j = torch.tensor([[-40.0, 10, 10], [6, 1, 1]], dtype=torch.float64)
    losses = torch.tensor([5.0, 0.1], dtype=torch.float64)
    w = make("mgda", tuple("ab"), normalize=kind).effective_weights(losses, j @ j.T)
    n = j.norm(dim=1)
    s = {"l2": 1 / n, "loss": 1 / losses, "loss+": 1 / (n * losses)}[kind]
    d = w @ j
    progress = j @ d * s  # the min-norm point of the scaled rows makes equal progress along each of them
    torch.testing.assert_close(progress[0], progress[1])
    assert abs(w.sum() - 1) < 1e-12


def test_log_losses_balances_the_gradients_of_the_logarithms():
    j = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    losses = torch.tensor([2.0, 5.0], dtype=torch.float64)
    w = make("mgda", tuple("ab"), log_losses=True).effective_weights(losses, j @ j.T)
    logs = j / losses[:, None]
    torch.testing.assert_close(w @ j, make("mgda", tuple("ab")).compute_weights(losses, logs @ logs.T) @ logs)


def test_max_norm_shortens_the_combined_gradient():
    net, x = Net(), inputs()
    make("pcgrad", max_norm=0.01).backward(net.losses(x))
    assert torch.cat([p.grad.flatten() for p in net.shared()]).norm().item() == pytest.approx(0.01)
    net.zero_grad()
    make("mgda", max_norm=1e9).backward(net.losses(x))
    long = net.gradients()
    net.zero_grad()
    make("mgda").backward(net.losses(x))
    assert all(torch.equal(g, long[key]) for key, g in net.gradients().items())


@pytest.mark.parametrize("name", GRADIENT)
def test_max_norm_holds_for_micro_batches_and_leaves_heads_alone(name):
    net, limit = Net(), 1e-3
    gradients = []
    for options in ({"max_norm": limit}, {}):
        balancer = make(name, **options)
        for _ in range(4):  # the first may be zero
            net.zero_grad()
            balancer.backward(net.losses(inputs(seed=1)), last=False)
            balancer.backward(net.losses(inputs(seed=2)))
        gradients.append(net.gradients())
    short, long = gradients
    length = torch.cat([p.flatten() for key, p in short.items() if key.startswith("trunk")]).norm().item()
    assert 0 < length <= limit * (1 + 1e-6)
    assert all(torch.equal(g, long[key]) for key, g in short.items() if key.startswith("head"))


@pytest.mark.parametrize("name", [n for n in WEIGHS if balancer_class(n).needs != "nothing"])
def test_every_keeps_weights_between_refreshes(name, monkeypatch):
    net, balancer, history, calls, reports = Net(), make(name, update_every=3), [], [], []
    method, verb = core(balancer), "effective_weights"
    if balancer_class(name).needs == "jacobian":
        verb = "weights_of_rows" if method.piecewise else "compute_weights"
    find = getattr(method, verb)
    monkeypatch.setattr(method, verb, lambda *a: calls.append(1) or find(*a))
    for step in range(5):
        x = inputs(seed=step)
        rows = reference_rows(net, x)
        report = balancer.backward(net.losses(x))
        history.append(report.weights.double())
        reports.append((report, history[-1].clone()))
        assert len(calls) == 1 + step // 3
        if step % 3 == 0:
            assert_close(net.gradients(), expected(rows, balancer, report), rtol=1e-6, atol=1e-6)
        else:
            torch.testing.assert_close(history[step], history[step - 1], rtol=1e-6, atol=0)
            heads = balancer.head_weights
            wanted = combination(rows, history[step], history[step] if heads is None else heads)
            assert_close(net.gradients(), wanted, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(report.weights.double(), weights) for report, weights in reports)  # later steps change none


def combination(rows, weights, heads):
    total = {}
    for weight, head, gradients in zip(weights.tolist(), heads.tolist(), rows.values(), strict=True):
        for name, gradient in gradients.items():
            total[name] = total.get(name, 0) + (head if name.startswith("head") else weight) * gradient
    return total


def test_ema_smooths_weights_over_steps():
    balancer = make("realtime", tuple("ab"), weight_ema=0.75)
    balancer.effective_weights(torch.tensor([1.0, 1.0]))
    balancer.step += 1
    assert balancer.effective_weights(torch.tensor([0.5, 2.0])).tolist() == pytest.approx([1.25, 0.875])


@pytest.mark.parametrize("name", [name for name in ALL if balancer_class(name).remembers])
def test_methods_that_keep_gradients_measure_them_at_parameters(name):
    with pytest.raises(ValueError, match=f"{name}: keeps gradients from step to step, so at='features' has no meaning"):
        create_balancer(name, ("a", "b"), at="features")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sum", {"at": "features"}),
        ("sum", {"update_every": 2}),
        ("sum", {"weight_ema": 0.5}),
        ("realtime", {"normalize": "l2"}),
        ("realtime", {"heads": "unit"}),
        ("realtime", {"scale": "sum"}),
        ("uncertainty", {"max_norm": 1.0}),
        ("mgda", {"max_norm": 1.0, "at": "features"}),
        ("mgda", {"update_every": 0}),
        ("mgda", {"update_every": -1}),
        ("mgda", {"weight_ema": 1.0}),
        ("mgda", {"at": "nowhere"}),
        ("mgda", {"preference": {"x": 1.0}}),
        ("mgda", {"preference": {"a": 0.0}}),
        ("pcgrad", {"max_norm": 1.0, "update_every": 2}),
        ("realtime", {"log_losses": True}),
        ("mgda", {"preference": {"a": float("inf")}}),
    ],
)
def test_an_option_without_meaning_is_an_error_that_names_the_method(name, options):
    with pytest.raises(ValueError, match=name):
        create_balancer(name, ("a", "b"), **options)


@pytest.mark.parametrize("name", [n for n in ALL if n not in GRADIENT])
def test_weights_of_losses_stay_on_the_losses_device(name):
    assert make(name).effective_weights(torch.ones(3)).device.type == "cpu"
