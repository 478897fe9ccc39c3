"""Methods behind a quadratic program or a Newton iteration: known values, closed forms, invariances, promises."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import create_balancer
from balancing.rescaling import shorten
from tests.balancing.test_solvers import KINDS, rows

NAMES = ("nash_mtl", "fairgrad", "cagrad", "upgrad", "dualproj", "pcd", "pareto_mtl")
for module in NAMES:
    importlib.import_module(f"balancing.gradients.{module}")

CONFLICT = torch.tensor([[-4, 1, 1], [6, 1, 1]], dtype=torch.float64)


def names(size):
    return [f"o{i}" for i in range(size)]


def weigh(name, j, losses=None, **options):
    """Weights of the rows of ``j`` by a fresh balancer."""
    losses = torch.ones(len(j), dtype=torch.float64) if losses is None else losses
    return create_balancer(name, names(len(j)), **options).compute_weights(losses, j @ j.T)


def gradients(size, seed, shift=0.3):
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, 2 * size + 1, dtype=torch.float64, generator=generator)
    return j * (0.1 + 3 * torch.rand(size, 1, dtype=torch.float64, generator=generator)) + shift


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("nash_mtl", {}, [0.591461, 0.407071]),
        ("fairgrad", {}, [0.591461, 0.407071]),
        ("fairgrad", {"alpha": 2.0}, [0.471363, 0.319454]),
        ("fairgrad", {"alpha": 0.5}, [0.742828, 0.525393]),
        ("cagrad", {"rescale": "none"}, [0.663299, 0.5]),
        ("cagrad", {"rescale": "none", "c": 0.5}, [0.704124, 0.5]),
        ("dualproj", {}, [11 / 18, 0.5]),
        ("upgrad", {}, [10 / 9, 15 / 19]),
        ("pcd", {}, [1.848061, 1.095368]),
        ("pcd", {"tau": 0.5}, [1.357817, 1.253361]),
        ("pareto_mtl", {}, [1.2, 0.8]),
    ],
)
def test_known_values(name, options, wanted):
    assert weigh(name, CONFLICT, **options).tolist() == pytest.approx(wanted, abs=1.2e-6)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_weights_follow_a_permutation(name, size, seed):
    j = gradients(size, seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    options = {"primary": f"o{order.tolist().index(0)}"} if name == "pcd" else {}
    torch.testing.assert_close(weigh(name, j[order], **options), weigh(name, j)[order], rtol=1e-7, atol=1e-9)


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
    j, factor = gradients(size, seed), 10.0**exponent
    scaled = weigh(name, factor * j, **options) * factor
    torch.testing.assert_close(scaled / factor**degree, weigh(name, j, **options), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 40])
def test_projections_conflict_with_nobody(name, kind, size):
    for seed in range(3):
        j = rows(kind, size, seed)
        w = weigh(name, j)
        d, lengths = w @ j, j.norm(dim=1)
        rounding = 1e-11 * float((w * lengths).sum())  # all that is left of d where every direction conflicts
        assert w.min() >= 1 / size - 1e-12
        assert (j @ d >= -lengths * max(1e-10 * d.norm(), rounding)).all(), (kind, size, seed)


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
def test_projection_hears_a_gradient_a_million_times_shorter(name):
    j = CONFLICT * torch.tensor([[1.0], [1e-6]])
    d = weigh(name, j) @ j
    assert (j @ d >= -1e-12 * j.norm(dim=1) * d.norm()).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(-4, 4))
def test_upgrad_is_linear_in_the_length_of_each_gradient(size, seed, exponent):
    j = gradients(size, seed, shift=0.0)
    unit = torch.eye(size, dtype=torch.float64)
    scale = torch.ones(size, dtype=torch.float64)
    scale[0] = 10**exponent
    base, first = weigh("upgrad", j) @ j, weigh("upgrad", (1e-8 * (1 - unit[0]) + unit[0])[:, None] * j)
    first = first @ ((1e-8 * (1 - unit[0]) + unit[0])[:, None] * j)  # what g_0 contributes, nearly alone
    changed = weigh("upgrad", scale[:, None] * j) @ (scale[:, None] * j)
    error = changed - base - (scale[0] - 1) * first
    assert error.norm() <= 1e-6 * (1 + scale[0]) * j.norm()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_two_objectives_have_closed_forms(seed, exponent):
    j = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    j[1] *= 10**exponent
    (aa, ab), (_, bb) = (j @ j.T).tolist()
    cosine = ab / (aa * bb) ** 0.5
    nash = [(1 / (aa * (1 + cosine))) ** 0.5, (1 / (bb * (1 + cosine))) ** 0.5]
    assert weigh("nash_mtl", j).tolist() == pytest.approx(nash, rel=1e-7)
    first, second = max(-ab / aa, 0.0), max(-ab / bb, 0.0)
    assert weigh("upgrad", j).tolist() == pytest.approx([(1 + first) / 2, (1 + second) / 2], rel=1e-9)
    projected = [max(first / 2, 0.5), max(second / 2, 0.5)]
    if ab < 0:  # at most one of the two is short enough to be overruled
        assert weigh("dualproj", j).tolist() == pytest.approx(projected, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10), st.integers(0, 10_000))
def test_nash_divides_progress_by_power(size, seed):
    j = gradients(size, seed)
    preference = {name: 1.0 + i for i, name in enumerate(names(size))}
    balancer = create_balancer("nash_mtl", names(size), preference=preference)
    w = balancer.compute_weights(torch.ones(size, dtype=torch.float64), j @ j.T)
    power = torch.arange(1, size + 1, dtype=torch.float64)
    torch.testing.assert_close(w * (j @ (w @ j)), power / power.mean(), rtol=1e-8, atol=0)
    assert float((w @ j).norm()) == pytest.approx(size**0.5, rel=1e-8)


def test_published_limit_of_nash_is_an_option():
    balancer, gramian = create_balancer("nash_mtl", "ab", max_norm=1), CONFLICT @ CONFLICT.T
    w = shorten(balancer.effective_weights(torch.ones(2), gramian), gramian, max_norm=1)
    assert w.tolist() == pytest.approx([0.418226, 0.287843], abs=1e-6)


def test_fairgrad_goes_from_the_sum_to_the_min_norm_direction():
    j = gradients(4, 0, shift=1.0)
    torch.testing.assert_close(weigh("fairgrad", j, alpha=0.01), torch.ones(4, dtype=torch.float64), rtol=0.1, atol=0)
    d = weigh("fairgrad", j, alpha=200.0) @ j
    best = (weigh("mgda", j) @ j).norm()  # the largest smallest progress of any direction of length 1
    assert 0.97 * best < (j @ d).min() / d.norm() <= best * (1 + 1e-12)


@pytest.mark.parametrize("name", ["nash_mtl", "fairgrad"])
def test_fairness_without_a_finite_solution_is_bounded(name):
    j = torch.tensor([[1.0, 2, 3], [-2, -4, -6], [0, 3, -2]], dtype=torch.float64)
    w = weigh(name, j)
    assert w.isfinite().all()
    torch.testing.assert_close(w @ j, j[2] / j[2].norm(), rtol=1e-4, atol=1e-4)  # the opposed two cancel
    assert weigh(name, torch.tensor([[0.0, 0], [0, 2]], dtype=torch.float64)).tolist() == pytest.approx([0, 0.5])
    assert weigh(name, torch.zeros(2, 2, dtype=torch.float64)).tolist() == [0, 0]


def test_cagrad_stays_in_its_ball_and_never_does_worse_than_the_mean():
    for seed in range(20):
        j = gradients(5, seed, shift=0.0)
        d, mean = weigh("cagrad", j, rescale="none") @ j, j.mean(0)
        assert (d - mean).norm() <= 0.4 * mean.norm() * (1 + 1e-9)
        assert (j @ d).min() >= (j @ mean).min() - 1e-12


def test_cagrad_rescales_by_name():
    plain = weigh("cagrad", CONFLICT, rescale="none")
    torch.testing.assert_close(weigh("cagrad", CONFLICT), plain / 1.16)
    torch.testing.assert_close(weigh("cagrad", CONFLICT, rescale="linear"), plain / 1.4)
    assert weigh("cagrad", CONFLICT, c=0.0).tolist() == pytest.approx([0.5, 0.5])


def test_cagrad_with_gradients_in_balance_goes_on_where_it_can():
    j = torch.tensor([[1.0, 0], [-1, 0], [0, 3]], dtype=torch.float64)
    torch.testing.assert_close(weigh("cagrad", j, rescale="none") @ j, torch.tensor([0.0, 1.0], dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(0, 1))
def test_pcd_keeps_its_promises(size, seed, tau):
    j = gradients(size, seed, shift=0.0)
    w = weigh("pcd", j, tau=tau)
    d, lengths = w @ j, j.norm(dim=1)
    assert float(d.norm()) == pytest.approx(float(lengths[0]), rel=1e-9)
    # before d got the length of g_0, it was 1 / w_0 as long
    progress = (j @ d) / lengths / (w[0] * lengths[0])
    assert (progress[1:] >= tau - 1e-9).all()


def test_pcd_prefers_the_primary_where_promises_cannot_be_kept():
    opposed = torch.tensor([[1.0, 2, 3], [-2, -4, -6]], dtype=torch.float64)
    assert weigh("pcd", opposed).tolist() == [1, 0]
    secondary = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, -3, 0]], dtype=torch.float64)
    assert weigh("pcd", secondary).tolist() == [1, 0, 0]
    assert weigh("pcd", secondary, primary="o1", tau=0.0).tolist() == [0, 1, 0]


def test_pcd_remembers_the_usual_lengths():
    balancer = create_balancer("pcd", "ab", beta=0.5, tau=1.0)
    losses, g = torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    assert balancer.compute_weights(losses, g).tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    # the mean of squared lengths is (0.5 + 2 * 4) / (0.5 + 1) of b's, 1 of a's: ||h_b||^2 = 4 / 3
    w = balancer.compute_weights(losses, g * torch.tensor([1.0, 4.0]))
    progress = w * torch.tensor([1.0, 2.0])
    assert float(progress[1] / progress[0]) == pytest.approx((4 / 3) ** 0.5)
    fresh = create_balancer("pcd", "ab", beta=0.5, tau=1.0)
    fresh.load_state_dict(balancer.state_dict())
    assert torch.equal(fresh.compute_weights(losses, g), balancer.compute_weights(losses, g))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_gradients_has_a_finite_answer(name, kind):
    for size in (1, 2, 3, 10, 40):
        j = rows(kind if size > 1 else "random", size)
        w = weigh(name, j)
        assert w.dtype == torch.float64
        assert w.shape == (size,)
        assert w.isfinite().all(), (name, kind, size)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(st.integers(2, 16), st.integers(0, 10_000), st.floats(-12, 0))
def test_nearly_dependent_gradients_have_a_finite_answer(name, size, seed, exponent):
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, size, dtype=torch.float64, generator=generator)
    signs = torch.randint(0, 2, (size, 1), generator=generator) * 2 - 1
    assert weigh(name, j[:1] * signs + 10**exponent * j).isfinite().all()
    # a Gramian found in single precision may be indefinite
    low = j[:, : 1 + size // 3].float()
    w = create_balancer(name, names(size)).compute_weights(
        torch.ones(size, dtype=torch.float64), (low @ low.T).double()
    )
    assert w.isfinite().all()


@pytest.mark.parametrize("name", ["cagrad", "upgrad", "dualproj", "pcd", "pareto_mtl"])
def test_a_single_objective_keeps_its_gradient(name):
    assert weigh(name, torch.tensor([[3.0, 4.0]], dtype=torch.float64)).tolist() == pytest.approx([1.0])


def test_pareto_mtl_reaches_the_point_that_its_ray_asks_for():
    # L_1 = |x - a|^2, L_2 = |x + a|^2: the Pareto set is the segment between them
    a = torch.ones(2, dtype=torch.float64)
    reached = []
    for index in range(5):
        balancer, x = create_balancer("pareto_mtl", "ab", index=index), torch.tensor([0.3, -0.8], dtype=torch.float64)
        for _ in range(600):
            j = 2 * torch.stack([x - a, x + a])
            losses = torch.stack([(x - a).square().sum(), (x + a).square().sum()])
            x = x - 0.01 * balancer.compute_weights(losses, j @ j.T) @ j
        reached.append(float(torch.atan2(losses[1], losses[0]) * 8 / torch.pi))
        assert float((x[0] - x[1]).abs()) < 0.05  # on the segment
    assert all(abs(where - index) <= 0.55 for index, where in enumerate(reached)), reached


def test_pareto_mtl_first_looks_for_its_part_alone_and_then_guards_it():
    balancer = create_balancer("pareto_mtl", "ab", rays=[[1, 0], [0, 1]], index=1)
    g = torch.eye(2, dtype=torch.float64)
    outside, inside = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0])
    assert balancer.compute_weights(outside, g).tolist() == pytest.approx([1, -1])
    assert balancer.compute_weights(inside, g).tolist() == pytest.approx([1, 1])
    guarding = balancer.compute_weights(outside, g)  # the point shortest among g_1, g_2 and g_1 - g_2
    assert float(guarding.abs().sum()) == pytest.approx(2)
    assert guarding[0] > guarding[1]
    late = create_balancer("pareto_mtl", "ab", rays=[[1, 0], [0, 1]], index=1)
    late.epoch = 2
    torch.testing.assert_close(late.compute_weights(outside, g), guarding)


def test_pareto_mtl_preference_scales_the_losses():
    balancer = create_balancer("pareto_mtl", "ab", rays=[[1, 0], [0, 1]], index=1, preference={"b": 3.0})
    assert balancer.compute_weights(torch.tensor([2.0, 1.0]), torch.eye(2, dtype=torch.float64)).min() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fairgrad", {"alpha": 0.0}, "fairgrad: alpha must be positive"),
        ("cagrad", {"c": -0.1}, "cagrad: c must not be negative"),
        ("cagrad", {"rescale": "sum"}, "cagrad: rescale must be square, linear or none"),
        ("pcd", {"primary": "o7"}, "pcd: unknown objective 'o7'"),
        ("pcd", {"tau": 1.5}, r"pcd: tau must be in \[0, 1\]"),
        ("pcd", {"beta": 1.0}, r"pcd: beta must be in \[0, 1\)"),
        ("pareto_mtl", {"rays": [[1, 0], [1]]}, "pareto_mtl: rays must be non-negative .* with 2 numbers each"),
        ("pareto_mtl", {"rays": [[1, 0]]}, "pareto_mtl: needs at least two rays, got 1"),
        ("pareto_mtl", {"index": 5}, "pareto_mtl: index must be in 0 ... 4, got 5"),
        ("pareto_mtl", {"search_epochs": -1}, "pareto_mtl: search_epochs must not be negative"),
        ("pareto_mtl", {"normalize": "l2"}, "pareto_mtl: .* normalize= has no meaning"),
    ],
)
def test_options_out_of_range_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer(name, names(2), **options)


@pytest.mark.parametrize(("name", "other"), [("upgrad", "UPGrad"), ("dualproj", "DualProj"), ("pcd", "PCD")])
def test_agreement_with_torchjd(name, other):
    aggregation = pytest.importorskip("torchjd.aggregation")
    options = {}
    if name != "pcd":
        pytest.importorskip("qpsolvers")
        # its ridge of 1e-4 of the trace, by default, is the whole difference of the projections
        cones = importlib.import_module("torchjd.linalg")
        options = {"projector": cones.QuadprogProjector(norm_eps=1e-12, reg_eps=1e-12)}
    for size in (2, 3, 5, 10):
        for seed in range(5):
            j = gradients(size, seed, shift=0.0)
            theirs = getattr(aggregation, other)(**options)(j)
            torch.testing.assert_close(weigh(name, j) @ j, theirs, rtol=1e-6, atol=1e-6 * float(j.abs().max()))


def test_cagrad_agrees_with_torchjd_as_far_as_its_solver_goes():
    aggregation = pytest.importorskip("torchjd.aggregation")
    try:
        theirs = aggregation.CAGrad(c=0.4)
    except ImportError:
        pytest.skip("torchjd's CAGrad has no solver here")
    for size in (2, 3, 5, 10):
        for seed in range(3):
            j = gradients(size, seed, shift=0.0)
            d, wanted = weigh("cagrad", j, rescale="none") @ j, theirs(j)
            assert (d - wanted).norm() <= 1e-3 * d.norm()
            assert (j @ d).min() >= (j @ wanted).min() - 1e-9 * d.norm() * j.norm()
