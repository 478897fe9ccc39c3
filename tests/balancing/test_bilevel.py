"""Methods that look at validation losses after a virtual step."""

import copy
import io
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from balancing import BalancingError, BilevelBalancer, create_balancer
from balancing.bilevel.auto_lambda import AutoLambda
from balancing.bilevel.forum import FORUM, constrained_min_norm_weights
from balancing.bilevel.moml import MOML
from balancing.solvers import min_norm_weights
from tests.balancing.problems import Net, inputs

METHODS = ("auto_lambda", "moml", "forum")
CLASSES = {"auto_lambda": AutoLambda, "moml": MOML, "forum": FORUM}
LR = 0.02


def closure(x):
    """Losses through ``features`` and heads, which a call of ``forward`` alone would not reach."""
    return lambda net: net.losses(x)


def batches(step=0, dtype=torch.float64):
    return closure(inputs(seed=10 + step, dtype=dtype)), closure(inputs(seed=500 + step, dtype=dtype))


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def stacked(losses):
    return torch.stack(list(losses.values()))


def after_a_step(net, train, validation, weights, lr):
    """(K,) validation losses after one gradient step on the weighted training losses, differentiable in the weights."""
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(weights @ stacked(train(net)), parameters, create_graph=True)
    moved = {name: p - lr * g for (name, p), g in zip(net.named_parameters(), gradients, strict=True)}

    class Losses(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            return stacked(validation(self.net))

    return torch.func.functional_call(Losses(), {f"net.{name}": p for name, p in moved.items()})


# ---- the formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", [None, {"a": 4.0, "c": 0.5}])
@pytest.mark.parametrize("primary", [(), ("a",), ("b", "c")])
def test_auto_lambda_gradient_equals_double_backward(primary, preference):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer("auto_lambda", "abc", primary=primary, radius=1e-4, preference=preference).double()
    p = balancer.preference
    with torch.no_grad():
        balancer.alpha.copy_(torch.tensor([0.1, 0.3, 0.02]))
    weights = balancer.alpha.detach().clone().requires_grad_()
    chosen = torch.tensor([float(not primary or name in primary) for name in "abc"]).double()
    (wanted,) = torch.autograd.grad((chosen * p) @ after_a_step(net, train, validation, weights * p, LR), weights)
    report = balancer.meta_backward(net, train, validation, lr=LR)
    torch.testing.assert_close(balancer.alpha.grad, wanted, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(report.weights, weights.detach() * p)


def test_published_radius_is_close_to_double_backward():
    net, (train, validation) = Net(), batches()
    balancer = create_balancer("auto_lambda", "abc").double()
    weights = balancer.alpha.detach().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(after_a_step(net, train, validation, weights, LR).sum(), weights)
    balancer.meta_backward(net, train, validation, lr=LR)
    torch.testing.assert_close(balancer.alpha.grad, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", ["paper", "sum"])
def test_moml_gradient_is_the_min_norm_point_of_double_backwards(scale):
    net, (train, validation) = Net(), batches(step=3)
    balancer = create_balancer("moml", "abc", scale=scale).double()
    with torch.no_grad():
        balancer.alpha.copy_(torch.tensor([0.5, -1.0, 0.2]))
    alpha = balancer.alpha.detach().clone().requires_grad_()
    weights = torch.softmax(alpha, 0) * (3 if scale == "sum" else 1)
    losses = after_a_step(net, train, validation, weights, LR)
    rows = torch.stack([torch.autograd.grad(loss, alpha, retain_graph=True)[0] for loss in losses])
    rows = rows / rows.norm(dim=1, keepdim=True)
    report = balancer.meta_backward(net, train, validation, lr=LR)
    torch.testing.assert_close(balancer.alpha.grad, min_norm_weights(rows @ rows.T) @ rows)
    torch.testing.assert_close(report.weights, weights.detach())


@pytest.mark.parametrize(("rho", "binding"), [(0.03, True), (1e-9, False)])
def test_forum_direction_keeps_its_constraint(rho, binding):
    net = Net()
    train = closure(inputs(seed=1)) if binding else batches()[0]
    validation = batches()[1] if binding else train  # alone, the same losses make progress on the constraint
    balancer = create_balancer("forum", "abc", rho=rho, inner_steps=3).double()
    balancer.meta_backward(net, train, validation, lr=1e-4)
    losses, upper = stacked(train(net)), stacked(validation(net))
    parameters = list(net.parameters())
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    of_q = flat(torch.autograd.grad(weights @ losses, parameters))
    rows = torch.stack(
        [flat(torch.autograd.grad(u, parameters, retain_graph=True, materialize_grads=True)) for u in upper]
    )
    rows = rows / rows.norm(dim=1, keepdim=True)
    moved = copy.deepcopy(net)  # the descent, with an optimizer
    optimizer = torch.optim.SGD(moved.parameters(), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        (weights @ stacked(train(moved))).backward()
        optimizer.step()
    gap = (losses - stacked(train(moved))).detach()
    of_alpha = weights * (gap - weights @ gap)
    q = torch.cat([of_alpha, of_q])
    d = -torch.cat([balancer.alpha.grad, flat(p.grad for p in parameters)])
    assert float(q @ d) <= -rho * float(q @ q) * (1 - 1e-6)
    padded = torch.cat([torch.zeros(3, 3, dtype=torch.float64), rows], dim=1)
    system = torch.cat([padded, q[None]]).T
    solution = torch.linalg.lstsq(system, -d[:, None], driver="gelsd").solution.squeeze()
    torch.testing.assert_close(system @ solution, -d, rtol=1e-5, atol=1e-6)
    assert solution[:3].sum() == pytest.approx(1, abs=1e-5)
    assert solution.min() > -1e-6
    # complementarity: unless the constraint binds, nu is zero
    assert (abs(float(q @ d) + rho * float(q @ q)) < 1e-5 * float(q @ q)) == binding
    assert (float(solution[3]) > 1e-6) == binding
    # no mixture with other weights has a smaller dual value
    best = float(padded.new_tensor(0.5) * d @ d) - float(solution[3]) * rho * float(q @ q)
    for seed in range(200):
        w = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
        v = (w / w.sum()) @ padded
        nu = max(0.0, rho - float(v @ q) / float(q @ q))
        v = v + nu * q
        assert 0.5 * float(v @ v) - nu * rho * float(q @ q) >= best - 1e-9 * abs(best) - 1e-9


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("length", [1e-8, 1e-3, 1.0, 1e3, 1e8])
def test_constrained_weights_satisfy_the_optimality_conditions(size, length):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        u = torch.randn(size, 7, dtype=torch.float64, generator=generator)
        u = u / u.norm(dim=1, keepdim=True)
        if seed == 1:
            u[0] = 0
        if seed == 2:
            u[-1] = -u[0]
        q = torch.randn(7, dtype=torch.float64, generator=generator) * length
        rho, squared = 0.1 * 10**seed / length, float(q @ q)
        w = constrained_min_norm_weights(u @ u.T, u @ q, squared, rho)
        assert w.min() >= 0
        assert w.sum() == pytest.approx(1)
        nu = max(0.0, rho - float(w @ u @ q) / squared)
        slope = u @ (w @ u + nu * q)  # of the objective in w; equal and least where w > 0
        assert (slope - float(w @ slope)).min() >= -1e-6 * (1 + float(slope.abs().max()))


def test_forum_averages_multipliers_over_epochs():
    net, (train, validation) = Net(), batches()
    balancer = create_balancer("forum", "abc")
    balancer.meta_backward(net, train, validation, lr=1e-4)
    first = balancer.multipliers.clone()
    assert first.sum() == pytest.approx(1)
    balancer.next_epoch()
    other = batches(step=3)
    fresh = create_balancer("forum", "abc")
    fresh.meta_backward(net, *other, lr=1e-4)
    balancer.meta_backward(net, *other, lr=1e-4)
    torch.testing.assert_close(balancer.multipliers, first + 2**-0.75 * (fresh.multipliers - first))


# ---- what they are for -------------------------------------------------------------------------------------------------


class Regression(nn.Module):
    """One linear layer; the objectives share every weight. Forward only: neither features nor heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 1).double()

    def forward(self, x):
        return self.layer(x).squeeze(1)


TRUTH = torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0, 3.0], dtype=torch.float64)


def regression(seed, objectives=("main", "useful", "noise")):
    """``main`` is the target, ``useful`` a noisier copy of it, ``noise`` random numbers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 6, dtype=torch.float64, generator=generator)
    y = x @ TRUTH
    useful = y + 0.1 * torch.randn(16, dtype=torch.float64, generator=generator)
    noise = 5 * torch.randn(16, dtype=torch.float64, generator=generator)

    def losses(net):
        out = net(x)
        targets = {"main": y, "useful": useful, "noise": noise}
        return {name: (out - targets[name]).square().mean() for name in objectives}

    return losses


def learn(balancer, net, steps, lr=0.02, balancer_lr=0.02):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    own = torch.optim.Adam(balancer.parameters(), lr=balancer_lr)
    for step in range(steps):
        optimizer.zero_grad()
        own.zero_grad()
        train, validation = (regression(seed, balancer.objectives) for seed in (step, 10_000 + step))
        balancer.meta_backward(net, train, validation, lr=lr)
        optimizer.step()
        own.step()
    return balancer


def test_auto_lambda_tells_a_useless_auxiliary_from_a_useful_one():
    net = Regression()
    balancer = create_balancer("auto_lambda", ("main", "useful", "noise"), primary=("main",))
    main, useful, noise = learn(balancer, net, steps=150).alpha.tolist()
    assert noise < 0.1 < useful
    assert main > 0.1


@pytest.mark.parametrize("name", ["moml", "forum"])
def test_every_validation_loss_falls(name):
    net, held_out = Regression(), regression(77, ("main", "useful"))
    before = stacked(held_out(net)).detach()
    learn(create_balancer(name, ("main", "useful")), net, steps=150, lr=0.05)
    assert (stacked(held_out(net)) < 0.05 * before).all()


# ---- the model is only looked at ---------------------------------------------------------------------------------------


class Noisy(Net):
    """BatchNorm and dropout in the trunk."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6)).double()


@pytest.mark.parametrize("name", METHODS)
def test_only_the_training_forward_touches_the_model(name):
    net, train, validation = Noisy(), closure(inputs(12)), closure(inputs(7, seed=2))
    twin = copy.deepcopy(net)
    objects = dict(net.named_parameters()) | dict(net.named_buffers())
    torch.manual_seed(3)
    train(twin)
    random = torch.get_rng_state()
    torch.manual_seed(3)
    create_balancer(name, "abc").meta_backward(net, train, validation, lr=1e-4)
    assert torch.equal(torch.get_rng_state(), random)
    now = dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(now[key] is value for key, value in objects.items())
    for key, value in (dict(twin.named_parameters()) | dict(twin.named_buffers())).items():
        assert torch.equal(now[key], value), key


def test_dropout_masks_are_the_same_in_every_look():
    net, (train, validation) = Noisy(), batches()
    torch.manual_seed(3)
    balancer = create_balancer("auto_lambda", "abc", radius=1e-4).double()
    balancer.meta_backward(net, train, validation, lr=1e-3)
    weights = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)

    def seeded(losses):
        def run(n):
            torch.manual_seed(3)
            return losses(n)

        return run

    (wanted,) = torch.autograd.grad(after_a_step(net, seeded(train), seeded(validation), weights, 1e-3).sum(), weights)
    torch.testing.assert_close(balancer.alpha.grad, wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["auto_lambda", "moml"])
def test_model_gradient_is_that_of_the_weighted_losses(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, "abc", preference={"a": 2.0})
    report = balancer.meta_backward(net, train, validation, lr=LR)
    found = net.gradients()
    net.zero_grad()
    (report.weights @ stacked(train(net))).backward()
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(found[key], gradient)
    torch.testing.assert_close(report.losses, stacked(train(net)).detach())
    assert report.weights[0] / report.weights[1] == pytest.approx(2.0)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_added_and_unreached_or_excluded_parameters_stay_untouched(name):
    net, (train, validation) = Net(), batches()
    net.spare = nn.Linear(2, 2).double()
    net.head["a"].weight.requires_grad_(False)
    create_balancer(name, "abc").meta_backward(net, train, validation, lr=1e-4)
    once = net.gradients()
    assert net.spare.weight.grad is None
    assert net.head["a"].weight.grad is None
    create_balancer(name, "abc").meta_backward(net, train, validation, lr=1e-4)
    for key, gradient in net.gradients().items():
        torch.testing.assert_close(gradient, 2 * once[key])
    net.zero_grad()
    create_balancer(name, "abc").meta_backward(net, train, validation, lr=1e-4, parameters=net.shared())
    assert set(net.gradients()) == {key for key, _ in net.named_parameters() if key.startswith("trunk")}


# ---- several processes -------------------------------------------------------------------------------------------------


def looks(part):
    """Gradients of two steps of every method, on ``part(batch)`` of each batch."""
    found = []
    for name in METHODS:
        net, balancer = Net(), create_balancer(name, "abc")
        for seed in range(2):
            pair = [closure(part(inputs(8, seed=base + seed))) for base in (0, 50)]
            balancer.meta_backward(net, *pair, lr=1e-3)
            found.append(net.gradients() | {"own": balancer.alpha.grad.clone()})
    return found


def worker(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        torch.save(looks(lambda x: x.chunk(2)[rank]), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(port, str(tmp_path)), nprocs=2)
    whole, ranks = looks(lambda x: x), [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank in ranks:
        for mine, wanted in zip(rank, whole, strict=True):
            assert mine.keys() == wanted.keys()
            for key, gradient in wanted.items():
                torch.testing.assert_close(mine[key], gradient, rtol=1e-5, atol=1e-7)


# ---- state and errors --------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", METHODS)
def test_resumed_steps_are_bit_equal(name):
    net, balancer = Net(), create_balancer(name, "abc")
    steps(net, balancer, 0, 5)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = create_balancer(name, "abc", seed=99)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    twin = copy.deepcopy(net)
    steps(net, balancer, 5, 4)
    steps(twin, fresh, 5, 4)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert torch.equal(balancer.alpha, fresh.alpha)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("objectives", ["a", "ab"])
def test_few_objectives_and_single_precision(name, objectives):
    net, (train, validation) = Net(tuple(objectives), dtype=torch.float32), batches(dtype=torch.float32)
    balancer = create_balancer(name, objectives)
    assert isinstance(balancer, BilevelBalancer)
    assert isinstance(balancer, CLASSES[name])
    report = balancer.meta_backward(net, train, validation, lr=1e-3)
    assert balancer.step == 1
    assert report.weights.isfinite().all()
    if objectives == "a" and name != "auto_lambda":
        assert report.weights.tolist() == [1]
        assert balancer.alpha.grad.tolist() == [0]


@pytest.mark.parametrize("name", METHODS)
def test_a_learning_rate_of_zero_learns_nothing(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, "abc")
    balancer.meta_backward(net, train, validation, lr=0.0)
    assert not balancer.alpha.grad.any()
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name}: lr must be finite and not negative"):
            balancer.meta_backward(net, train, validation, lr=wrong)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_wrong_is_said(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, "abc")
    assert not hasattr(balancer, "backward")
    with pytest.raises(ValueError, match=f"{name}: log_losses|log_losses= has no meaning"):
        create_balancer(name, "abc", log_losses=True)
    with pytest.raises(ValueError, match="learns the weights of the losses itself, so sum cannot come before"):
        create_balancer(["sum", name], "abc")
    with pytest.raises(ValueError, match="update_every= has no meaning"):
        create_balancer(name, "abc", update_every=2)

    def without_b(n):
        return {key: loss for key, loss in train(n).items() if key != "b"}

    for pair in ((without_b, validation), (train, without_b)):
        with pytest.raises(ValueError, match=f"{name}: the loss of objective 'b' is missing"):
            balancer.meta_backward(net, *pair, lr=LR)
    with pytest.raises(BalancingError, match="does not depend on any trainable parameter"):
        balancer.meta_backward(net, lambda n: dict.fromkeys("abc", torch.ones(())), validation, lr=LR)
    with pytest.raises(BalancingError, match="reach none of the model's trainable parameters"):
        balancer.meta_backward(nn.Linear(1, 1), lambda _: train(net), validation, lr=LR)


@pytest.mark.parametrize("name", METHODS)
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
            create_balancer(name, "abc").meta_backward(net, first, second, lr=1e-3)
        balancer = create_balancer(name, "abc", on_nonfinite="skip")
        report = balancer.meta_backward(net, first, second, lr=1e-3)
        assert (report.skipped, report.skips, balancer.step) == (True, 1, 0)
        assert not net.gradients()
        assert balancer.alpha.grad is None


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="auto_lambda: unknown objective 'd'"):
        create_balancer("auto_lambda", "abc", primary=("d",))
    for arguments in ({"radius": 0.0},):
        with pytest.raises(ValueError, match="auto_lambda: radius"):
            create_balancer("auto_lambda", "abc", **arguments)
    for arguments in ({"rho": 0.0}, {"inner_steps": 0}, {"inner_lr": -1.0}):
        with pytest.raises(ValueError, match=f"forum: {next(iter(arguments))}"):
            create_balancer("forum", "abc", **arguments)
