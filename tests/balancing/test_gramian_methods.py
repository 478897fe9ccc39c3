"""Methods that find weights from the Gramian do what their formulas say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import BalancingError, create_balancer
from balancing.errors import SolverError
from balancing.solvers import min_norm_weights, project_to_simplex
from tests.balancing.problems import Net, inputs
from tests.balancing.test_solvers import KINDS, rows

J1 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
# neither draws nor state, and of degree 1
NEUTRAL = ["grad_normalize", "imtl_g", "aligned_mtl", "conflict_free", "krum", "sdmgrad"]
EVERY = [*NEUTRAL, "gradvac", "modo", "imtl"]


def names(size):
    return [str(i) for i in range(size)]


def weights(name, j, losses=None, **options):
    balancer = create_balancer(name, names(len(j)), **options)
    return balancer.compute_weights(torch.ones(len(j), dtype=torch.float64) if losses is None else losses, j @ j.T)


def orthogonal(size, scales, seed=0):
    """Well-conditioned rows in general position, of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, 4 * size, generator=generator, dtype=torch.float64)
    return scales[:, None] * j / j.norm(dim=1, keepdim=True)


def wide(size, seed=0):
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return (10 ** torch.linspace(-8, 8, size, dtype=torch.float64))[order]


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("imtl_g", {}, [0.59233, 0.40767]),
        ("gradvac", {}, [2.222222, 1.578947]),
        ("aligned_mtl", {}, [0.559072, 0.408261]),
        ("aligned_mtl", {"mode": "median"}, [0.559072, 0.408261]),
        ("aligned_mtl", {"mode": "rmse"}, [1.510866, 1.103306]),
    ],
)
def test_known_weights(name, options, wanted):
    assert weights(name, J1, **options).tolist() == pytest.approx(wanted, abs=1e-6)


def test_known_direction_of_conflict_free():
    assert (weights("conflict_free", J1) @ J1).tolist() == pytest.approx([0.158809, 2.070607, 2.070607], abs=1e-6)


# ---- defined everywhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 5, 12, 40])
@pytest.mark.parametrize("kind", [*KINDS, "nothing"])
@pytest.mark.parametrize("name", EVERY)
def test_weights_are_finite_for_any_rows(name, kind, size):
    j = torch.zeros(size, 4, dtype=torch.float64) if kind == "nothing" else rows(kind, size)
    balancer = create_balancer(name, names(size))
    for _ in range(3):
        w = balancer.compute_weights(torch.ones(size, dtype=torch.float64), j @ j.T)
        assert w.shape == (size,)
        assert bool(w.isfinite().all())


@pytest.mark.parametrize("name", [name for name in EVERY if name != "krum"])
def test_a_single_objective_keeps_its_gradient(name):
    assert weights(name, torch.tensor([[3.0, 4.0]], dtype=torch.float64)).tolist() == pytest.approx([1.0], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NEUTRAL), st.integers(4, 8), st.integers(0, 10_000), st.floats(-6, 6))
def test_weights_ignore_a_common_scale_and_follow_a_permutation(name, size, seed, exponent):
    j = orthogonal(size, torch.linspace(1, 3, size, dtype=torch.float64), seed)
    w = weights(name, j)
    torch.testing.assert_close(weights(name, j * 10**exponent), w, rtol=1e-7, atol=1e-9)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(weights(name, j[order]), w[order], rtol=1e-7, atol=1e-9)


# ---- equal lengths, projections and angles -----------------------------------------------------------------------


@pytest.mark.parametrize("length", ["mean", "unit"])
def test_grad_normalize_makes_lengths_equal(length):
    j = orthogonal(5, wide(5))
    j[2] = 0
    w = weights("grad_normalize", j, length=length)
    lengths = (w[:, None] * j).norm(dim=1)
    wanted = j.norm(dim=1)[[0, 1, 3, 4]].mean() if length == "mean" else torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(lengths[[0, 1, 3, 4]], wanted.expand(4))
    assert w[2] == 1


def test_grad_normalize_favours_slow_objectives():
    j = orthogonal(2, torch.ones(2, dtype=torch.float64))
    balancer = create_balancer("grad_normalize", names(2), alpha=2.0)
    assert balancer.compute_weights(torch.tensor([5.0, 1.0]), j @ j.T).tolist() == pytest.approx([1, 1])
    w = balancer.compute_weights(torch.tensor([5.0, 0.5]), j @ j.T)
    assert w.tolist() == pytest.approx([(4 / 3) ** 2, (2 / 3) ** 2])
    with pytest.raises(BalancingError, match="the loss of objective '1' is -1"):
        balancer.compute_weights(torch.tensor([5.0, -1.0]), j @ j.T)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 40])
@pytest.mark.parametrize("seed", range(3))
def test_imtl_g_projections_are_equal(size, seed):
    for scales in (torch.ones(size, dtype=torch.float64), wide(size, seed)):
        j = orthogonal(size, scales, seed)
        w = weights("imtl_g", j)
        units = j / j.norm(dim=1, keepdim=True)
        # w j would lose short rows among long ones, so sum over unit rows
        projections = units @ units.T @ (w * j.norm(dim=1))
        torch.testing.assert_close(projections / projections[0], torch.ones_like(projections), rtol=0, atol=1e-8)
        assert projections.min() > 0
        assert abs(abs(w.sum()) - 1) < 1e-12


@pytest.mark.parametrize("size", [2, 3, 5])
def test_imtl_g_equals_the_published_closed_form(size):
    j = orthogonal(size, torch.linspace(1, 2, size, dtype=torch.float64))
    units = j / j.norm(dim=1, keepdim=True)
    unit_gaps, gaps = units[:1] - units[1:], j[:1] - j[1:]
    others = j[0] @ unit_gaps.T @ torch.linalg.inv(gaps @ unit_gaps.T)
    torch.testing.assert_close(weights("imtl_g", j), torch.cat([1 - others.sum()[None], others]))


def test_imtl_g_goes_downhill_where_the_published_weights_sum_to_a_negative_number():
    cosines = torch.tensor([[1.0, 0.8, 0.8], [0.8, 1, 0.5], [0.8, 0.5, 1]], dtype=torch.float64)
    n = torch.tensor([0.01, 1, 1], dtype=torch.float64)
    w = create_balancer("imtl_g", names(3)).compute_weights(torch.ones(3), n[:, None] * cosines * n)
    assert w.sum() == pytest.approx(-1)
    torch.testing.assert_close(cosines @ (n * w), (cosines @ (n * w))[0].expand(3))
    assert (cosines @ (n * w))[0] > 0


def test_imtl_g_raises_if_weights_sum_to_zero():
    cosines = torch.tensor([[1.0, 0.8, 0.8], [0.8, 1, 0.5], [0.8, 0.5, 1]], dtype=torch.float64)
    x = torch.linalg.solve(cosines, torch.ones(3, dtype=torch.float64))
    n = torch.tensor([float(-x[0] / (x[1] + x[2])), 1, 1], dtype=torch.float64)
    with pytest.raises(SolverError, match="sum to zero"):
        create_balancer("imtl_g", names(3)).compute_weights(torch.ones(3), n[:, None] * cosines * n)


def test_imtl_g_preference_sets_the_ratio_of_projections():
    j = orthogonal(3, wide(3))
    w = weights("imtl_g", j, preference={"1": 3.0})
    units = j / j.norm(dim=1, keepdim=True)
    projections = units @ units.T @ (w * j.norm(dim=1))
    torch.testing.assert_close(projections / projections[0], torch.tensor([1.0, 3, 1], dtype=torch.float64))


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 40])
@pytest.mark.parametrize("seed", range(3))
def test_conflict_free_cosines_are_equal(size, seed):
    for scales in (torch.ones(size, dtype=torch.float64), wide(size, seed)):
        j = orthogonal(size, scales, seed)
        n = j.norm(dim=1)
        units = j / n[:, None]
        d = units.T @ (weights("conflict_free", j) * n)
        cosines = units @ d / d.norm()
        torch.testing.assert_close(cosines, cosines[0].expand(size), rtol=0, atol=1e-8)
        assert cosines.min() > 0
        assert float(d.norm()) == pytest.approx(float((n * cosines).sum()), rel=1e-9)


@pytest.mark.parametrize("length", ["min", "mean", "max"])
def test_conflict_free_has_the_length_that_was_asked_for(length):
    j = orthogonal(4, torch.tensor([1.0, 2, 3, 10], dtype=torch.float64))
    w = weights("conflict_free", j, length=length, preference={"0": 2.0})
    d = w @ j
    assert float(d.norm()) == pytest.approx({"min": 1, "mean": 4, "max": 10}[length])
    cosines = j @ d / (j.norm(dim=1) * d.norm())
    torch.testing.assert_close(cosines / cosines[1], torch.tensor([2.0, 1, 1, 1], dtype=torch.float64))


@pytest.mark.parametrize("name", ["imtl_g", "conflict_free"])
def test_dependent_gradients_have_a_defined_result(name):
    j = orthogonal(3, torch.tensor([1.0, 2, 5], dtype=torch.float64))
    alone = weights(name, j[1:]) @ j[1:]
    zero = j.clone()
    zero[0] = 0
    w = weights(name, zero)
    assert w[0] == 0  # a zero gradient is ignored
    torch.testing.assert_close(w @ zero, alone)
    doubled = torch.cat([j, 7 * j[:1]])
    n = doubled.norm(dim=1)
    w = weights(name, doubled)
    assert w[0] * n[0] == pytest.approx(float(w[3] * n[3]))  # copies share
    d = w @ doubled
    torch.testing.assert_close(doubled @ d / n, (doubled @ d / n)[0].expand(4))
    opposed = torch.stack([j[0], -3 * j[0]])
    assert weights(name, opposed).tolist() == [0, 0]


def test_imtl_balances_the_gradients_of_scaled_losses():
    net, x = Net(("a", "b")), inputs()
    composed = create_balancer(["imtl_l", "imtl_g"], ("a", "b"))
    gradients = []
    for balancer in (create_balancer("imtl", ("a", "b")), composed):
        net.zero_grad()
        losses = net.losses(x)
        balancer.backward(losses)
        gradients.append(net.gradients())
        (s,) = balancer.parameters()
        assert s.detach().tolist() == pytest.approx([-float(loss.detach().log()) for loss in losses.values()], rel=1e-5)
        assert float(s.grad.abs().max()) < 1e-5  # e^s L - 1
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key])
    with pytest.raises(ValueError, match="imtl: weighs the losses itself, so realtime before it has no meaning"):
        create_balancer("imtl", ("a", "b"), before="realtime")


# ---- aligned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "common"), [("min", torch.min), ("median", torch.median), ("rmse", torch.mean)])
def test_aligned_mtl_averages_orthogonal_gradients_of_equal_length(mode, common):
    j = orthogonal(4, torch.tensor([1.0, 2, 3, 10], dtype=torch.float64))
    left, singular, right = torch.linalg.svd(j, full_matrices=False)
    aligned = common(singular.square()).sqrt() * left @ right
    torch.testing.assert_close(weights("aligned_mtl", j, mode=mode) @ j, aligned.mean(0))
    p = torch.tensor([0.8, 0.8, 0.8, 1.6], dtype=torch.float64)
    preferred = weights("aligned_mtl", j, mode=mode, preference={"3": 2.0})
    torch.testing.assert_close(preferred @ j, p @ aligned / 4)


def test_aligned_mtl_ignores_zero_gradients_and_shrinks_with_near_duplicates():
    j = orthogonal(3, torch.tensor([1.0, 1, 1], dtype=torch.float64))
    zero = torch.cat([j[:2], torch.zeros(1, j.shape[1], dtype=torch.float64)])
    torch.testing.assert_close(weights("aligned_mtl", zero)[:2], weights("aligned_mtl", j[:2]) * 2 / 3)
    near = torch.stack([j[0], j[1], j[1] + 1e-2 * j[2]])
    assert (weights("aligned_mtl", near) @ near).norm() < 1e-2 * (weights("aligned_mtl", j) @ j).norm()


@pytest.mark.parametrize("apart", [1e-4, 1e-5])
def test_aligned_mtl_takes_gradients_that_rounding_cannot_tell_apart_for_equal(apart):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(20_000, generator=generator)
    point = torch.nn.Parameter(torch.zeros(20_000))
    balancer = create_balancer("aligned_mtl", ("a", "b"))
    for _ in range(6):
        second = first + apart * torch.randn(20_000, generator=generator)
        point.grad = None
        balancer.backward({"a": point @ first + 1, "b": point @ second + 1}, shared=[point])
        torch.testing.assert_close(point.grad, (first + second) / 2, rtol=1e-3, atol=1e-3)


# ---- gradvac -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5, 10])
@pytest.mark.parametrize("kind", ["random", "zero_row", "opposed"])
def test_first_step_of_gradvac_is_pcgrad(size, kind):
    for seed in range(5):
        j = rows(kind, size, seed)
        first, pcgrad = (weights(name, j, seed=seed) for name in ("gradvac", "pcgrad"))
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


# ---- krum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("byzantine", "selected"), [(0, 1), (1, 2), (4, 7)])
def test_krum_selects_the_lowest_scores(byzantine, selected):
    j = rows("random", 7)
    distances = (j[:, None] - j).square().sum(2)
    scores = [sum(sorted(distances[i].tolist())[1 : 7 - byzantine - 1]) for i in range(7)]
    chosen = sorted(range(7), key=scores.__getitem__)[:selected]
    w = weights("krum", j, byzantine=byzantine, selected=selected)
    assert w.nonzero().squeeze(1).tolist() == sorted(chosen)
    assert w.sum() == pytest.approx(1)


def test_krum_leaves_an_outlier_out():
    j = torch.ones(5, 3, dtype=torch.float64) + 0.1 * torch.eye(5, 3, dtype=torch.float64)
    j[1] = -1e6
    assert weights("krum", j, byzantine=1, selected=3)[1] == 0


def test_krum_says_how_many_objectives_it_needs():
    with pytest.raises(ValueError, match="krum: byzantine=2 needs at least 5 objectives, got 4"):
        create_balancer("krum", names(4), byzantine=2)
    with pytest.raises(ValueError, match="krum: selected must be between 1 and 4, got 5"):
        create_balancer("krum", names(4), selected=5)


# ---- stochastic MGDA ---------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10))
def test_projection_onto_the_simplex_satisfies_its_conditions(values):
    v = torch.tensor(values, dtype=torch.float64)
    x = project_to_simplex(v)
    assert x.min() >= 0
    assert float(x.sum()) == pytest.approx(1, abs=1e-9)
    # where x is positive it is v shifted by a constant, and elsewhere v is below that constant
    shift = (v - x)[x > 0]
    assert float(shift.max() - shift.min()) < 1e-8
    assert (v[x == 0] <= shift.max() + 1e-8).all()


@pytest.mark.parametrize("kind", ["random", "low_rank", "opposed"])
def test_modo_converges_to_mgda(kind):
    gramian = rows(kind, 5) @ rows(kind, 5).T
    balancer = create_balancer("modo", names(5), gamma=1 / float(gramian.trace()))
    for _ in range(3000):
        w = balancer.compute_weights(torch.ones(5), gramian)
    exact = min_norm_weights(gramian)
    assert float(w @ gramian @ w) == pytest.approx(float(exact @ gramian @ exact), abs=1e-5 * float(gramian.trace()))


def test_modo_converges_to_the_regularised_solution():
    gramian = rows("random", 4) @ rows("random", 4).T
    balancer = create_balancer("modo", names(4), gamma=1 / float(gramian.trace()), rho=3.0)
    for _ in range(3000):
        w = balancer.compute_weights(torch.ones(4), gramian)
    exact = min_norm_weights(gramian + 3 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(w, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lam", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("kind", KINDS)
def test_sdmgrad_solves_its_problem(kind, lam):
    j = rows(kind, 6)
    gramian = j @ j.T
    balancer = create_balancer("sdmgrad", names(6), lam=lam, preference={"2": 4.0})
    u = balancer.preference / 6
    v = balancer.compute_weights(torch.ones(6), gramian)
    w = v * (1 + lam) - lam * u
    assert w.min() >= -1e-9
    assert float(w.sum()) == pytest.approx(1)
    slope = gramian @ (w + lam * u)  # KKT: the least slope wherever w is positive
    bound = 1e-7 * gramian.diagonal().sqrt() * gramian.diagonal().max().sqrt()
    assert (slope - w @ slope >= -bound).all()


def test_sdmgrad_by_descent_converges_to_the_exact_solution():
    gramian = rows("random", 5) @ rows("random", 5).T
    exact = create_balancer("sdmgrad", names(5)).compute_weights(torch.ones(5), gramian)
    balancer = create_balancer("sdmgrad", names(5), solver="sgd", lr=0.5)
    for _ in range(50):
        w = balancer.compute_weights(torch.ones(5), gramian)
    torch.testing.assert_close(w, exact, rtol=0, atol=1e-5)


def test_sdmgrad_lies_between_mgda_and_the_mean():
    j = rows("random", 4)
    torch.testing.assert_close(weights("sdmgrad", j, lam=0.0), min_norm_weights(j @ j.T))
    torch.testing.assert_close(weights("sdmgrad", j, lam=1e9), torch.full((4,), 0.25, dtype=torch.float64))


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


# ---- state and peers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gradvac", "modo", "sdmgrad", "grad_normalize"])
def test_state_makes_the_next_step_equal(name):
    options = {"gradvac": {"beta": 0.5}, "sdmgrad": {"solver": "sgd"}, "grad_normalize": {"alpha": 1.0}}.get(name, {})
    balancer = create_balancer(name, names(4), **options)
    for seed in range(3):
        j, losses = rows("random", 4, seed), torch.rand(4, dtype=torch.float64) + 0.1
        balancer.compute_weights(losses, j @ j.T)
    fresh = create_balancer(name, names(4), **options)
    fresh.load_state_dict(balancer.state_dict())
    j = rows("random", 4, 9)
    assert torch.equal(fresh.compute_weights(losses, j @ j.T), balancer.compute_weights(losses, j @ j.T))


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(size, seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", size, seed)
    for mode in ("min", "median", "rmse"):
        torch.testing.assert_close(
            weights("aligned_mtl", j, mode=mode) @ j, aggregation.AlignedMTL(scale_mode=mode)(j), rtol=1e-8, atol=1e-8
        )
    torch.testing.assert_close(weights("conflict_free", j) @ j, aggregation.ConFIG()(j), rtol=1e-8, atol=1e-8)
    w = weights("imtl_g", j)
    torch.testing.assert_close(w.sum() * w @ j, aggregation.IMTLG()(j), rtol=1e-8, atol=1e-8)
    # plain and squared distances rank alike when a score is a single distance, which the nearest pair shares
    found = weights("krum", j, byzantine=size - 3, selected=2)
    torch.testing.assert_close(found @ j, aggregation.Krum(size - 3, 2)(j))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grad_normalize", {"length": "max"}, "grad_normalize: length must be mean or unit"),
        ("gradvac", {"beta": 0.0}, "gradvac: beta must be in"),
        ("conflict_free", {"length": "sum"}, "conflict_free: length must be"),
        ("aligned_mtl", {"mode": "max"}, "aligned_mtl: mode must be"),
        ("krum", {"byzantine": -1}, "krum: byzantine must not be negative"),
        ("modo", {"gamma": 0.0}, "modo: gamma must be positive"),
        ("modo", {"rho": -1.0}, "modo: rho must not be negative"),
        ("sdmgrad", {"lam": -1.0}, "sdmgrad: lam must not be negative"),
        ("sdmgrad", {"solver": "newton"}, "sdmgrad: solver must be exact or sgd"),
        ("sdmgrad", {"momentum": 1.0}, "sdmgrad: lr must be positive"),
    ],
)
def test_wrong_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer(name, names(3), **options)
