"""Cross-stitch, mixture of experts, progressive layered extraction: options and sharing."""

import pytest
import torch

import balancing
from balancing.measuring.leaves import find_leaves
from zoo.cross_stitch import CrossStitch
from zoo.mmoe import MMoE
from zoo.ple import PLE

MODELS = {"cross_stitch": CrossStitch, "mmoe": MMoE, "ple": PLE}

HEADS = [
    ({"a": 3}, {}),
    ({"a": 3}, {"b": 2}),
    ({"a": 3, "b": 2}, {"c": 1, "shared": 1}),
]
VARIANTS = [
    *(("cross_stitch", {"width": 6, "depth": depth}) for depth in (1, 2, 3)),
    *(("mmoe", {"width": 6, "depth": 1, "experts": count, "tower_depth": count % 2}) for count in (1, 2, 3)),
    *(
        ("ple", {"width": 6, "depth": 1, "levels": levels, "own_experts": own, "tower_depth": own - 1})
        for levels in (1, 2, 3, 4)
        for own in (1, 2)
    ),
]


def make(name, classifiers=None, regressors=None, **arguments):
    torch.manual_seed(0)
    classifiers = {"a": 3} if classifiers is None else classifiers
    regressors = {"b": 2} if regressors is None else regressors
    return MODELS[name](4, classifiers, regressors, **arguments)


def losses(model, features):
    return {name: output.square().mean() for name, output in model.heads(features).items()}


@pytest.fixture(params=VARIANTS, ids=lambda variant: f"{variant[0]}-{'-'.join(map(str, variant[1].values()))}")
def variant(request):
    return request.param


@pytest.mark.parametrize("heads", HEADS, ids=["one", "two", "four"])
def test_declared_parameters_are_those_the_graph_shows(variant, heads):
    name, arguments = variant
    model = make(name, *heads, **arguments)
    values = losses(model, model.features(torch.randn(5, 4)))
    masks = find_leaves([values[key] for key in model.objectives])
    assert set(masks) == set(model.parameters())
    shared, own = model.shared_parameters(), [model.objective_parameters(key) for key in model.objectives]
    assert set(shared) == {p for p, mask in masks.items() if mask.bit_count() > 1}
    for index, parameters in enumerate(own):
        assert set(parameters) == {p for p, mask in masks.items() if mask == 1 << index}
    listed = [*shared, *(p for parameters in own for p in parameters)]
    assert len(listed) == len(set(listed)) == len(masks)
    networks = [p for network in model.networks().values() for p in network.parameters()]
    assert len(networks) == len(set(networks)) == len(masks)


@pytest.mark.parametrize("categories", [(), (3, 2)], ids=["numbers", "categories"])
def test_gradients_through_the_features_are_those_of_the_sum(variant, categories):
    """With categories the inputs of the experts have gradients too."""
    name, arguments = variant
    model = make(name, **arguments, categories=categories)
    inputs = [torch.randn(5, 4), *([torch.randint(2, (5, 2))] if categories else [])]
    sum(losses(model, model.features(*inputs)).values()).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    features = model.features(*inputs)
    # a method that measures gradients, with weights of one
    balancer = balancing.create_balancer("mgda", model.objectives, at="features")
    balancer.compute_weights = lambda values, gramian: torch.ones_like(values)
    balancer.backward(losses(model, features), features=features, shared=model.shared_parameters())
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_objectives_meet_in_the_features(variant):
    name, arguments = variant
    model = make(name, **arguments)
    features = model.features(torch.randn(5, 4))
    report = balancing.create_balancer("pcgrad", model.objectives, at="features").backward(
        losses(model, features), features=features
    )
    assert report.cosines[0, 1].abs() > 1e-6  # both read the same tensor


@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_heads(name):
    model = make(name, {}, {f"r{i}": i + 1 for i in range(5)}, width=8)
    outputs = model(torch.randn(6, 4))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {f"r{i}": (6, i + 1) for i in range(5)}


def test_towers_that_keep_to_themselves_are_separate_networks():
    model = make("cross_stitch", own=1.0, width=8)
    losses(model, model.features(torch.randn(5, 4)))["a"].backward()
    for layer in model.layers:
        assert all(p.grad.abs().sum() > 0 for p in layer.tower["a"].parameters())
        assert all((p.grad == 0).all() for p in layer.tower["b"].parameters())


def test_mixes_start_as_means_that_favour_their_own_tower():
    for classifiers in ({"a": 2}, {"a": 2, "c": 2, "d": 2}):
        model = make("cross_stitch", classifiers, own=0.7)
        for mix in model.mixes:
            for index, key in enumerate(model.objectives):
                torch.testing.assert_close(mix[key].sum(0), torch.ones(128))
                torch.testing.assert_close(mix[key][index], torch.full((128,), 0.7))


def test_equal_experts_make_the_gates_idle():
    model = make("mmoe", experts=3, width=8).eval()
    for expert in model.experts[1:]:
        expert.load_state_dict(model.experts[0].state_dict())
    x = torch.randn(6, 4)
    outputs = model(x)
    torch.testing.assert_close(outputs["a"], model.head["a"](model.experts[0](x)))


def test_a_gate_chooses_for_each_sample():
    model = make("mmoe", experts=2, width=8, tower_depth=0).eval()
    with torch.no_grad():
        model.gate["a"].weight.copy_(torch.tensor([[100.0, 0, 0, 0], [-100.0, 0, 0, 0]]))
        model.gate["a"].bias.zero_()
    x = torch.tensor([[1.0, 2, 3, 4], [-1.0, 2, 3, 4]])
    chosen = torch.stack([model.experts[0](x)[0], model.experts[1](x)[1]])
    torch.testing.assert_close(model(x)["a"], model.head["a"](chosen))


def test_own_experts_of_the_last_level_serve_their_objective_alone():
    model = make("ple", width=8).eval()
    x = torch.randn(5, 4)
    before = model(x)
    with torch.no_grad():
        for p in model.levels[-1].own["a"].parameters():
            p.add_(1.0)
    after = model(x)
    assert not torch.equal(before["a"], after["a"])
    assert torch.equal(before["b"], after["b"])


def test_own_experts_below_the_last_level_serve_all():
    model = make("ple", width=8).eval()
    x = torch.randn(5, 4)
    before = model(x)
    with torch.no_grad():
        for p in model.levels[0].own["a"].parameters():
            p.add_(1.0)
    after = model(x)
    assert not torch.equal(before["a"], after["a"])
    assert not torch.equal(before["b"], after["b"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"depth": 0},
        {"dropout": 1.0},
        {"classifiers": {"a": 0}},
        {"classifiers": {}, "regressors": {}},
        {"classifiers": {"x": 2}, "regressors": {"x": 1}},
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_impossible_sizes_are_refused(name, wrong):
    with pytest.raises(ValueError, match=name):
        make(name, **wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("cross_stitch", {"own": 1.1}),
        ("mmoe", {"experts": 0}),
        ("mmoe", {"tower_depth": -1}),
        ("ple", {"levels": 0}),
        ("ple", {"shared_experts": 0}),
        ("ple", {"own_experts": 0}),
        ("ple", {"tower_depth": -1}),
    ],
)
def test_impossible_options_are_refused(name, wrong):
    with pytest.raises(ValueError, match=name):
        make(name, **wrong)
