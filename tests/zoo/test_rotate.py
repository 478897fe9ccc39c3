"""Models with a rotation before each head."""

import pytest
import torch

import zoo
from balancing import create_balancer
from tests.zoo.tiny import build, tiny

TURNING = [name for name in zoo.list_models() if "rotate" in zoo.model_arguments(name)]


@pytest.fixture(params=TURNING)
def name(request):
    tiny(request.param)
    return request.param


def turned(name, **options):
    """With rotations away from I of all features but one, where there are more than two."""
    plain = build(name, **options)
    width = plain.eval().features(*tiny(name).inputs(2)).shape[-1]
    model = build(name, rotate=max(width - 1, 2), **options)
    for angles in model.rotations.parameters():
        torch.nn.init.normal_(angles, std=3.0)
    return model


def test_it_is_the_model_without_until_something_turns(name):
    model, inputs = build(name, rotate=2).eval(), tiny(name).inputs(4)
    for key, output in build(name).eval()(*inputs).items():
        torch.testing.assert_close(model(*inputs)[key], output)
    other = turned(name).eval()(*inputs)
    assert all((other[key] - output).abs().max() > 1e-4 for key, output in model(*inputs).items())


def test_every_network_and_parameter_is_declared_once(name):
    model = turned(name)
    parts = [p for module in model.networks().values() for p in module.parameters()]
    assert set(parts) == set(model.parameters())
    assert len(parts) == len(set(parts))
    for key in model.objectives:
        assert model.rotations.angles[key] in set(model.objective_parameters(key))
    assert not {*model.rotations.parameters()} & {*model.shared_parameters()}


def test_a_step_moves_trunk_heads_and_rotations(name):
    model, inputs = turned(name), tiny(name).inputs(8)
    features = model.features(*inputs)
    outputs = model.heads(features)
    losses = {key: (outputs[key] - 1 - k).square().mean() for k, key in enumerate(model.objectives)}
    create_balancer("rotograd", model.objectives, at="features").backward(losses, features=features)
    for part in ("trunk", "heads", "rotations"):
        assert any(p.grad is not None and p.grad.any() for p in model.networks()[part].parameters()), part


def test_it_is_stored_and_exported(tmp_path):
    model, inputs = turned("shared_trunk").eval(), tiny("shared_trunk").inputs(4)
    outputs = model(*inputs)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    graph = torch.export.export(model, inputs, dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for key, output in outputs.items():
        torch.testing.assert_close(again(*inputs)[key], output, rtol=0, atol=0)
        torch.testing.assert_close(graph(*inputs)[key], output)


def test_a_compiled_trunk_gives_the_same_gradients():
    plain, inputs = turned("shared_trunk"), tiny("shared_trunk").inputs(4)
    compiled = turned("shared_trunk")
    compiled.features = torch.compile(compiled.features, backend="aot_eager")
    for model in (plain, compiled):
        features = model.features(*inputs)
        outputs = model.heads(features)
        losses = {key: (outputs[key] - 1 - k).square().mean() for k, key in enumerate(model.objectives)}
        balancer = create_balancer("rotograd", model.objectives, at="features")
        balancer.backward(losses, features=features, shared=model.shared_parameters())
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("rotate", [1, -2, 9])
def test_impossible_numbers_of_features_are_refused(rotate):
    with pytest.raises(ValueError, match="shared_trunk: rotate must be from 2 to the 8 features, or 0 for none"):
        build("shared_trunk", rotate=rotate)
