"""Weights and updates are defined for losses and gradients of any size and any dependence."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balancing import create_balancer
from tests.balancing.formulas import (
    KINDS,
    double,
    gramian_weights,
    names,
    next_update,
    next_weights,
    ones,
    orthogonal,
    rows,
)
from tests.balancing.problems import GRAMIAN, JACOBIAN, MANY, SYMMETRIC, UNEQUAL, make


@pytest.mark.parametrize("exponent", [-30, -10, 0, 10, 30])
@pytest.mark.parametrize(("name", "options"), SYMMETRIC)
def test_weights_of_losses_of_any_size_are_finite(name, options, exponent):
    balancer = create_balancer(name, ("a", "b", "c"), **options)
    for factors in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 5.0, 0.1]):
        assert next_weights(balancer, torch.tensor(factors) * 10.0**exponent).isfinite().all()


@pytest.mark.parametrize(("name", "options"), [case for case in SYMMETRIC if case[0] != "go4align"])
def test_weights_of_losses_of_very_different_size_are_finite(name, options):
    balancer = create_balancer(name, ("a", "b", "c"), **options)
    for _ in range(3):
        assert next_weights(balancer, torch.tensor([1e-30, 1.0, 1e30])).isfinite().all()


@pytest.mark.parametrize(("name", "options"), [*SYMMETRIC, *((name, {}) for name in UNEQUAL)])
def test_one_objective_is_trained_alone(name, options):
    balancer = make(name, ["only"], **options)
    for value in (2.0, 1.0, 1.0):
        w = next_weights(balancer, double([value]))
        assert w.shape == (1,)
        assert w.isfinite().all()
        assert w > 0


@pytest.mark.parametrize("size", [3, 5, 12, 40])
@pytest.mark.parametrize("kind", [*KINDS, "nothing"])
@pytest.mark.parametrize("name", GRAMIAN)
def test_weights_are_finite_for_any_rows(name, kind, size):
    j = torch.zeros(size, 4, dtype=torch.float64) if kind == "nothing" else rows(kind, size)
    balancer = create_balancer(name, names(size))
    for _ in range(3):
        with torch.no_grad():
            w = balancer.compute_weights(torch.ones(size, dtype=torch.float64), j @ j.T)
        assert w.shape == (size,)
        assert bool(w.isfinite().all())


@pytest.mark.parametrize("size", [3, 5, 12, 40])
@pytest.mark.parametrize("kind", [*KINDS, "nothing"])
@pytest.mark.parametrize("name", JACOBIAN)
def test_updates_are_finite_for_any_rows(name, kind, size):
    j = torch.zeros(size, 4, dtype=torch.float64) if kind == "nothing" else rows(kind, size)
    balancer = create_balancer(name, names(size))
    for _ in range(size + 2):
        assert bool(next_update(balancer, ones(size), j).isfinite().all())


@pytest.mark.parametrize("name", [name for name in GRAMIAN if name not in MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_gradients_has_a_finite_answer(name, kind):
    for size in (1, 2, 3, 10, 40):
        j = rows(kind if size > 1 else "random", size)
        w = gramian_weights(name, j)
        assert w.dtype == torch.float64
        assert w.shape == (size,)
        assert w.isfinite().all(), (name, kind, size)


@pytest.mark.parametrize("name", [name for name in GRAMIAN if name not in MANY])
@settings(max_examples=30, deadline=None)
@given(st.integers(2, 16), st.integers(0, 10_000), st.floats(-12, 0))
@example(16, 1, -4.0)  # unit gradients that add up to little
def test_nearly_dependent_gradients_have_a_finite_answer(name, size, seed, exponent):
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, size, dtype=torch.float64, generator=generator)
    signs = torch.randint(0, 2, (size, 1), generator=generator) * 2 - 1
    assert gramian_weights(name, j[:1] * signs + 10**exponent * j).isfinite().all()
    # a Gramian found in single precision may be indefinite
    low = j[:, : 1 + size // 3].float()
    with torch.no_grad():
        w = create_balancer(name, names(size)).compute_weights(
            torch.ones(size, dtype=torch.float64), (low @ low.T).double()
        )
    assert w.isfinite().all()


@pytest.mark.parametrize("name", ["imtl_g", "conflict_free"])
def test_dependent_gradients_have_a_defined_result(name):
    j = orthogonal(3, torch.tensor([1.0, 2, 5], dtype=torch.float64))
    alone = gramian_weights(name, j[1:]) @ j[1:]
    zero = j.clone()
    zero[0] = 0
    w = gramian_weights(name, zero)
    assert w[0] == 0  # a zero gradient is ignored
    torch.testing.assert_close(w @ zero, alone)
    doubled = torch.cat([j, 7 * j[:1]])
    n = doubled.norm(dim=1)
    w = gramian_weights(name, doubled)
    assert w[0] * n[0] == pytest.approx(float(w[3] * n[3]))  # copies share
    d = w @ doubled
    torch.testing.assert_close(doubled @ d / n, (doubled @ d / n)[0].expand(4))
    opposed = torch.stack([j[0], -3 * j[0]])
    assert gramian_weights(name, opposed).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "options"), [("modo", {}), ("sdmgrad", {}), ("sdmgrad", {"solver": "sgd"})], ids=["modo", "exact", "sgd"]
)
def test_products_of_two_samples_need_not_be_a_gramian(name, options):
    balancer = create_balancer(name, names(4), **options)
    for seed in range(20):
        product = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        w = balancer.compute_weights(torch.ones(4), product + product.T)
        assert w.min() >= 0
        assert float(w.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", [name for name in GRAMIAN if name not in ("krum", "nash_mtl", "fairgrad")])
def test_a_single_objective_keeps_its_gradient(name):
    assert gramian_weights(name, torch.tensor([[3.0, 4.0]], dtype=torch.float64)).tolist() == pytest.approx(
        [1.0], abs=1e-12
    )


def test_a_single_objective_keeps_its_row():
    j = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float64)
    for name, options in (("graddrop", {}), ("trimmed_mean", {"trim": 0}), ("db_mtl", {"beta": 0.0})):
        assert next_update(create_balancer(name, ("a",), **options), ones(1), j).tolist() == [3, -4, 0]
    assert next_update(create_balancer("excess_mtl", ("a",)), ones(1), j).tolist() == [1]
    moco = create_balancer("moco", ("a",), beta=1.0, beta_decay=0.0)
    torch.testing.assert_close(next_update(moco, 2 * ones(1), j), 2 * j[0] / 5)
