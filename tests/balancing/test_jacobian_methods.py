"""Methods that see whole gradients do what their formulas say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from balancing import BalancingError, JacobianBalancer, create_balancer
from balancing.solvers import conflict_free_weights
from tests.balancing.problems import Net, core, inputs, reference_rows, train
from tests.balancing.test_solvers import KINDS, rows

J1 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
COMBINING = ["graddrop", "trimmed_mean", "moco", "db_mtl", "conflict_free_momentum"]


def names(size):
    return [str(i) for i in range(size)]


def ones(size):
    return torch.ones(size, dtype=torch.float64)


def advance(balancer, losses, j):
    """What ``backward`` does around the method: an update, and the step counted."""
    balancer = core(balancer)
    if balancer.active() is not None:
        j = torch.where(torch.arange(len(j))[:, None] == balancer.active()[0], j, 0.0)
    with torch.no_grad():
        method = balancer.combine if isinstance(balancer, JacobianBalancer) else balancer.compute_weights
        found = method(losses, j.clone())
    balancer.step += 1
    return found


@pytest.mark.parametrize("size", [3, 5, 12, 40])
@pytest.mark.parametrize("kind", [*KINDS, "nothing"])
@pytest.mark.parametrize("name", [*COMBINING, "excess_mtl"])
def test_updates_are_finite_for_any_rows(name, kind, size):
    j = torch.zeros(size, 4, dtype=torch.float64) if kind == "nothing" else rows(kind, size)
    balancer = create_balancer(name, names(size))
    for _ in range(size + 2):
        assert bool(advance(balancer, ones(size), j).isfinite().all())


def test_a_single_objective_keeps_its_gradient():
    j = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float64)
    for name, options in (("graddrop", {}), ("trimmed_mean", {"trim": 0}), ("db_mtl", {"beta": 0.0})):
        assert advance(create_balancer(name, "a", **options), ones(1), j).tolist() == [3, -4, 0]
    assert advance(create_balancer("excess_mtl", "a"), ones(1), j).tolist() == [1]
    moco = create_balancer("moco", "a", beta=1.0, beta_decay=0.0)
    torch.testing.assert_close(advance(moco, 2 * ones(1), j), 2 * j[0] / 5)


# ---- stateless ---------------------------------------------------------------------------------------------------


def test_known_case_of_graddrop():
    assert advance(create_balancer("graddrop", "ab"), ones(2), J1).tolist() == [-4, 2, 2]


def test_graddrop_equals_the_formula():
    j = rows("random", 4)
    j[:, 3] = 0
    leak = torch.tensor([0.0, 0.3, 1, 0], dtype=torch.float64)
    balancer = create_balancer("graddrop", names(4), leak={"1": 0.3, "2": 1.0}, seed=3)
    draw = torch.rand(j.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    purity = 0.5 * (1 + j.sum(0) / j.abs().sum(0))
    masks = (purity > draw) * (j > 0) + (purity < draw) * (j < 0)
    wanted = ((leak[:, None] + (1 - leak[:, None]) * masks) * j).sum(0)
    found = advance(balancer, ones(4), j)
    torch.testing.assert_close(found, wanted)
    assert found[3] == 0


def test_graddrop_keeps_the_sum_where_signs_agree_and_its_mean_elsewhere():
    j = torch.cat([rows("random", 3).abs(), rows("random", 3)], dim=1)
    balancer = create_balancer("graddrop", "abc")
    updates = torch.stack([advance(balancer, ones(3), j) for _ in range(4000)])
    torch.testing.assert_close(updates[:, :9], j.sum(0)[:9].expand(4000, 9))
    positive, negative = j.clamp(min=0).sum(0), -j.clamp(max=0).sum(0)
    wanted = (positive**2 - negative**2) / (positive + negative)
    torch.testing.assert_close(updates.mean(0), wanted, rtol=0, atol=0.15)


@pytest.mark.parametrize("width", [1, 100, (1 << 16) + 3])
def test_trimmed_mean_leaves_out_the_extremes(width):
    j = torch.randn(7, width, generator=torch.Generator().manual_seed(0))
    for trim in (0, 1, 3):
        wanted = j.sort(0).values[trim : 7 - trim].mean(0)
        torch.testing.assert_close(advance(create_balancer("trimmed_mean", names(7), trim=trim), ones(7), j), wanted)


def test_trimmed_mean_says_how_many_objectives_it_needs():
    with pytest.raises(ValueError, match="trimmed_mean: trim=2 needs at least 5 objectives, got 4"):
        create_balancer("trimmed_mean", names(4), trim=2)
    with pytest.raises(ValueError, match="trimmed_mean: trim must not be negative, got -1"):
        create_balancer("trimmed_mean", names(4), trim=-1)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["trimmed_mean", "moco", "db_mtl", "excess_mtl"]), st.integers(3, 6), st.integers(0, 10_000))
def test_updates_follow_a_permutation(name, size, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=generator)
    straight, permuted = create_balancer(name, names(size)), create_balancer(name, names(size))
    for step in range(4):
        j, losses = rows("random", size, seed + step), torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
        first, second = advance(straight, losses, j), advance(permuted, losses[order], j[order])
        torch.testing.assert_close(
            second, first if isinstance(core(straight), JacobianBalancer) else first[order], rtol=1e-5, atol=1e-6
        )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["trimmed_mean", "graddrop"]), st.integers(3, 6), st.integers(0, 10_000), st.floats(-6, 6))
def test_stateless_updates_scale_with_the_gradients(name, size, seed, exponent):
    j = rows("random", size, seed)
    first, second = (advance(create_balancer(name, names(size)), ones(size), s * j) for s in (1.0, 10**exponent))
    torch.testing.assert_close(second / 10**exponent, first)


@pytest.mark.parametrize("name", ["krum", "trimmed_mean", "conflict_free_momentum"])
def test_methods_for_three_objectives_train(name):
    net, x = Net(), inputs()
    before = {key: float(loss.detach()) for key, loss in net.losses(x).items()}
    train(net, create_balancer(name, net.objectives), steps=150, lr=0.002)
    after = {key: float(loss.detach()) for key, loss in net.losses(x).items()}
    assert sum(after[key] / before[key] for key in net.objectives) < 3 * 0.9


# ---- averages over steps -----------------------------------------------------------------------------------------


def simplex(v):
    """By bisection on the threshold."""
    low, high = v.min() - 1, v.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (v - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (v - low).clamp(min=0)


@pytest.mark.parametrize("rescale", [True, False])
def test_moco_equals_the_formulas(rescale):
    balancer = create_balancer("moco", names(3), rho=0.2, rescale=rescale, preference={"0": 2.0})
    y, w = torch.zeros(3, 9, dtype=torch.float64), ones(3) / 3
    for k in range(1, 6):
        j, losses = rows("random", 3, k), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) / k
        h = j * (losses / j.norm(dim=1))[:, None] if rescale else j
        y = y - 0.5 / k**0.5 * (y - h)
        w = simplex(w - 0.1 / k**0.5 * (y @ y.T + 0.2 * torch.eye(3, dtype=torch.float64)) @ w)
        wanted = (w * torch.tensor([1.5, 0.75, 0.75])) @ y
        torch.testing.assert_close(advance(balancer, losses, j), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_db_mtl_equals_the_formulas(decay):
    balancer = create_balancer("db_mtl", names(3), decay=decay, preference={"0": 2.0})
    m = torch.zeros(3, 9, dtype=torch.float64)
    for k in range(1, 6):
        h = rows("random", 3, k)
        m = h + 0.9 / k**decay * (m - h)
        n = m.norm(dim=1)
        wanted = (torch.tensor([1.5, 0.75, 0.75]) * n.max() / n) @ m
        torch.testing.assert_close(advance(balancer, ones(3), h), wanted)


def test_db_mtl_sees_gradients_of_log_losses():
    net, x = Net(("a", "b")), inputs()
    balancer = create_balancer("db_mtl", ("a", "b"), beta=0.0)
    balancer.backward(net.losses(x))
    found = net.gradients()
    losses, jacobian = net.losses(x), reference_rows(net, x)
    logs = {
        name: {key: g / losses[name].detach() for key, g in gradients.items()} for name, gradients in jacobian.items()
    }
    trunk = [key for key in found if key.startswith("trunk")]
    length = {name: sum(logs[name][key].square().sum() for key in trunk).sqrt() for name in "ab"}
    for key, gradient in found.items():
        if key in trunk:
            wanted = max(length.values()) * (logs["a"][key] / length["a"] + logs["b"][key] / length["b"])
        else:
            wanted = logs["a" if ".a." in key else "b"][key]
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="db_mtl: takes logarithms of the losses, so sum before it has no meaning"):
        create_balancer("db_mtl", "ab", before="sum")


@pytest.mark.parametrize("name", ["moco", "db_mtl"])
def test_negative_losses_are_named(name):
    net, x = Net(("a", "b")), inputs()
    losses = net.losses(x)
    losses["b"] = losses["b"] - 1e6
    with pytest.raises(BalancingError, match=r"the loss of objective 'b' is -"):
        create_balancer(name, ("a", "b")).backward(losses)


def test_excess_mtl_equals_the_formulas():
    balancer = create_balancer("excess_mtl", names(3), eta=0.7)
    squares, w, initial = torch.zeros(3, 9, dtype=torch.float64), ones(3), None
    for k in range(5):
        j = rows("random", 3, k)
        squares += j.square()
        excess = (j.square() / (squares + 1e-7).sqrt()).sum(1)
        if initial is None:
            initial = excess
        else:
            w = w * torch.exp(0.7 * excess / initial)
            w = 3 * w / w.sum()
        torch.testing.assert_close(advance(balancer, ones(3), j).double(), w, rtol=1e-5, atol=1e-6)


def test_excess_mtl_changes_nothing_if_all_grow_alike():
    balancer = create_balancer("excess_mtl", "ab", eta=1.0)
    j = 100 * J1
    assert advance(balancer, ones(2), j).tolist() == [1, 1]
    assert advance(balancer, ones(2), j).tolist() == pytest.approx([1, 1])  # e / e(0) is 1 / sqrt(2) for both
    big = advance(balancer, ones(2), torch.stack([1e6 * j[0], j[1]]))
    assert big.tolist() == pytest.approx([2, 0])


def test_excess_mtl_waits_for_the_first_gradient_that_is_not_zero():
    balancer = create_balancer("excess_mtl", "ab", eta=1.0)
    zero = torch.stack([J1[0], torch.zeros(3, dtype=torch.float64)])
    assert advance(balancer, ones(2), zero).tolist() == [1, 1]
    w = advance(balancer, ones(2), J1)
    assert w[1] > w[0]  # the ratio of the late one is 1, that of the other 1 / sqrt(2)
    assert bool(w.isfinite().all())


# ---- conflict-free momentum --------------------------------------------------------------------------------------


def test_conflict_free_momentum_of_one_objective_is_adam():
    parameter = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1.0, eps=1e-8)
    balancer = create_balancer("conflict_free_momentum", "a")
    for step in range(8):
        gradient = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        before, parameter.grad = parameter.detach().clone(), gradient
        optimizer.step()
        torch.testing.assert_close(advance(balancer, ones(1), gradient[None]), before - parameter.detach())


def test_conflict_free_momentum_equals_the_formulas():
    balancer = create_balancer("conflict_free_momentum", "abc", preference={"a": 2.0})
    m, turns, t = torch.zeros(3, 9, dtype=torch.float64), [0, 0, 0], 0
    previous, second = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    for step in range(10):
        j, k = rows("random", 3, step), step % 3
        assert balancer.active() == (k,)
        m[k] = 0.9 * m[k] + 0.1 * j[k]
        turns[k] += 1
        found = advance(balancer, ones(3), j)
        if step < 2:
            assert not found.any()
            continue
        t += 1
        corrected = torch.stack([m[i] / (1 - 0.9 ** turns[i]) for i in range(3)])
        d = conflict_free_weights(corrected @ corrected.T, balancer.preference) @ corrected
        mean = (1 - 0.9**t) * d
        gradient, previous = (mean - 0.9 * previous) / 0.1, mean
        second = 0.999 * second + 0.001 * gradient**2
        torch.testing.assert_close(found, d / ((second / (1 - 0.999**t)).sqrt() + 1e-8))


def test_conflict_free_momentum_forgets_in_half_precision_too():
    lengths = []
    for dtype in (torch.float32, torch.bfloat16):
        p, balancer = nn.Parameter(torch.ones(20, dtype=dtype)), create_balancer("conflict_free_momentum", "ab")
        for step in range(1000):
            p.grad = None
            size = 1.0 if step < 20 else 0.05
            balancer.backward({"a": size * p.sum(), "b": size * (p[:10].sum() - 0.5 * p[10:].sum()) + 9})
        lengths.append(p.grad.float().norm().item())
    assert lengths[1] == pytest.approx(lengths[0], rel=0.02)


def test_conflict_free_momentum_differentiates_one_objective_per_step():
    net, x = Net(), inputs()
    balancer = create_balancer("conflict_free_momentum", net.objectives)
    for step in range(6):
        net.zero_grad(set_to_none=True)
        balancer.backward(net.losses(x))
        touched = {key.split(".")[1] for key in net.gradients() if key.startswith("head")}
        assert touched == {"abc"[step % 3]}
        moved = any(bool(p.grad.any()) for p in net.shared())
        assert moved == (step >= 2)


# ---- state and peers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*COMBINING, "excess_mtl"])
def test_state_makes_the_next_step_equal(name):
    balancer, losses = create_balancer(name, names(3)), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    for seed in range(4):
        advance(balancer, losses, rows("random", 3, seed))
    fresh = create_balancer(name, names(3))
    fresh.load_state_dict(balancer.state_dict())
    for seed in (4, 5):
        j = rows("random", 3, seed)
        assert torch.equal(advance(fresh, losses, j), advance(balancer, losses, j))


@pytest.mark.parametrize("name", ["moco", "db_mtl", "excess_mtl", "conflict_free_momentum"])
def test_methods_that_keep_gradients_measure_them_at_parameters(name):
    with pytest.raises(ValueError, match=f"{name}: keeps gradients from step to step, so at='features' has no meaning"):
        create_balancer(name, "ab", at="features")


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", 5, seed).float()
    torch.manual_seed(seed)
    leak = {"1": 0.3, "4": 1.0}
    wanted = aggregation.GradDrop(leak=torch.tensor([0, 0.3, 0, 0, 1.0]))(j)
    torch.testing.assert_close(advance(create_balancer("graddrop", names(5), seed=seed, leak=leak), ones(5), j), wanted)
    for trim in (1, 2):
        found = advance(create_balancer("trimmed_mean", names(5), trim=trim), ones(5), j)
        torch.testing.assert_close(found, aggregation.TrimmedMean(trim)(j))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("graddrop", {"leak": {"a": 1.5}}, "graddrop: leak must be between 0 and 1"),
        ("moco", {"beta": 0.0}, "moco: beta must be in"),
        ("moco", {"rho": -1.0}, "moco: beta_decay, gamma_decay and rho must not be negative"),
        ("db_mtl", {"beta": 1.0}, "db_mtl: beta must be in"),
        ("db_mtl", {"decay": -1.0}, "db_mtl: decay must not be negative"),
        ("excess_mtl", {"eta": -1.0}, "excess_mtl: eta must not be negative"),
        ("conflict_free_momentum", {"beta2": 1.0}, "conflict_free_momentum: beta2 must be in"),
        ("conflict_free_momentum", {"eps": 0.0}, "conflict_free_momentum: eps must be positive"),
    ],
)
def test_wrong_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer(name, "ab", **options)
