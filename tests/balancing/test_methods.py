"""Each method does what its formula says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import BalancingError, create_balancer
from tests.balancing.problems import ALL, Net, inputs, make

L2 = torch.tensor([1.0, 4.0], dtype=torch.float64)


def gramian(rows):
    j = torch.tensor(rows, dtype=torch.float64)
    return j @ j.T


def random_gramian(size, seed, conflict=True):
    j = torch.randn(size, 2 * size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return j @ j.T


CONFLICT = gramian([[-4, 1, 1], [6, 1, 1]])


def test_known_case_of_mgda():
    assert create_balancer("mgda", "ab").compute_weights(L2, CONFLICT).tolist() == pytest.approx([0.6, 0.4], abs=1e-12)


def test_known_case_of_pcgrad():
    w = create_balancer("pcgrad", "ab").compute_weights(L2, CONFLICT)
    assert w.tolist() == pytest.approx([2.2222222222, 1.5789473684], abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(-6, 6))
def test_mgda_weights_ignore_a_common_scale_and_follow_a_permutation(size, seed, exponent):
    g = random_gramian(size, seed)
    names = [str(i) for i in range(size)]
    losses = torch.ones(size, dtype=torch.float64)
    w = create_balancer("mgda", names).compute_weights(losses, g)
    torch.testing.assert_close(
        create_balancer("mgda", names).compute_weights(losses, g * 10**exponent), w, rtol=1e-7, atol=1e-9
    )
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    permuted = create_balancer("mgda", names).compute_weights(losses, g[order][:, order])
    torch.testing.assert_close(permuted, w[order], rtol=1e-7, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000))
def test_mgda_direction_conflicts_with_nobody(size, seed):
    g = random_gramian(size, seed)
    w = create_balancer("mgda", [str(i) for i in range(size)]).compute_weights(torch.ones(size), g)
    assert ((g @ w) >= -1e-9).all()


def test_mgda_preference_sets_the_ratio_of_progress():
    torch.manual_seed(0)
    j = torch.eye(3, 6, dtype=torch.float64) + 0.1 * torch.randn(3, 6, dtype=torch.float64)
    balancer = create_balancer("mgda", "abc", preference={"a": 4.0})
    w = balancer.effective_weights(torch.ones(3, dtype=torch.float64), j @ j.T)
    progress = j @ (w @ j)
    torch.testing.assert_close(progress / progress[1], torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64))
    assert abs(w.sum() - 1) < 1e-12


def pcgrad_by_vectors(j, orders):
    """The published loop, on the gradients themselves."""
    total = torch.zeros_like(j[0])
    for i, order in enumerate(orders):
        p = j[i].clone()
        for k in order:
            if k != i and (dot := p @ j[k]) < 0:
                p -= dot / (j[k] @ j[k]) * j[k]
        total += p
    return total


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_pcgrad_equals_projection_of_the_vectors(size):
    for seed in range(10):
        j = torch.randn(size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        balancer = create_balancer("pcgrad", [str(i) for i in range(size)], seed=seed)
        draws = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        orders = [[k for k in row.argsort().tolist() if k != i] for i, row in enumerate(draws)]
        w = balancer.compute_weights(torch.ones(size), j @ j.T)
        torch.testing.assert_close(w @ j, pcgrad_by_vectors(j, orders))


def test_pcgrad_orders_are_uniform():
    g = -torch.ones(3, 3, dtype=torch.float64) + 2 * torch.eye(3, dtype=torch.float64)
    balancer = create_balancer("pcgrad", "abc")
    seen = {tuple(round(v, 9) for v in balancer.compute_weights(torch.ones(3), g).tolist()) for _ in range(200)}
    assert len(seen) > 1


def test_pcgrad_leaves_agreeing_and_zero_gradients_alone():
    assert create_balancer("pcgrad", "ab").compute_weights(L2, gramian([[1, 0], [1, 1]])).tolist() == [1, 1]
    assert create_balancer("pcgrad", "ab").compute_weights(L2, gramian([[0, 0], [1, 1]])).tolist() == [1, 1]


def test_pcgrad_preference_scales_the_gradients_before_projection():
    j = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    p = torch.tensor([1.5, 0.5], dtype=torch.float64)
    w = create_balancer("pcgrad", "ab", preference={"a": 3, "b": 1}).effective_weights(L2, j @ j.T)
    torch.testing.assert_close(w @ j, pcgrad_by_vectors(p[:, None] * j, [[1], [0]]))


def test_gradnorm_gradient_equals_differentiating_its_loss():
    g, losses = random_gramian(4, 0), torch.tensor([0.5, 2.0, 3.0, 0.1], dtype=torch.float64)
    initial = {"a": 1.0, "b": 1.5, "c": 3.0, "d": 0.4}
    balancer = create_balancer("gradnorm", "abcd", initial_losses=initial, init="equal", alpha=0.7).double()
    with torch.no_grad():
        balancer.theta.copy_(torch.tensor([0.3, -0.2, 0.5, 0.0]))
    theta = balancer.theta.detach().clone().requires_grad_()
    w = 4 * torch.softmax(theta, 0)
    norms = g.diagonal().sqrt()
    pace = losses / torch.tensor(list(initial.values()), dtype=torch.float64)
    target = (w * norms).mean().detach() * (pace / pace.mean()) ** 0.7
    (w * norms - target).abs().sum().backward()
    with torch.no_grad():
        found = balancer.compute_weights(losses, g)
    torch.testing.assert_close(found, w.detach())
    torch.testing.assert_close(balancer.theta.grad, theta.grad)


def test_gradnorm_with_alpha_zero_makes_lengths_equal():
    g, losses = gramian([[100, 0, 0], [0, 1, 0], [0, 0, 0.1]]), torch.ones(3, dtype=torch.float64)
    balancer = create_balancer("gradnorm", "abc", alpha=0.0, init="equal")
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.02)
    for _ in range(2000):
        optimizer.zero_grad()
        with torch.no_grad():
            w = balancer.compute_weights(losses, g)
        optimizer.step()
    lengths = w * g.diagonal().sqrt()
    assert float(lengths.max() / lengths.min()) < 1.2
    assert abs(w.sum() - 3) < 1e-5


def test_gradnorm_starts_at_equal_lengths_unless_told_otherwise():
    g, losses = gramian([[1e4, 0], [0, 1e-3]]), torch.tensor([1e7, 1.0], dtype=torch.float64)
    with torch.no_grad():
        w = create_balancer("gradnorm", "ab").compute_weights(losses, g)
        published = create_balancer("gradnorm", "ab", init="equal").compute_weights(losses, g)
    lengths = w * g.diagonal().sqrt()
    assert float(lengths[0] / lengths[1]) == pytest.approx(1, rel=1e-5)
    assert published.tolist() == [1, 1]


@pytest.mark.parametrize("kind", [(), ("a",)])
def test_gaussian_uncertainty_has_its_optimum_where_the_docstring_says(kind):
    losses = torch.tensor([1e7, 0.3])
    balancer = create_balancer("uncertainty", "ab", classification=kind)
    value = balancer.loss(losses)
    (slope,) = torch.autograd.grad(value, balancer.noise)
    assert slope.abs().max() < 1e-6
    c = torch.tensor([1.0 if "a" in kind else 0.5, 0.5])
    torch.testing.assert_close(balancer.compute_weights(losses), c * torch.exp(-balancer.noise.detach()))


def test_log1p_uncertainty_has_its_optimum_where_the_docstring_says():
    losses = torch.tensor([1e5, 0.3])
    balancer = create_balancer("uncertainty", "ab", form="log1p")
    (slope,) = torch.autograd.grad(balancer.loss(losses), balancer.noise)
    assert slope.abs().max() < 1e-5
    p2 = balancer.noise.detach().square()
    torch.testing.assert_close(p2.square() / (1 + p2), losses / 2)


def test_uncertainty_starts_at_the_published_values_on_request():
    assert create_balancer("uncertainty", "ab", init=0.0).effective_weights(torch.ones(2)).tolist() == [0.5, 0.5]
    log1p = create_balancer("uncertainty", "ab", init=1.0, form="log1p")
    assert log1p.loss(torch.tensor([2.0, 4.0])).item() == pytest.approx(3 + 2 * math.log(2))


def test_realtime_is_the_gradient_of_the_log_losses():
    net, x = Net(), inputs()
    torch.stack(list(net.losses(x).values())).log().sum().backward()
    wanted = net.gradients()
    for balancer in (make("realtime"), make("sum", log_losses=True)):
        net.zero_grad()
        balancer.backward(net.losses(x))
        for key, gradient in net.gradients().items():
            torch.testing.assert_close(gradient, wanted[key], rtol=1e-6, atol=1e-9)


def test_inverse_mean_averages_a_window():
    balancer = create_balancer("inverse_mean", "ab", window=2, eps=1e-12)
    for losses in ([1.0, 1.0], [3.0, 1.0], [5.0, 1.0]):
        w = balancer.compute_weights(torch.tensor(losses))
    assert w.tolist() == pytest.approx([0.2, 0.8])  # means 4 and 1


def test_initial_loss_averages_the_first_batches_and_then_stays():
    balancer = create_balancer("initial_loss", "ab", batches=2)
    seen = [
        balancer.compute_weights(torch.tensor(losses)).tolist() for losses in ([2.0, 10.0], [4.0, 10.0], [100.0, 1.0])
    ]
    assert seen == [pytest.approx([1 / 2, 0.1]), pytest.approx([1 / 3, 0.1]), pytest.approx([1 / 3, 0.1])]
    given_losses = create_balancer("initial_loss", "ab", initial_losses={"a": 4.0, "b": 8.0})
    assert given_losses.compute_weights(torch.ones(2)).tolist() == [0.25, 0.125]


def test_prior_loss_and_fixed_use_what_they_are_given():
    assert make("prior_loss", "ab", prior_losses={"a": 4.0, "b": 0.5}).compute_weights(torch.ones(2)).tolist() == [
        0.25,
        2,
    ]
    assert make("fixed", "ab", values={"b": 0.1}).compute_weights(torch.ones(2)).tolist() == [1, pytest.approx(0.1)]


@pytest.mark.parametrize("name", ["realtime", "inverse_mean", "initial_loss", "gradnorm", "uncertainty"])
def test_a_negative_loss_is_named(name):
    net, x = Net(("a", "b")), inputs()
    losses = net.losses(x)
    losses["b"] = losses["b"] - 1e6
    with pytest.raises(BalancingError, match=rf"{name}: the loss of objective 'b' is -"):
        make(name, ("a", "b")).backward(losses)


CORNERS = torch.tensor([[2.0, 0, 0, 0], [-1, 1, 0, 0], [-1, -1, 0, 0]], dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
def test_every_method_reaches_the_pareto_set_of_quadratics(name):
    """The Pareto set of squared distances to some points is their convex hull, here in a plane of a four-dimensional space."""
    point = torch.nn.Parameter(torch.tensor([3.0, 3, 3, -3], dtype=torch.float64))
    balancer = make(name)
    own = torch.optim.Adam(balancer.parameters(), lr=0.02) if list(balancer.parameters()) else None
    steps = 3000 if name == "conflict_free_momentum" else 800

    def losses():
        distances = 0.5 * (point - CORNERS).square().sum(1) + 0.1
        return dict(zip("abc", distances, strict=True))

    for step in range(steps):
        point.grad = None
        if own:
            own.zero_grad()
        balancer.backward(losses(), shared=[point])
        with torch.no_grad():
            point -= 0.1 * (1 - step / steps) * point.grad
            if balancer.observes:
                balancer.observe(losses())
        if own:
            own.step()
        if step % 50 == 49:
            balancer.next_epoch()
    # barycentric coordinates in the plane, and the distance from it
    edges = (CORNERS[1:] - CORNERS[0])[:, :2].T
    inner = torch.linalg.solve(edges, (point.detach() - CORNERS[0])[:2])
    assert point[2:].detach().norm() < 0.02
    assert inner.min() > -0.02
    assert inner.sum() < 1.02
