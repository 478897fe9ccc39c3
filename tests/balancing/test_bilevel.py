"""What holds for every bilevel method."""

import copy
import io

import pytest
import torch
from torch import nn

from balancing import BalancingError, create_balancer
from balancing.bilevel.auto_lambda import AutoLambda
from balancing.bilevel.bilevel_balancer import BilevelBalancer
from balancing.bilevel.forum import FORUM
from balancing.bilevel.moml import MOML
from tests.balancing.bilevel.problems import LR, Noisy, Regression, batches, closure, learn, regression, stacked
from tests.balancing.problems import BILEVEL, Net, inputs

CLASSES = {"auto_lambda": AutoLambda, "moml": MOML, "forum": FORUM}


@pytest.mark.parametrize("name", BILEVEL)
def test_only_the_training_forward_touches_the_model(name):
    net, train, validation = Noisy(), closure(inputs(12)), closure(inputs(7, seed=2))
    twin = copy.deepcopy(net)
    objects = dict(net.named_parameters()) | dict(net.named_buffers())
    torch.manual_seed(3)
    train(twin)
    random = torch.get_rng_state()
    torch.manual_seed(3)
    create_balancer(name, ("a", "b", "c")).meta_backward(net, train, validation, lr=1e-4)
    assert torch.equal(torch.get_rng_state(), random)
    now = dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(now[key] is value for key, value in objects.items())
    for key, value in (dict(twin.named_parameters()) | dict(twin.named_buffers())).items():
        assert torch.equal(now[key], value), key


@pytest.mark.parametrize("name", ["auto_lambda", "moml"])
def test_model_gradient_is_that_of_the_weighted_losses(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, ("a", "b", "c"), preference={"a": 2.0})
    report = balancer.meta_backward(net, train, validation, lr=LR)
    gradients = net.gradients()
    net.zero_grad()
    (report.weights @ stacked(train(net))).backward()
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(gradients[key], gradient)
    torch.testing.assert_close(report.losses, stacked(train(net)).detach())
    assert report.weights[0] / report.weights[1] == pytest.approx(2.0)


@pytest.mark.parametrize("name", BILEVEL)
def test_gradients_are_added_and_unreached_or_excluded_parameters_stay_untouched(name):
    net, (train, validation) = Net(), batches()
    net.spare = nn.Linear(2, 2).double()
    net.head["a"].weight.requires_grad_(False)
    create_balancer(name, ("a", "b", "c")).meta_backward(net, train, validation, lr=1e-4)
    once = net.gradients()
    assert net.spare.weight.grad is None
    assert net.head["a"].weight.grad is None
    create_balancer(name, ("a", "b", "c")).meta_backward(net, train, validation, lr=1e-4)
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(gradient, 2 * once[key])
    net.zero_grad()
    create_balancer(name, ("a", "b", "c")).meta_backward(net, train, validation, lr=1e-4, parameters=net.shared())
    assert set(net.gradients()) == {key for key, _ in net.named_parameters() if key.startswith("trunk")}


@pytest.mark.parametrize("name", ["moml", "forum"])
def test_every_validation_loss_falls(name):
    net, held_out = Regression(), regression(77, ("main", "useful"))
    before = stacked(held_out(net)).detach()
    learn(create_balancer(name, ("main", "useful")), net, steps=150, lr=0.05)
    assert (stacked(held_out(net)) < 0.05 * before).all()


def steps(net, balancer, first, count):
    optimizer, own = torch.optim.SGD(net.parameters(), lr=1e-3), torch.optim.SGD(balancer.parameters(), lr=0.1)
    for step in range(first, first + count):
        optimizer.zero_grad()
        own.zero_grad()
        balancer.meta_backward(net, *batches(step), lr=1e-3)
        optimizer.step()
        own.step()
        if step % 2:
            balancer.next_epoch()


@pytest.mark.parametrize("name", BILEVEL)
def test_resumed_steps_are_bit_equal(name):
    net, balancer = Net(), create_balancer(name, ("a", "b", "c"))
    steps(net, balancer, 0, 5)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = create_balancer(name, ("a", "b", "c"), seed=99)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    twin = copy.deepcopy(net)
    steps(net, balancer, 5, 4)
    steps(twin, fresh, 5, 4)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert torch.equal(balancer.alpha, fresh.alpha)


@pytest.mark.parametrize("name", BILEVEL)
@pytest.mark.parametrize("objectives", [("a",), ("a", "b")])
def test_few_objectives_and_single_precision(name, objectives):
    net, (train, validation) = Net(objectives, dtype=torch.float32), batches(dtype=torch.float32)
    balancer = create_balancer(name, objectives)
    assert isinstance(balancer, BilevelBalancer)
    assert isinstance(balancer, CLASSES[name])
    report = balancer.meta_backward(net, train, validation, lr=1e-3)
    assert balancer.step == 1
    assert report.weights.isfinite().all()
    if len(objectives) == 1 and name != "auto_lambda":
        assert report.weights.tolist() == [1]
        assert balancer.alpha.grad.tolist() == [0]


@pytest.mark.parametrize("name", BILEVEL)
def test_a_learning_rate_of_zero_learns_nothing(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, ("a", "b", "c"))
    balancer.meta_backward(net, train, validation, lr=0.0)
    assert not balancer.alpha.grad.any()
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name}: lr must be finite and not negative"):
            balancer.meta_backward(net, train, validation, lr=wrong)


@pytest.mark.parametrize("name", BILEVEL)
def test_what_is_wrong_is_said(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, ("a", "b", "c"))
    assert not hasattr(balancer, "backward")
    with pytest.raises(ValueError, match=f"{name}: log_losses|log_losses= has no meaning"):
        create_balancer(name, ("a", "b", "c"), log_losses=True)
    with pytest.raises(ValueError, match="learns the weights of the losses itself, so sum cannot come before"):
        create_balancer(["sum", name], ("a", "b", "c"))
    with pytest.raises(ValueError, match="update_every= has no meaning"):
        create_balancer(name, ("a", "b", "c"), update_every=2)

    def without_b(n):
        return {key: loss for key, loss in train(n).items() if key != "b"}

    for pair in ((without_b, validation), (train, without_b)):
        with pytest.raises(ValueError, match=f"{name}: the loss of objective 'b' is missing"):
            balancer.meta_backward(net, *pair, lr=LR)
    with pytest.raises(BalancingError, match="does not depend on any trainable parameter"):
        balancer.meta_backward(net, lambda n: dict.fromkeys("abc", torch.ones(())), validation, lr=LR)
    with pytest.raises(BalancingError, match="reach none of the model's trainable parameters"):
        balancer.meta_backward(nn.Linear(1, 1), lambda _: train(net), validation, lr=LR)


@pytest.mark.parametrize("name", BILEVEL)
def test_a_non_finite_loss_is_named_or_skipped(name):
    net, (train, validation) = Net(), batches()

    def broken(losses):
        return lambda n: losses(n) | {"b": losses(n)["b"] * torch.inf}

    cases = (
        (broken(train), validation, "the loss of objective 'b'"),
        (train, broken(validation), "validation loss of objective 'b'"),
    )
    for first, second, message in cases:
        with pytest.raises(BalancingError, match=message):
            create_balancer(name, ("a", "b", "c")).meta_backward(net, first, second, lr=1e-3)
        balancer = create_balancer(name, ("a", "b", "c"), on_nonfinite="skip")
        report = balancer.meta_backward(net, first, second, lr=1e-3)
        assert (report.skipped, report.skips, balancer.step) == (True, 1, 0)
        assert not net.gradients()
        assert balancer.alpha.grad is None
