"""Objectives that are absent from a step or a micro-batch of a model whose outputs are merged, or are measured late."""

import pytest
import torch
from torch import nn

from balancing import create_balancer
from tests.balancing.problems import inputs

NAMES = ("a", "b", "c")


class Heads(nn.Module):
    """A trunk and three heads, whose outputs go through one node if they are ``merged``."""

    def __init__(self, merged):
        super().__init__()
        torch.manual_seed(0)
        self.merged = merged
        self.trunk = nn.Linear(5, 6)
        self.head = nn.ModuleDict({name: nn.Linear(6, 2) for name in NAMES})
        self.double()

    def losses(self, x, absent=""):
        outputs = [head(self.trunk(x).tanh()) for head in self.head.values()]
        if self.merged:
            outputs = torch.cat(outputs, 1).split(2, 1)
        losses = zip(NAMES, range(3), outputs, strict=True)
        return {n: None if n in absent else (1 + 3 * k) * (y + k - x[:, :2]).square().mean() for n, k, y in losses}


def gradients(method, merged, steps, **options):
    """Gradients other than zero of every step, of which each holds the objectives absent from its micro-batches."""
    net, balancer = Heads(merged), create_balancer(method, NAMES, **options)
    found = []
    for step, parts in enumerate(steps):
        net.zero_grad()
        for part, absent in enumerate(parts):
            losses = net.losses(inputs(4, seed=10 * step + part), absent)
            given = {"subset": [net.trunk.weight]} if options.get("at") == "subset" else {}
            report = balancer.backward(losses, last=part == len(parts) - 1, **given)
        found.append({key: p.grad for key, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())})
        found[-1]["weights"] = torch.zeros(()) if report.weights is None else report.weights
    return found


CASES = {
    "absent from the last micro-batch": [["a", "b"], ["", "c"]],
    "each in one micro-batch": [["bc", "ac", "ab"], [""]],
    "absent from the first step": [["a"], [""], ["c"], [""]],
    "absent later": [[""], ["b"], ["a"], [""]],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["pcgrad", "mgda"])
def test_merged_outputs_are_those_of_separate_ones(method, case):
    for mine, wanted in zip(*(gradients(method, merged, CASES[case]) for merged in (True, False)), strict=True):
        assert mine.keys() == wanted.keys()
        for key, gradient in wanted.items():
            torch.testing.assert_close(mine[key], gradient, equal_nan=True)


@pytest.mark.parametrize("method", ["moco", "conflict_free_momentum"])
def test_head_of_an_absent_objective_does_not_enter_the_memory(method):
    steps = [[""], ["b"], [""], [""], [""]]
    for mine, wanted in zip(*(gradients(method, merged, steps) for merged in (True, False)), strict=True):
        assert mine.keys() == wanted.keys()
        for key, gradient in wanted.items():
            torch.testing.assert_close(mine[key], gradient, equal_nan=True)


@pytest.mark.parametrize("options", [{"at": "subset"}, {"update_every": 2}], ids=lambda options: next(iter(options)))
@pytest.mark.parametrize("merged", [False, True])
def test_trunk_is_shared_with_objectives_that_come_later(options, merged):
    net, steps = Heads(merged), [["a"], [""], ["c"], ["c"]]
    found = gradients("mgda", merged, steps, **options)
    for step, mine in enumerate(found):
        net.zero_grad()
        weights = mine["weights"].nan_to_num()
        losses = net.losses(inputs(4, seed=10 * step), steps[step][0])
        sum(weights[k] * losses[n] for k, n in enumerate(NAMES) if losses[n] is not None).backward()
        for key in ("trunk.weight", "trunk.bias"):
            torch.testing.assert_close(mine[key], net.get_parameter(key).grad)
