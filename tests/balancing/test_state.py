"""State: a fresh balancer that loads it takes the same next steps, bit for bit."""

import copy
import io

import pytest
import torch

from tests.balancing.problems import ALL, Net, make, train

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
