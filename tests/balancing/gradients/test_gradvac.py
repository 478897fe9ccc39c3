"""GradVac equals the published loop over gradient vectors."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, names, rows


def test_known_weights():
    assert gramian_weights("gradvac", CONFLICT).tolist() == pytest.approx([2.222222, 1.578947], abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5, 10])
@pytest.mark.parametrize("kind", ["random", "zero_row", "opposed"])
def test_first_step_of_gradvac_is_pcgrad(size, kind):
    for seed in range(5):
        j = rows(kind, size, seed)
        first, pcgrad = (gramian_weights(name, j, seed=seed) for name in ("gradvac", "pcgrad"))
        torch.testing.assert_close(first @ j, pcgrad @ j)


def gradvac_by_vectors(j, orders, phi, beta):
    """The published loop, on the gradients themselves; changes phi."""
    total = torch.zeros_like(j[0])
    for i, order in enumerate(orders):
        p = j[i].clone()
        for k in order:
            c, f = torch.cosine_similarity(p, j[k], dim=0, eps=1e-30), phi[i, k].clone()
            if c < f:
                multiple = p.norm() * (f * (1 - c**2).sqrt() - c * (1 - f**2).sqrt())
                p += multiple / (j[k].norm() * (1 - f**2).sqrt()) * j[k]
                assert float(torch.cosine_similarity(p, j[k], dim=0)) == pytest.approx(float(f), abs=1e-9)
            phi[i, k] = (1 - beta) * f + beta * c
        total += p
    return total


@pytest.mark.parametrize("size", [2, 3, 6])
def test_gradvac_equals_the_loop_over_vectors(size):
    balancer = create_balancer("gradvac", names(size), beta=0.3, seed=4)
    twin = torch.Generator().manual_seed(4)
    phi = torch.zeros(size, size, dtype=torch.float64)
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        j = torch.randn(size, 8, dtype=torch.float64, generator=generator) + 0.5
        draws = torch.rand(size, size, generator=twin, dtype=torch.float64)
        orders = [[k for k in row.argsort().tolist() if k != i] for i, row in enumerate(draws)]
        wanted = gradvac_by_vectors(j, orders, phi, 0.3)
        w = balancer.compute_weights(torch.ones(size), j @ j.T)
        torch.testing.assert_close(w @ j, wanted, rtol=1e-5, atol=1e-5)  # phi is kept in single precision
        torch.testing.assert_close(balancer.phi.double(), phi, rtol=1e-5, atol=1e-6)


def test_gradvac_stays_finite_when_gradients_coincide_for_long():
    j = torch.tensor([[1.0, 2, 3], [1, 2, 3], [1, 0, 0]], dtype=torch.float64)
    balancer = create_balancer("gradvac", names(3), beta=1.0)
    for _ in range(5):
        w = balancer.compute_weights(torch.ones(3), j @ j.T)
    assert (w @ j).norm() < 3 * j.norm()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="gradvac: beta must be in"):
        create_balancer("gradvac", names(3), beta=0.0)
