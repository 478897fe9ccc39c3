"""Weights and updates follow the order of the objectives and the scale of losses and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import JacobianBalancer, create_balancer
from tests.balancing.formulas import (
    double,
    gramian_weights,
    names,
    next_update,
    next_weights,
    ones,
    orthogonal,
    random_rows,
    rows,
)
from tests.balancing.problems import LOSS, SYMMETRIC, UNEQUAL, core

#: Neither draws nor state, and of degree 1.
NEUTRAL = ["grad_normalize", "imtl_g", "aligned_mtl", "conflict_free", "krum", "sdmgrad"]
#: Methods behind a quadratic program or a Newton iteration.
SOLVED = ("nash_mtl", "fairgrad", "cagrad", "upgrad", "dualproj", "pcd", "pareto_mtl")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SYMMETRIC), st.integers(2, 6), st.integers(0, 10_000))
def test_weights_of_losses_follow_a_permutation(case, size, seed):
    name, options = case
    generator = torch.Generator().manual_seed(seed)
    history = torch.rand(4, size, generator=generator, dtype=torch.float64) + 0.1
    order = torch.randperm(size, generator=generator)
    plain, permuted = (create_balancer(name, [str(i) for i in range(size)], **options) for _ in range(2))
    for losses in history:
        torch.testing.assert_close(
            next_weights(permuted, losses[order]), next_weights(plain, losses)[order], rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("name", [name for name in LOSS if name not in (*UNEQUAL, "tchebycheff")])
def test_equal_losses_get_equal_weights(name):
    balancer = create_balancer(name, ("a", "b", "c"))
    for value in (2.0, 1.0, 1.5):
        w = next_weights(balancer, torch.full((3,), value))
        torch.testing.assert_close(w, w[:1].expand(3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("realtime", {}),
        ("geometric", {}),
        ("imtl_l", {}),
        ("famo", {}),
        ("igb", {"window": 2}),
        ("stch", {"form": "log", "warmup": 1, "unit": "step"}),
    ],
)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_direction_ignores_the_scale_of_every_loss(name, options, seed):
    """``w_i s_i`` keeps its ratios if L_i becomes ``s_i L_i``."""
    generator = torch.Generator().manual_seed(seed)
    history = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.1
    scale = 10 ** (4 * torch.rand(3, generator=generator, dtype=torch.float64) - 2)
    plain, scaled = (create_balancer(name, ("a", "b", "c"), **options) for _ in range(2))
    for losses in history:
        w, v = next_weights(plain, losses), next_weights(scaled, losses * scale) * scale
        torch.testing.assert_close(v / v.sum(), w / w.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), [("dwa", {"window": 1}), ("cov_weighting", {}), ("relobralo", {})])
def test_weights_ignore_the_scale_of_every_loss(name, options):
    history = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    plain, scaled = (create_balancer(name, ("a", "b", "c"), **options) for _ in range(2))
    for losses in history:
        torch.testing.assert_close(
            next_weights(scaled, losses * double([1e-3, 1, 1e4])), next_weights(plain, losses), rtol=1e-4, atol=1e-6
        )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NEUTRAL), st.integers(4, 8), st.integers(0, 10_000), st.floats(-6, 6))
def test_weights_ignore_a_common_scale_and_follow_a_permutation(name, size, seed, exponent):
    j = orthogonal(size, torch.linspace(1, 3, size, dtype=torch.float64), seed)
    w = gramian_weights(name, j)
    torch.testing.assert_close(gramian_weights(name, j * 10**exponent), w, rtol=1e-7, atol=1e-9)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(gramian_weights(name, j[order]), w[order], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SOLVED)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_weights_follow_a_permutation(name, size, seed):
    j = random_rows(size, seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    options = {"primary": str(order.tolist().index(0))} if name == "pcd" else {}
    torch.testing.assert_close(
        gramian_weights(name, j[order], **options), gramian_weights(name, j)[order], rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize(
    ("name", "options", "degree"),
    [
        ("nash_mtl", {}, 0),
        ("fairgrad", {"alpha": 3.0}, -0.5),
        ("cagrad", {}, 1),
        ("upgrad", {}, 1),
        ("dualproj", {}, 1),
        ("pcd", {}, 1),
        ("pareto_mtl", {}, 1),
    ],
)
@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 10), seed=st.integers(0, 10_000), exponent=st.floats(-8, 8))
def test_direction_is_homogeneous(name, options, degree, size, seed, exponent):
    j, factor = random_rows(size, seed), 10.0**exponent
    scaled = gramian_weights(name, factor * j, **options) * factor
    torch.testing.assert_close(scaled / factor**degree, gramian_weights(name, j, **options), rtol=1e-7, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["trimmed_mean", "moco", "db_mtl", "excess_mtl"]), st.integers(3, 6), st.integers(0, 10_000))
def test_updates_follow_a_permutation(name, size, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=generator)
    straight, permuted = create_balancer(name, names(size)), create_balancer(name, names(size))
    for step in range(4):
        j, losses = rows("random", size, seed + step), torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
        first, second = next_update(straight, losses, j), next_update(permuted, losses[order], j[order])
        torch.testing.assert_close(
            second, first if isinstance(core(straight), JacobianBalancer) else first[order], rtol=1e-5, atol=1e-6
        )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["trimmed_mean", "graddrop"]), st.integers(3, 6), st.integers(0, 10_000), st.floats(-6, 6))
def test_stateless_updates_scale_with_the_gradients(name, size, seed, exponent):
    j = rows("random", size, seed)
    first, second = (next_update(create_balancer(name, names(size)), ones(size), s * j) for s in (1.0, 10**exponent))
    torch.testing.assert_close(second / 10**exponent, first)
