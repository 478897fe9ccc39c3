"""Each method that looks at losses only does what its formula says."""

import io
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import BalancingError, create_balancer
from balancing.losses.go4align import group_centers
from tests.balancing.problems import Net, inputs

LOSSES = torch.tensor([0.5, 2.0, 3.0, 0.1], dtype=torch.float64)
PRIORITIES = {"a": 3.0, "b": 1.0, "c": 0.5, "d": 1.5}
SYMMETRIC = [
    ("power_mean", {}),
    ("power_mean", {"gamma": -1.5}),
    ("geometric", {}),
    ("dwa", {"window": 1}),
    ("imtl_l", {}),
    ("tchebycheff", {}),
    ("stch", {}),
    ("stch", {"form": "log", "warmup": 1, "unit": "step"}),
    ("pbi", {}),
    ("cosmos", {}),
    ("famo", {}),
    ("igb", {"window": 1}),
    ("go4align", {}),
    ("group_dro", {}),
    ("cov_weighting", {}),
    ("softadapt", {}),
    ("relobralo", {}),
]
METHODS = sorted({name for name, _ in SYMMETRIC} | {"single", "scheduled", "alternating", "rlw"})


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def find(balancer, losses):
    """The weights of one step, which is counted."""
    w = balancer.effective_weights(losses)
    balancer.step += 1
    return w


def derivative(scalar, losses=LOSSES):
    leaf = losses.clone().requires_grad_()
    return torch.autograd.grad(scalar(leaf), leaf)[0]


def weigh(name, losses=LOSSES, **options):
    return find(create_balancer(name, "abcdefgh"[: len(losses)], **options), losses)


# ---- published scalars -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [-3.0, -1.0, -1e-3, 1e-3, 0.5, 1.0, 2.0, 7.0])
def test_power_mean_is_the_derivative_of_its_formula(gamma):
    expected = derivative(lambda loss: loss.pow(gamma).mean().pow(1 / gamma))
    torch.testing.assert_close(weigh("power_mean", gamma=gamma), expected)


def test_power_mean_of_preferred_losses():
    p = double(list(PRIORITIES.values())) / 1.5
    expected = derivative(lambda loss: (p * loss).pow(3).mean().pow(1 / 3))
    torch.testing.assert_close(weigh("power_mean", gamma=3.0, preference=PRIORITIES), expected)


def test_limits_of_the_power_mean():
    geometric = weigh("geometric")
    torch.testing.assert_close(geometric, derivative(lambda loss: loss.prod() ** 0.25))
    torch.testing.assert_close(weigh("power_mean", gamma=0.0), geometric)
    torch.testing.assert_close(weigh("power_mean", gamma=1e-9), geometric)
    torch.testing.assert_close(
        weigh("power_mean", gamma=1e-6, losses=LOSSES.float()), geometric.float(), rtol=1e-4, atol=0
    )
    assert torch.equal(weigh("power_mean", gamma=math.inf), 4 * weigh("tchebycheff"))
    torch.testing.assert_close(weigh("power_mean", gamma=1e5), weigh("power_mean", gamma=math.inf), rtol=1e-4, atol=0)
    assert weigh("power_mean", gamma=-math.inf).tolist() == [0, 0, 0, 1]
    assert weigh("power_mean", double([1, 3, 3]), gamma=math.inf).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("mu", [0.05, 1.0, 20.0])
def test_stch_is_the_derivative_of_its_formula(mu):
    share, ideal = double(list(PRIORITIES.values())) / 6, double([0.2, 0, -1, 0])
    expected = derivative(lambda loss: mu * torch.logsumexp(share * (loss - ideal) / mu, 0))
    options = {"mu": mu, "ideal": {"a": 0.2, "c": -1.0}, "preference": PRIORITIES}
    torch.testing.assert_close(weigh("stch", **options), expected)


def test_stch_becomes_tchebycheff():
    options = {"ideal": {"a": 0.2}, "preference": PRIORITIES}
    torch.testing.assert_close(weigh("stch", mu=1e-3, **options), weigh("tchebycheff", **options))


@pytest.mark.parametrize("mu", [0.3, 1.0])
def test_stch_in_logarithms_with_a_given_nadir(mu):
    nadir = double([1.0, 2.5, 2.0, 0.3])
    expected = derivative(lambda loss: 4 * mu * torch.logsumexp(torch.log(loss / nadir) / mu, 0))
    found = weigh("stch", form="log", mu=mu, nadir=dict(zip("abcd", nadir.tolist(), strict=True)))
    torch.testing.assert_close(found, expected, check_dtype=False, rtol=1e-6, atol=0)  # the nadir is single precision


def test_stch_measures_its_nadir_in_the_epochs_after_the_warm_up():
    balancer = create_balancer("stch", "ab", form="log", warmup=1, measure=2)
    for epoch, losses in enumerate([[9, 9], [2, 4], [4, 8]]):
        assert find(balancer, double(losses)).tolist() == pytest.approx([1 / losses[0], 1 / losses[1]])
        assert balancer.epoch == epoch
        balancer.next_epoch()
    found = find(balancer, double([3.0, 12.0]))  # ratios 1 and 2 to the nadir (3, 6)
    assert found.tolist() == pytest.approx([2 * (1 / 3) / 3, 2 * (2 / 3) / 12])
    found = find(balancer, double([3.0, 6.0]))
    assert found.tolist() == pytest.approx([1 / 3, 1 / 6])


def test_stch_that_joins_late_takes_its_first_losses_as_nadir():
    balancer = create_balancer("stch", "ab", form="log")
    balancer.epoch = 50
    assert find(balancer, double([2, 8])).tolist() == pytest.approx([1 / 2, 1 / 8])
    assert find(balancer, double([2, 24])).tolist() == pytest.approx([2 * 0.25 / 2, 2 * 0.75 / 24])


def test_preference_acts_alike_in_both_forms_of_stch():
    """With a small mu both train the objective with the greatest p L / N."""
    losses, priority = double([1.0, 2.0]), {"a": 3.0}
    assert weigh("stch", losses, mu=1e-3, preference=priority)[1] < 1e-9
    assert weigh("stch", losses, form="log", nadir={"a": 1, "b": 1}, mu=1e-3, preference=priority)[1] < 1e-9


def test_tchebycheff_trains_the_greatest_weighted_distance():
    assert weigh("tchebycheff").tolist() == [0, 0, 0.25, 0]
    assert weigh("tchebycheff", ideal={"c": 2.5}).tolist() == [0, 0.25, 0, 0]
    assert weigh("tchebycheff", double([1, 1]), preference={"a": 3.0}).tolist() == [0.75, 0]
    assert weigh("tchebycheff", double([1, 3]), preference={"a": 3.0}).tolist() == [0.375, 0.125]  # a tie


def test_pbi_is_the_derivative_of_its_formula():
    ray, ideal = 1 / double(list(PRIORITIES.values())), double([0, 0.5, 0, 0])
    ray = ray / ray.norm()

    def scalar(loss):
        along = (loss - ideal) @ ray
        return along + 2.5 * (loss - ideal - along * ray).norm()

    found = weigh("pbi", theta=2.5, ideal={"b": 0.5}, preference=PRIORITIES)
    torch.testing.assert_close(found, derivative(scalar))


def test_pbi_on_its_ray_is_the_ray():
    for value in (1e-20, 0.3, 7.7, 1e20):
        torch.testing.assert_close(weigh("pbi", torch.full((3,), value)), torch.full((3,), 3**-0.5))
    torch.testing.assert_close(weigh("pbi", double([1, 2]), preference={"a": 2.0}), double([1, 2]) / 5**0.5)
    torch.testing.assert_close(weigh("pbi", torch.zeros(3)), torch.full((3,), 3**-0.5))


def test_pbi_prefers_a_smaller_loss_for_a_higher_priority():
    w = weigh("pbi", double([1, 1]), preference={"a": 2.0})
    assert w[0] > 0 > w[1]


def test_cosmos_is_the_derivative_of_its_formula():
    r = double(list(PRIORITIES.values())) / 6
    expected = derivative(lambda loss: r @ loss - 0.7 * torch.cosine_similarity(r, loss, dim=0))
    found = weigh("cosmos", penalty=0.7, preference=PRIORITIES)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)  # r is single precision
    assert weigh("cosmos", torch.zeros(2)).tolist() == [0.5, 0.5]


def test_cosmos_shows_the_ray_that_the_coming_step_uses():
    balancer = create_balancer("cosmos", "ab", alpha=1.0, penalty=0.0)
    rays = []
    for _ in range(400):
        ray = balancer.draw()
        assert torch.equal(balancer.draw(), ray)
        torch.testing.assert_close(find(balancer, torch.ones(2)), ray)
        rays.append(ray)
    rays = torch.stack(rays)
    torch.testing.assert_close(rays.sum(1), torch.ones(400))
    assert abs(rays[:, 0].mean() - 0.5) < 0.05
    assert abs(rays[:, 0].var() - 1 / 12) < 0.02  # of a uniform variable


def test_cosmos_draws_around_the_preference():
    balancer = create_balancer("cosmos", "ab", alpha=5.0, penalty=0.0, preference={"a": 3.0})
    mean = torch.stack([find(balancer, torch.ones(2)) for _ in range(400)]).mean(0)
    torch.testing.assert_close(mean, torch.tensor([0.75, 0.25]), rtol=0, atol=0.03)


@pytest.mark.parametrize("init", ["losses", 0.0, -1.5])
def test_imtl_l_gradients_equal_differentiating_its_formula(init):
    balancer = create_balancer("imtl_l", "abcd", init=init)
    s = (-LOSSES.log() if init == "losses" else torch.full((4,), init, dtype=torch.float64)).requires_grad_()
    find(balancer, LOSSES)  # the levels start here
    later = (2 * LOSSES).requires_grad_()
    balancer.log_weights.grad = None
    expected = torch.autograd.grad((s.exp() * later - s).sum(), [later, s])
    torch.testing.assert_close(find(balancer, later.detach()), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(balancer.log_weights.grad.double(), expected[1], rtol=1e-5, atol=1e-6)


def test_imtl_l_started_from_the_losses_is_at_rest():
    balancer = create_balancer("imtl_l", "abcd")
    torch.testing.assert_close(find(balancer, LOSSES), 1 / LOSSES, rtol=1e-6, atol=0)
    assert balancer.log_weights.grad.abs().max() < 1e-6


# ---- weights from the past -------------------------------------------------------------------------------------------


def test_dwa_compares_the_last_epoch_with_the_one_before():
    balancer = create_balancer("dwa", "ab", temperature=0.5)
    epochs = [[[4, 10], [2, 20]], [[3, 9], [1, 3]], [[1, 6], [1, 0.1]]]
    for losses in epochs[:2]:
        for step in losses:
            assert find(balancer, double(step)).tolist() == [1, 1]
        balancer.next_epoch()
    expected = 2 * torch.softmax(double([2 / 3, 6 / 15]) / 0.5, 0)  # means (2, 6) and (3, 15)
    for step in epochs[2]:
        torch.testing.assert_close(find(balancer, double(step)), expected)
    balancer.next_epoch()
    expected = 2 * torch.softmax(double([1 / 2, 3.05 / 6]) / 0.5, 0)
    torch.testing.assert_close(find(balancer, double([5.0, 5.0])), expected)


def test_dwa_compares_the_last_steps_with_those_before():
    history = [[4, 10], [2, 20], [3, 9], [1, 3], [1, 6], [7, 8]]
    balancer = create_balancer("dwa", "ab", window=2)
    for t, losses in enumerate(history):
        found = find(balancer, double(losses))
        if t < 3:
            assert found.tolist() == [1, 1]
        else:
            last, before = double(history[t - 1 : t + 1]).mean(0), double(history[t - 3 : t - 1]).mean(0)
            torch.testing.assert_close(found, 2 * torch.softmax(last / before / 2, 0))


def test_dwa_skips_epochs_without_a_step():
    balancer = create_balancer("dwa", "ab")
    for losses in ([4, 4], [2, 4]):
        balancer.next_epoch()
        balancer.next_epoch()
        find(balancer, double(losses))
    balancer.next_epoch()
    torch.testing.assert_close(find(balancer, double([1, 1])), 2 * torch.softmax(double([0.25, 0.5]), 0))


def test_igb_measures_the_first_epoch_or_the_first_steps():
    for options in ({}, {"window": 2}):
        balancer = create_balancer("igb", "ab", **options)
        assert find(balancer, double([2, 10])).tolist() == [0.5, 0.1]
        assert find(balancer, double([4, 30])).tolist() == pytest.approx([0.25, 1 / 30])
        balancer.next_epoch()
        for losses in (double([3, 10]), double([6, 5])):
            expected = 2 * torch.softmax(losses / double([3, 20]), 0) / losses
            torch.testing.assert_close(find(balancer, losses), expected)


def test_igb_that_joins_late_takes_its_first_losses():
    balancer = create_balancer("igb", "ab")
    balancer.epoch = 3
    find(balancer, double([2, 10]))
    expected = 2 * torch.softmax(double([0.5, 2]), 0) / double([1, 20])
    torch.testing.assert_close(find(balancer, double([1, 20])), expected)


def test_group_dro_multiplies_its_weights():
    balancer = create_balancer("group_dro", "ab", eta=0.3)
    share = double([0.5, 0.5])
    for losses in (double([1, 2]), double([3, 0.5]), double([0, 4])):
        share = share * torch.exp(0.3 * losses)
        share /= share.sum()
        torch.testing.assert_close(find(balancer, losses), 2 * share, rtol=1e-5, atol=0)


def test_go4align_without_groups_and_with_one():
    separate, together = (
        create_balancer("go4align", "abc", groups=3, eta=0.1),
        create_balancer("go4align", "abc", groups=1, eta=0.1),
    )
    p = torch.full((3,), 1 / 3, dtype=torch.float64)
    for losses in (double([1, 2, 5]), double([0.5, 3, 2])):
        p = p * torch.exp(-0.1 * losses)
        p /= p.sum()
        q = p * losses.sum() / losses
        torch.testing.assert_close(find(separate, losses), q, rtol=1e-6, atol=0)
        torch.testing.assert_close(find(together, losses), q.mean().expand(3), rtol=1e-6, atol=0)


def test_go4align_groups_what_is_close():
    assert weigh("go4align", double([1, 1, 10, 10]), eta=0.0).tolist() == pytest.approx([5.5, 5.5, 0.55, 0.55])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=7), st.integers(1, 4))
def test_group_centers_have_the_least_squared_deviation(values, groups):
    def deviation(centres):
        return sum((v - c) ** 2 for v, c in zip(values, centres, strict=True))

    def centres_of(labels):
        members = {k: [v for v, m in zip(values, labels, strict=True) if m == k] for k in set(labels)}
        return [sum(members[k]) / len(members[k]) for k in labels]

    least = min(deviation(centres_of(labels)) for labels in itertools.product(range(groups), repeat=len(values)))
    found = group_centers(values, groups)
    assert len(set(found)) <= groups
    assert deviation(found) == pytest.approx(least, rel=1e-9, abs=1e-9)


def test_cov_weighting_follows_the_coefficients_of_variation():
    history = [[1, 10], [2, 9], [1.5, 9.5], [4, 8]]
    balancer = create_balancer("cov_weighting", "ab")
    ratios = []
    for t, losses in enumerate(history):
        found = find(balancer, double(losses))
        ratios.append(double(losses) / double(history[:t]).mean(0) if t else torch.ones(2, dtype=torch.float64))
        seen = torch.stack(ratios)
        variation = seen.std(0, correction=0) / seen.mean(0)
        expected = variation / variation.sum() if t else double([0.5, 0.5])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_cov_weighting_of_constant_losses_is_equal():
    balancer = create_balancer("cov_weighting", "ab")
    assert [find(balancer, double([1, 2])).tolist() for _ in range(3)] == [[0.5, 0.5]] * 3


def test_softadapt_favours_losses_that_rise():
    balancer = create_balancer("softadapt", "ab", beta=2.0)
    assert find(balancer, double([1, 5])).tolist() == [0.5, 0.5]
    torch.testing.assert_close(find(balancer, double([2, 4])), torch.softmax(double([2, -2]), 0))
    torch.testing.assert_close(find(balancer, double([2, 4.5])), torch.softmax(double([0, 1]), 0))


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_relobralo_looks_back_now_and_then(keep):
    balancer = create_balancer("relobralo", "ab", temperature=0.8, alpha=0.7, keep=keep, seed=3)
    generator = torch.Generator().manual_seed(3)
    history = [double([4, 1]), double([3, 2]), double([2, 2]), double([2.5, 1])]
    w = torch.ones(2, dtype=torch.float64)
    assert find(balancer, history[0]).tolist() == [1, 1]
    for t in (1, 2, 3):
        start, last = (2 * torch.softmax(history[t] / (0.8 * past), 0) for past in (history[0], history[t - 1]))
        kept = torch.rand((), generator=generator) < keep
        w = 0.7 * (w if kept else start) + 0.3 * last
        torch.testing.assert_close(find(balancer, history[t]), w, rtol=1e-5, atol=0)


# ---- schedules and turns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("step", [2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("linear", [2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0]),
        ("cosine", [2.0, 2.0, 2.0, 2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0]),
    ],
)
@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_scheduled_curves(shape, expected, unit):
    balancer = create_balancer(
        "scheduled", "ab", start={"a": 2.0}, end={"a": 0.0}, shape=shape, begin=3, length=4, unit=unit
    )
    found = []
    for _ in range(12):
        w = balancer.compute_weights(torch.ones(2))
        found.append(w[0].item())
        assert w[1] == 1
        balancer.step += unit == "step"
        if unit == "epoch":
            balancer.next_epoch()
    assert found == pytest.approx(expected + [0.0] * 4, abs=1e-6)


def test_scheduled_times_by_objective():
    balancer = create_balancer(
        "scheduled", "abc", start={"a": 0.0, "b": 0.0}, begin={"a": 2}, length={"a": 2, "b": 4}, unit="step"
    )
    found = []
    for _ in range(5):
        found.append(balancer.compute_weights(torch.ones(3)).tolist())
        balancer.step += 1
    assert found == [[0, 0, 1], [0, 0.25, 1], [0, 0.5, 1], [0.5, 0.75, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "abcabc"),
        ({"period": 2}, "aabbcc"),
        ({"order": ["c", "a", "c", "b"]}, "cacbca"),
    ],
)
def test_alternating_gives_each_objective_its_turn(options, expected):
    balancer = create_balancer("alternating", "abc", **options)
    seen = ""
    for _ in expected:
        w = balancer.compute_weights(torch.ones(3))
        (turn,) = balancer.active()
        assert w.tolist() == [float(i == turn) for i in range(3)]
        seen += "abc"[turn]
        balancer.step += 1
    assert seen == expected


def test_alternating_by_epoch_ignores_steps():
    balancer = create_balancer("alternating", "abc", unit="epoch", period=2)
    turns = []
    for _ in range(7):
        turns.append(balancer.active()[0])
        balancer.step += 5
        balancer.next_epoch()
    assert turns == [0, 0, 1, 1, 2, 2, 0]


@pytest.mark.parametrize(
    ("name", "options", "trained"),
    [("single", {"objective": "b"}, "bbb"), ("single", {}, "aaa"), ("alternating", {}, "abc")],
)
def test_heads_that_take_no_part_get_no_gradient(name, options, trained):
    net, x = Net(), inputs()
    balancer = create_balancer(name, net.objectives, **options)
    for turn in trained:
        net.zero_grad()
        balancer.backward(net.losses(x))
        found = net.gradients()
        net.zero_grad()
        net.losses(x)[turn].backward()
        assert found.keys() == net.gradients().keys()
        assert all(torch.equal(g, found[key]) for key, g in net.gradients().items())


def test_rlw_draws_from_the_softmax_of_normal_numbers():
    balancer = create_balancer("rlw", "abc", seed=5)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        expected = torch.softmax(torch.randn(3, generator=generator), 0)
        assert torch.equal(balancer.compute_weights(torch.ones(3)), expected)
        assert torch.equal(balancer.compute_weights(torch.ones(3)), expected)  # a second micro-batch of the step
        assert abs(expected.sum() - 1) < 1e-6
        balancer.step += 1


# ---- FAMO ------------------------------------------------------------------------------------------------------------


def test_famo_equals_a_loop_written_by_hand():
    """Two quadratics; Adam on the logits with the published weight decay."""
    targets, scales, gamma = double([[1.0, 0.0], [-1.0, 2.0]]), double([1.0, 50.0]), 1e-2

    def losses_at(x):
        return scales * ((x - targets) ** 2).sum(1)

    balancer = create_balancer("famo", "ab", gamma=gamma).double()
    mine = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    own = torch.optim.Adam(balancer.parameters(), lr=0.025)
    outer = torch.optim.SGD([mine], lr=0.05)
    theirs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.025, weight_decay=gamma)
    sgd = torch.optim.SGD([theirs], lr=0.05)
    for _ in range(50):
        outer.zero_grad()
        own.zero_grad()
        balancer.backward(dict(zip("ab", losses_at(mine), strict=True)))
        outer.step()
        with torch.no_grad():
            balancer.observe(dict(zip("ab", losses_at(mine), strict=True)))
        own.step()

        losses = losses_at(theirs)
        z = torch.softmax(logits, 0)
        distance = losses.detach() + 1e-8
        c = 1 / (z / distance).sum().detach()
        sgd.zero_grad()
        (c * z.detach() * (losses + 1e-8).log()).sum().backward()
        sgd.step()
        delta = (distance.log() - (losses_at(theirs) + 1e-8).log()).detach()
        logits.grad = torch.autograd.grad(torch.softmax(logits, 0), logits, delta)[0]
        adam.step()
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(balancer.logits, logits)
    assert logits.abs().max() > 0.1


def test_famo_weights_sum_to_one_and_subtract_the_bound():
    balancer = create_balancer("famo", "ab", lower={"a": -1.0})
    with torch.no_grad():
        balancer.logits.copy_(torch.tensor([0.3, -0.4]))
    z = torch.softmax(double([0.3, -0.4]), 0)
    expected = z / double([1.5, 4.0])
    torch.testing.assert_close(find(balancer, double([0.5, 4.0])), expected / expected.sum(), rtol=1e-6, atol=1e-8)
    with pytest.raises(BalancingError, match=r"famo.*'a'"):
        find(balancer, double([-1.5, 4.0]))


def test_famo_learns_from_a_step_once():
    balancer = create_balancer("famo", "ab", gamma=0.0)
    balancer.update(double([1, 1]))
    assert balancer.logits.grad is None
    find(balancer, double([2, 2]))
    balancer.update(double([1, 2]))
    first = balancer.logits.grad.clone()
    assert first[0] > 0 > first[1]  # the objective that fell loses weight when the optimizer descends
    balancer.update(double([1, 2]))
    assert torch.equal(balancer.logits.grad, first)


# ---- what holds for all ----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SYMMETRIC), st.integers(2, 6), st.integers(0, 10_000))
def test_weights_follow_a_permutation(case, size, seed):
    name, options = case
    generator = torch.Generator().manual_seed(seed)
    history = torch.rand(4, size, generator=generator, dtype=torch.float64) + 0.1
    order = torch.randperm(size, generator=generator)
    plain, permuted = (create_balancer(name, [str(i) for i in range(size)], **options) for _ in range(2))
    for losses in history:
        torch.testing.assert_close(find(permuted, losses[order]), find(plain, losses)[order], rtol=1e-5, atol=1e-7)


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
    plain, scaled = (create_balancer(name, "abc", **options) for _ in range(2))
    for losses in history:
        w, v = find(plain, losses), find(scaled, losses * scale) * scale
        torch.testing.assert_close(v / v.sum(), w / w.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), [("dwa", {"window": 1}), ("cov_weighting", {}), ("relobralo", {})])
def test_weights_ignore_the_scale_of_every_loss(name, options):
    history = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    plain, scaled = (create_balancer(name, "abc", **options) for _ in range(2))
    for losses in history:
        torch.testing.assert_close(
            find(scaled, losses * double([1e-3, 1, 1e4])), find(plain, losses), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("exponent", [-30, -10, 0, 10, 30])
@pytest.mark.parametrize(("name", "options"), SYMMETRIC)
def test_weights_of_losses_of_any_size_are_finite(name, options, exponent):
    balancer = create_balancer(name, "abc", **options)
    for factors in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 5.0, 0.1]):
        assert find(balancer, torch.tensor(factors) * 10.0**exponent).isfinite().all()


@pytest.mark.parametrize(("name", "options"), [case for case in SYMMETRIC if case[0] != "go4align"])
def test_weights_of_losses_of_very_different_size_are_finite(name, options):
    balancer = create_balancer(name, "abc", **options)
    for _ in range(3):
        assert find(balancer, torch.tensor([1e-30, 1.0, 1e30])).isfinite().all()


def test_go4align_says_when_its_weights_cannot_be_represented():
    with pytest.raises(BalancingError, match="go4align"):
        weigh("go4align", torch.tensor([1e-30, 1.0, 1e30]))
    assert weigh("go4align", double([1e-30, 1.0, 1e30])).isfinite().all()


@pytest.mark.parametrize(("name", "options"), [*SYMMETRIC, *((name, {}) for name in METHODS)])
def test_one_objective_is_trained_alone(name, options):
    balancer = create_balancer(name, ["only"], **options)
    for value in (2.0, 1.0, 1.0):
        w = find(balancer, double([value]))
        assert w.shape == (1,)
        assert w.isfinite().all()
        assert w > 0


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("rlw", "single", "alternating", "tchebycheff")]
)
def test_equal_losses_get_equal_weights(name):
    balancer = create_balancer(name, "abc")
    for value in (2.0, 1.0, 1.5):
        w = find(balancer, torch.full((3,), value))
        torch.testing.assert_close(w, w[:1].expand(3))


@pytest.mark.parametrize("name", ["power_mean", "geometric", "imtl_l", "igb", "go4align", "cov_weighting", "relobralo"])
def test_a_zero_loss_is_named(name):
    with pytest.raises(BalancingError, match=rf"{name}.*'b'.*positive"):
        find(create_balancer(name, "ab"), double([1, 0]))


def test_dwa_names_a_loss_whose_mean_is_zero():
    balancer = create_balancer("dwa", "ab", window=1)
    with pytest.raises(BalancingError, match=r"dwa.*'b'"):
        find(balancer, double([1, 0]))


@pytest.mark.parametrize("name", ["tchebycheff", "stch", "pbi", "cosmos", "famo", "group_dro", "softadapt"])
def test_a_zero_loss_is_allowed(name):
    assert find(create_balancer(name, "ab"), double([1, 0])).isfinite().all()


@pytest.mark.parametrize(
    ("name", "options"), [*SYMMETRIC, ("rlw", {}), ("cosmos", {"alpha": 0.7}), ("dwa", {}), ("igb", {})]
)
def test_a_fresh_balancer_goes_on_where_another_stopped(name, options):
    history = torch.rand(9, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    balancer = create_balancer(name, "abc", **options)
    for t, losses in enumerate(history[:5]):
        find(balancer, losses)
        if t % 2:
            balancer.next_epoch()
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = create_balancer(name, "abc", seed=99, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for t, losses in enumerate(history[5:]):
        assert torch.equal(find(fresh, losses), find(balancer, losses))
        if t % 2:
            fresh.next_epoch()
            balancer.next_epoch()


def test_cosmos_remembers_a_ray_that_was_drawn():
    balancer = create_balancer("cosmos", "ab", alpha=1.0)
    ray = balancer.draw()
    fresh = create_balancer("cosmos", "ab", alpha=1.0, seed=9)
    fresh.load_state_dict(balancer.state_dict())
    assert torch.equal(fresh.draw(), ray)


def test_famo_remembers_what_it_is_to_compare_with():
    balancer = create_balancer("famo", "ab")
    find(balancer, double([2, 3]))
    fresh = create_balancer("famo", "ab")
    fresh.load_state_dict(balancer.state_dict())
    for one in (balancer, fresh):
        with torch.no_grad():
            one.update(double([1, 3]))
    assert torch.equal(fresh.logits.grad, balancer.logits.grad)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("single", {"objective": "x"}),
        ("scheduled", {"shape": "sine"}),
        ("scheduled", {"unit": "hour"}),
        ("scheduled", {"start": {"a": -1.0}}),
        ("scheduled", {"end": {"a": 0.0, "b": 0.0}}),
        ("scheduled", {"begin": -1}),
        ("scheduled", {"length": 0}),
        ("scheduled", {"length": {"x": 3}}),
        ("scheduled", {"weight_ema": 0.5}),
        ("alternating", {"order": ["a"]}),
        ("alternating", {"order": ["a", "b", "x"]}),
        ("alternating", {"period": 0}),
        ("alternating", {"unit": "hour"}),
        ("power_mean", {"gamma": math.nan}),
        ("power_mean", {"log_losses": True}),
        ("dwa", {"temperature": 0.0}),
        ("dwa", {"window": 0}),
        ("rlw", {"update_every": 2}),
        ("imtl_l", {"init": "random"}),
        ("tchebycheff", {"ideal": {"x": 1.0}}),
        ("stch", {"form": "square"}),
        ("stch", {"mu": 0.0}),
        ("stch", {"form": "log", "ideal": {"a": 1.0}}),
        ("stch", {"form": "log", "log_losses": True}),
        ("stch", {"form": "log", "nadir": {"a": 1.0}}),
        ("stch", {"form": "log", "nadir": {"a": 1.0, "b": 0.0}}),
        ("stch", {"nadir": {"a": 1.0, "b": 1.0}}),
        ("stch", {"warmup": -1}),
        ("stch", {"measure": 0}),
        ("stch", {"unit": "hour"}),
        ("pbi", {"theta": -1.0}),
        ("cosmos", {"penalty": -1.0}),
        ("cosmos", {"alpha": 0.0}),
        ("famo", {"gamma": -1.0}),
        ("famo", {"lower": {"x": 1.0}}),
        ("igb", {"window": 0}),
        ("go4align", {"groups": 0}),
        ("go4align", {"eta": -1.0}),
        ("group_dro", {"eta": 0.0}),
        ("relobralo", {"temperature": 0.0}),
        ("relobralo", {"alpha": 1.5}),
        ("relobralo", {"keep": -0.5}),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_the_method(name, options):
    with pytest.raises(ValueError, match=name):
        create_balancer(name, ("a", "b"), **options)
