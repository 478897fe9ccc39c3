"""The preference that a conditioned model reads: what it may be, and that it moves along a front."""

import pytest
import torch

from balancing import PreferenceModel, create_balancer
from tests.zoo.tiny import build, tiny

NAMES = ("conditioned", "conditioned_lenet")


@pytest.fixture(params=NAMES)
def model(request):
    return build(request.param)


def modulated(name):
    """A model whose modulation no longer starts at nothing."""
    model = build(name).eval()
    torch.nn.init.normal_(model.trunk.modulation[-1].weight)
    return model


def test_a_preference_is_given_by_name_by_tensor_or_not_at_all(model):
    assert isinstance(model, PreferenceModel)
    assert not isinstance(build("shared_trunk"), PreferenceModel)
    equal = torch.full((3,), 1 / 3)
    torch.testing.assert_close(model.preference, equal)
    first = model.objectives[0]
    model.set_preference({first: 2})  # others: 1
    torch.testing.assert_close(model.preference, torch.tensor([0.5, 0.25, 0.25]))
    model.set_preference(torch.tensor([0.0, 30.0, 10.0]))
    torch.testing.assert_close(model.preference, torch.tensor([0.0, 0.75, 0.25]))
    model.set_preference()
    torch.testing.assert_close(model.preference, equal)
    assert not any("preference" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("preference", "problem"),
    [
        ({"d": 1.0}, "conditioned: the preference names 'd', but the objectives are a, b, c"),
        ({"a": -1.0}, r"must be finite and at least 0, with a positive sum, got \[-1.0, 1.0, 1.0\]"),
        ({"a": float("nan")}, "at least 0"),
        ({"a": float("inf")}, "positive sum"),
        (torch.zeros(3), "positive sum"),
        (torch.ones(2), r"has 3 numbers, got the shape \(2,\)"),
    ],
)
def test_other_preferences_are_refused_and_change_nothing(preference, problem):
    model = build("conditioned")
    before = model.preference.clone()
    with pytest.raises(ValueError, match=problem):
        model.set_preference(preference)
    assert torch.equal(model.preference, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_preference_changes_the_outputs_and_starts_without_effect(name):
    inputs = tiny(name).inputs(4)
    for model, same in ((build(name).eval(), True), (modulated(name), False)):
        first = model(*inputs)
        model.set_preference({"a": 5.0})
        second = model(*inputs)
        assert all(torch.equal(first[key], second[key]) is same for key in first)


def test_a_larger_reach_moves_the_outputs_farther():
    moves = []
    for reach in (0.1, 1.0):
        torch.manual_seed(0)
        model, (x,) = build("conditioned", reach=reach).eval(), tiny("conditioned").inputs(4)
        torch.nn.init.normal_(model.trunk.modulation[-1].weight, generator=torch.Generator().manual_seed(1))
        first = model(x)["a"]
        model.set_preference({"a": 5.0})
        moves.append(float((model(x)["a"] - first).detach().abs().mean()))
    assert moves[1] > 3 * moves[0] > 0
    with pytest.raises(ValueError, match="conditioned: reach must be positive, got 0"):
        build("conditioned", reach=0)


def test_a_graph_may_take_the_preference_as_an_input():
    """As docs/conditioned.md shows."""
    model, (x,) = modulated("conditioned"), tiny("conditioned").inputs(4)

    class WithPreference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, preference):
            return torch.func.functional_call(self.model, {"preference": preference}, (x,))

    batch = torch.export.Dim("batch", min=1, max=64)
    preference = torch.tensor([0.2, 0.3, 0.5])
    shapes = {"x": {0: batch}, "preference": None}
    graph = torch.export.export(WithPreference(), (x, preference), dynamic_shapes=shapes).module()
    for each in (preference, torch.tensor([0.8, 0.1, 0.1])):
        model.set_preference(each)
        torch.testing.assert_close(dict(graph(x, each)), dict(model(x)))


@pytest.mark.parametrize(
    ("method", "options"), [("preference_sampling", {}), ("cosmos", {"alpha": 1.0, "penalty": 0.01})]
)
def test_one_network_learns_a_front(method, options):
    """One output is to be x and -x: the least weighted sum has a slope of r_a - r_b."""
    torch.manual_seed(0)
    model = build("conditioned", classifiers={}, regressors={"a": 1, "b": 1}, in_features=1, depth=1, hidden=16)
    balancer = create_balancer(method, model.objectives, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)

    def losses(x):
        output = model(x)["a"]
        return {"a": (output - x).square().mean(), "b": (output + x).square().mean()}

    for _ in range(300):
        optimizer.zero_grad()
        model.set_preference(balancer.draw())
        balancer.backward(losses(torch.randn(64, 1)))
        optimizer.step()
    x = torch.randn(500, 1)
    for share in (0.1, 0.5, 0.9):
        model.set_preference({"a": share, "b": 1 - share})
        with torch.no_grad():
            slope = float((model(x)["a"] * x).mean() / x.square().mean())
        assert abs(slope - (2 * share - 1)) < 0.15
