"""LeNet and timm backbones under any heads."""

import pytest
import timm
import torch

from zoo.image_trunk import LeNetTrunk, TimmTrunk, shared_trunk_resnet18

HEADS = {"classifiers": {"a": 3, "b": 2}, "regressors": {"c": 1}}
SHAPES = {"a": (2, 3), "b": (2, 2), "c": (2, 1)}


def shapes(model, *size):
    outputs = model.eval()(torch.randn(2, *size))
    return {name: tuple(output.shape) for name, output in outputs.items()}


def test_lenet_has_the_size_of_the_multi_mnist_experiments():
    model = LeNetTrunk(1, 36, {"top_left": 10, "bottom_right": 10}, {})
    assert sum(p.numel() for p in model.parameters()) == 31_910


@pytest.mark.parametrize(
    ("size", "channels", "kernels"), [(7, (4,), (3,)), (28, (10, 20), (9, 5)), (40, (4, 4, 4), (3, 3, 3))]
)
def test_lenet_of_any_size(size, channels, kernels):
    model = LeNetTrunk(2, size, **HEADS, channels=channels, kernels=kernels, width=8)
    assert shapes(model, 2, size, size) == SHAPES


def test_resnet18_takes_any_size():
    assert shapes(shared_trunk_resnet18(1, **HEADS), 1, 36, 50) == SHAPES


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet", "mobilenetv3_small_050"])
def test_any_backbone(backbone):
    model = TimmTrunk(1, **HEADS, image_size=32, backbone=backbone)
    assert shapes(model, 1, 32, 32) == SHAPES
    assert set(model.networks()) == {"trunk", "heads"}


def test_pretrained_weights_are_copied_into_the_trunk(monkeypatch, tmp_path):
    create, requested = timm.create_model, []

    def offline(name, pretrained=False, **options):
        requested.append(pretrained)
        made = create(name, **options)
        if pretrained:
            torch.nn.init.constant_(next(made.parameters()), 0.5)
        return made

    monkeypatch.setattr(timm, "create_model", offline)
    model = TimmTrunk(3, **HEADS, backbone="test_resnet", pretrained=True)
    assert any(requested)
    assert bool((next(model.trunk.parameters()) == 0.5).all())

    requested.clear()
    model.save_pretrained(tmp_path)
    restored = TimmTrunk.from_pretrained(tmp_path)  # not once more, as the stored weights replace them
    assert requested
    assert not any(requested)
    assert all(torch.equal(a, b) for a, b in zip(restored.parameters(), model.parameters(), strict=True))


def test_a_single_objective_owns_the_trunk():
    model = LeNetTrunk(1, 28, {"only": 2}, {})
    assert model.shared_parameters() == []
    assert set(model.objective_parameters("only")) == set(model.parameters())


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"image_size": 8}, "too small for kernels"),
        ({"channels": ()}, "a kernel for each"),
        ({"kernels": (3,)}, "a kernel for each"),
        ({"width": 0}, "at least 1"),
        ({"classifiers": {}, "regressors": {}}, "at least one objective"),
        ({"classifiers": {"c": 2}}, "different name"),
    ],
)
def test_impossible_arguments_are_refused(wrong, complaint):
    with pytest.raises(ValueError, match=f"shared_trunk_lenet.*{complaint}"):
        LeNetTrunk(**{"in_channels": 1, "image_size": 28, **HEADS, **wrong})


def test_unknown_backbones_are_suggested():
    with pytest.raises(ValueError, match="did you mean"):
        TimmTrunk(1, **HEADS, backbone="resnet81")
