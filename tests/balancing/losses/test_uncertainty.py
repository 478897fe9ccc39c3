"""Uncertainty weights have the optimum of their formulas."""

import math

import pytest
import torch

from balancing import create_balancer


@pytest.mark.parametrize("kind", [(), ("a",)])
def test_gaussian_uncertainty_has_its_optimum_where_the_docstring_says(kind):
    losses = torch.tensor([1e7, 0.3])
    balancer = create_balancer("uncertainty", ("a", "b"), classification=kind)
    value = balancer.loss(losses)
    (slope,) = torch.autograd.grad(value, balancer.noise)
    assert slope.abs().max() < 1e-6
    c = torch.tensor([1.0 if "a" in kind else 0.5, 0.5])
    torch.testing.assert_close(balancer.compute_weights(losses), c * torch.exp(-balancer.noise.detach()))


def test_log1p_uncertainty_has_its_optimum_where_the_docstring_says():
    losses = torch.tensor([1e5, 0.3])
    balancer = create_balancer("uncertainty", ("a", "b"), form="log1p")
    (slope,) = torch.autograd.grad(balancer.loss(losses), balancer.noise)
    assert slope.abs().max() < 1e-5
    p2 = balancer.noise.detach().square()
    torch.testing.assert_close(p2.square() / (1 + p2), losses / 2)


def test_uncertainty_starts_at_the_published_values_on_request():
    assert create_balancer("uncertainty", ("a", "b"), init=0.0).effective_weights(torch.ones(2)).tolist() == [0.5, 0.5]
    log1p = create_balancer("uncertainty", ("a", "b"), init=1.0, form="log1p")
    assert log1p.loss(torch.tensor([2.0, 4.0])).item() == pytest.approx(3 + 2 * math.log(2))


@pytest.mark.parametrize("options", [{"form": "log1p", "init": 0.0}, {"init": "random"}, {"classification": ("x",)}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="uncertainty"):
        create_balancer("uncertainty", ("a", "b"), **options)
