"""Every model with every balancer: a few steps, as train.py takes them.

By default with one balancer of each kind.
"""

import copy
from functools import partial

import pytest
import torch

from balancing import BilevelBalancer, create_balancer, list_balancers
from tests.zoo.tiny import MODELS, build, tiny

LR = 1e-3
KINDS = ("sum", "uncertainty", "famo", "alternating", "mgda", "graddrop", "moco", "auto_lambda")
METHODS = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in list_balancers()]


def make(method, objectives):
    """The balancer, or a skipped test if it refuses so few objectives, or is not installed."""
    options = {"prior_losses": dict.fromkeys(objectives, 1.0)} if method == "prior_loss" else {}
    try:
        return create_balancer(method, objectives, **options)
    except ValueError as error:
        if len(objectives) > 2 and method != "torchjd":
            raise
        pytest.skip(str(error))


def takes_turns(balancer):
    return not isinstance(balancer, BilevelBalancer) and balancer.active() is not None


@pytest.fixture(params=MODELS, scope="module")
def subject(request):
    model = build(request.param)
    return tiny(request.param), model, copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_steps_are_finite_and_change_the_weights(subject, method):
    example, model, initial = subject
    model.load_state_dict(initial)
    model.train()
    torch.manual_seed(1)
    networks = model.networks()
    turns = []
    for phase in model.phases:
        balancer = make(method, phase.objectives)
        moved = [p for key in phase.networks or networks for p in networks[key].parameters()]
        turns.append((phase, balancer, moved, torch.optim.SGD([*moved, *balancer.parameters()], lr=LR)))
    # methods that look at one objective a step may wait until all have had their turn
    waiting = [len(phase.objectives) for phase, balancer, *_ in turns if takes_turns(balancer)]
    for _ in range(max([2, *waiting])):
        inputs = example.inputs(8)
        for phase, balancer, moved, optimizer in turns:
            optimizer.zero_grad()
            parameters = None if phase.networks is None else moved
            if isinstance(balancer, BilevelBalancer):
                halves = [tuple(tensor[rows] for tensor in inputs) for rows in (slice(4), slice(4, 8))]
                train, validation = (partial(example.losses, inputs=half, phase=phase) for half in halves)
                report = balancer.meta_backward(model, train, validation, lr=LR, parameters=parameters)
            else:
                shared = model.shared_parameters() if parameters is None else None
                losses = example.losses(model, inputs, phase)
                report = balancer.backward(losses, shared=shared, parameters=parameters)
            optimizer.step()
            if balancer.observes:
                with torch.no_grad():
                    balancer.observe(example.losses(model, inputs, phase))
            assert report.losses.isfinite().all()
            assert not report.skipped
    assert all(p.isfinite().all() for p in model.parameters())
    changed = {p for key, p in model.named_parameters() if not torch.equal(p, initial[key])}
    assert all(changed & set(moved) for _, _, moved, _ in turns)
