"""State: a fresh balancer that loads it takes the same next steps, bit for bit."""

import copy
import io

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import names, next_update, next_weights, rows
from tests.balancing.problems import ALL, JACOBIAN, SYMMETRIC, Net, make, train

CASES = [(name, {}) for name in ALL] + [
    ("mgda", {"update_every": 4}),
    ("realtime", {"weight_ema": 0.9}),
    ("pcgrad", {"weight_ema": 0.5, "update_every": 3}),
    ("initial_loss", {"batches": 5}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_resumed_steps_are_bit_equal(name, options):
    net, balancer = Net(), make(name, **options)
    train(net, balancer, steps=7)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = make(name, seed=99, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    twin = copy.deepcopy(net)
    train(net, balancer, steps=5, start=7)
    train(twin, fresh, steps=5, start=7)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    mine, theirs = balancer.state_dict(), fresh.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine:
        if isinstance(mine[key], torch.Tensor):
            assert torch.equal(mine[key], theirs[key]), key


def test_counters_survive():
    balancer = make("mgda")
    train(Net(), balancer, steps=3)
    fresh = make("mgda")
    fresh.load_state_dict(balancer.state_dict())
    assert fresh.step == 3


@pytest.mark.parametrize(("name", "options"), [*SYMMETRIC, ("rlw", {}), ("cosmos", {"alpha": 0.7})])
def test_a_fresh_balancer_goes_on_where_another_stopped(name, options):
    history = torch.rand(9, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    balancer = create_balancer(name, ("a", "b", "c"), **options)
    for t, losses in enumerate(history[:5]):
        next_weights(balancer, losses)
        if t % 2:
            balancer.next_epoch()
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = create_balancer(name, ("a", "b", "c"), seed=99, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for t, losses in enumerate(history[5:]):
        assert torch.equal(next_weights(fresh, losses), next_weights(balancer, losses))
        if t % 2:
            fresh.next_epoch()
            balancer.next_epoch()


@pytest.mark.parametrize("name", ["gradvac", "modo", "sdmgrad", "grad_normalize"])
def test_state_makes_the_next_weights_equal(name):
    options = {"gradvac": {"beta": 0.5}, "sdmgrad": {"solver": "sgd"}, "grad_normalize": {"alpha": 1.0}}.get(name, {})
    balancer = create_balancer(name, names(4), **options)
    for seed in range(3):
        j, losses = rows("random", 4, seed), torch.rand(4, dtype=torch.float64) + 0.1
        balancer.compute_weights(losses, j @ j.T)
    fresh = create_balancer(name, names(4), **options)
    fresh.load_state_dict(balancer.state_dict())
    j = rows("random", 4, 9)
    assert torch.equal(fresh.compute_weights(losses, j @ j.T), balancer.compute_weights(losses, j @ j.T))


@pytest.mark.parametrize("name", JACOBIAN)
def test_state_makes_the_next_update_equal(name):
    balancer, losses = create_balancer(name, names(3)), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    for seed in range(4):
        next_update(balancer, losses, rows("random", 3, seed))
    fresh = create_balancer(name, names(3))
    fresh.load_state_dict(balancer.state_dict())
    for seed in (4, 5):
        j = rows("random", 3, seed)
        assert torch.equal(next_update(fresh, losses, j), next_update(balancer, losses, j))
