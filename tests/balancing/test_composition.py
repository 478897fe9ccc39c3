"""A loss method before a gradient method: the second balances what the first has weighed."""

import pytest
import torch

from balancing import BalancingError, balancer_class, create_balancer
from tests.balancing.problems import ALL, GRADIENT, Net, inputs, make, reference_rows, train

FIRST = [n for n in ALL if balancer_class(n).needs in ("nothing", "losses") and make(n).active() is None]
ACCEPTS = [n for n in GRADIENT if n not in ("db_mtl", "imtl")]  # these two are compositions already


def weighted(net, x, first):
    """The losses times what ``first`` gives to them, as a user would write it."""
    losses = net.losses(x)
    values = torch.stack([loss.detach() for loss in losses.values()])
    return {
        key: w * loss for w, (key, loss) in zip(first.effective_weights(values).tolist(), losses.items(), strict=True)
    }


@pytest.mark.parametrize("name", ACCEPTS)
def test_composition_equals_balancing_the_weighted_losses(name):
    net, x = Net(), inputs()
    first = {"name": "fixed", "values": {"a": 3.0, "b": 0.2, "c": 0.05}}
    report = make(name, before=first).backward(net.losses(x), shared=net.shared())
    composed = net.gradients()
    net.zero_grad()
    plain = make(name).backward(weighted(net, x, make("fixed", values=first["values"])), shared=net.shared())
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(composed[key], gradient, rtol=1e-6, atol=1e-9)
    if plain.weights is not None:
        wanted = plain.weights * torch.tensor([3.0, 0.2, 0.05], dtype=torch.float64)
        torch.testing.assert_close(report.weights, wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(report.losses, torch.stack([v.detach() for v in net.losses(x).values()]))


@pytest.mark.parametrize("first", FIRST)
def test_every_loss_method_can_come_first(first):
    net, x = Net(), inputs()
    options = {"name": first}
    if first == "prior_loss":
        options["prior_losses"] = {"a": 1.0, "b": 2.0, "c": 3.0}
    make("mgda", before=options).backward(net.losses(x))
    composed = net.gradients()
    net.zero_grad()
    make("mgda").backward(weighted(net, x, make(first)))
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(composed[key], gradient, rtol=1e-5, atol=1e-7)


def test_a_list_is_short_for_before():
    net, x = Net(), inputs()
    create_balancer(["realtime", "pcgrad"], net.objectives).backward(net.losses(x))
    composed = net.gradients()
    net.zero_grad()
    make("pcgrad", before="realtime").backward(net.losses(x))
    assert all(torch.equal(composed[key], gradient) for key, gradient in net.gradients().items())


def test_three_methods_multiply():
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    values = {"name": "fixed", "values": {"a": 3.0}, "before": "realtime"}
    report = make("sum", before=values).backward(net.losses(x))
    losses = torch.stack([v.detach() for v in net.losses(x).values()])
    torch.testing.assert_close(report.weights, torch.tensor([3.0, 1.0, 1.0]) / losses, check_dtype=False)
    for key, gradient in net.gradients().items():
        wanted = sum(w * row[key] for w, row in zip(report.weights, rows.values(), strict=True) if key in row)
        torch.testing.assert_close(gradient, wanted, check_dtype=False)


def test_parameters_of_the_first_are_learned():
    net, balancer = Net(), create_balancer(["uncertainty", "pcgrad"], ("a", "b", "c"))
    before = balancer.loss_balancer.noise.detach().clone()
    train(net, balancer, steps=5)
    assert [name for name, _ in balancer.named_parameters()] == ["loss_balancer.noise"]
    assert not torch.equal(before, balancer.loss_balancer.noise)


def test_epochs_steps_and_observations_reach_the_first():
    balancer = create_balancer(["famo", "pcgrad"], ("a", "b", "c"))
    assert balancer.observes
    train(Net(), balancer, steps=6)
    assert balancer.loss_balancer.step == 6
    assert balancer.loss_balancer.epoch == 2
    assert balancer.loss_balancer.logits.detach().abs().max() > 0


@pytest.mark.parametrize(
    "options", [{}, {"update_every": 2}, {"heads": "weighted"}, {"normalize": "l2"}, {"log_losses": True}]
)
def test_composition_resumes_bit_equal(options):
    balancers = [create_balancer(["inverse_mean", "pcgrad"], ("a", "b", "c"), **options) for _ in range(2)]
    nets = [Net(), Net()]
    train(nets[0], balancers[0], steps=5)
    nets[1].load_state_dict(nets[0].state_dict())
    balancers[1].load_state_dict(balancers[0].state_dict(), strict=True)
    for net, balancer in zip(nets, balancers, strict=True):
        train(net, balancer, steps=4, start=5)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_micro_batches_of_a_composition_equal_one_batch():
    net, x = Net(), inputs(12)
    create_balancer(["realtime", "mgda"], net.objectives).backward(net.losses(x))
    wanted = net.gradients()
    net.zero_grad()
    balancer = create_balancer(["realtime", "mgda"], net.objectives)
    for i, part in enumerate(x.chunk(3)):
        balancer.backward({key: loss / 3 for key, loss in net.losses(part).items()}, last=i == 2)
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(gradient, wanted[key])


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (["mgda", "pcgrad"], {}, "only a method that weighs losses can come before it, not mgda"),
        (["alternating", "pcgrad"], {}, "not alternating"),
        (["sum", "pcgrad"], {"before": "realtime"}, "either a list of methods or before="),
        ("pcgrad", {"before": {"values": {}}}, "a mapping with a name"),
        ("pcgrad", {"before": "realtme"}, "did you mean realtime"),
        (["realtime", "db_mtl"], {}, "db_mtl"),
        (["realtime", "auto_lambda"], {}, "auto_lambda"),
    ],
)
def test_what_does_not_compose_is_an_error(name, options, problem):
    with pytest.raises(ValueError, match=problem):
        create_balancer(name, ("a", "b"), **options)


def test_a_negative_loss_names_the_method_that_cannot_take_it():
    net, x = Net(), inputs()
    losses = {key: loss - 1e4 for key, loss in net.losses(x).items()}
    with pytest.raises(BalancingError, match="realtime: the loss of objective 'a'"):
        make("mgda", before="realtime").backward(losses)
