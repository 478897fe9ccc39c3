"""The models for maps: sizes, subsets, encoders, and their gradients in a balancer."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from balancing import create_balancer
from balancing.measuring.leaves import find_leaves
from zoo import create_model
from zoo.dense import Dense, dense_resnet18
from zoo.dense_mtan import DenseMTAN
from zoo.dense_segnet import DenseSegNet, SegNet, _unpool

MAPS = ("segmentation", "depth", "normals")
BUILDERS = {
    "dense": lambda **arguments: Dense(**{"encoder": "test_resnet", "width": 8, **arguments}),
    "dense_segnet": lambda **arguments: DenseSegNet(**{"width": 4, **arguments}),
    "dense_mtan": lambda **arguments: DenseMTAN(**{"width": 4, **arguments}),
}


@pytest.fixture(params=BUILDERS)
def make(request):
    def build(**arguments):
        torch.manual_seed(0)
        return BUILDERS[request.param](**{"in_channels": 3, "maps": MAPS, "segmentation_classes": 5, **arguments})

    return build


def losses(outputs):
    return {name: (output - 0.3).square().mean() for name, output in outputs.items()}


@pytest.mark.parametrize("size", [(32, 64), (33, 47), (7, 20), (65, 5)])
@pytest.mark.parametrize("channels", [1, 4])
def test_maps_have_the_size_of_the_image(make, size, channels):
    outputs = make(in_channels=channels)(torch.randn(2, channels, *size))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "segmentation": (2, 5, *size),
        "depth": (2, 1, *size),
        "normals": (2, 3, *size),
    }


def test_depths_are_positive_and_normals_have_length_one(make):
    outputs = make()(3 * torch.randn(2, 3, 40, 40))
    assert outputs["depth"].min() > 0
    torch.testing.assert_close(outputs["normals"].norm(dim=1), torch.ones(2, 40, 40))


@pytest.mark.parametrize("maps", [("depth",), ("normals", "segmentation"), ["depth", "normals"]])
def test_any_subset_of_maps(make, maps):
    model = make(maps=maps, segmentation_classes=5 if "segmentation" in maps else None)
    assert model.objectives == tuple(maps) == tuple(model(torch.randn(2, 3, 16, 16)))
    assert bool(model.shared_parameters()) == (len(maps) > 1)
    own = [p for name in maps for p in model.objective_parameters(name)]
    assert set(own) | set(model.shared_parameters()) == set(model.parameters())


def test_the_original_segnet_starts_as_published_and_leaves_depths_alone():
    image = torch.randn(2, 3, 32, 32)
    original, ours = (DenseSegNet(3, ("depth", "normals"), width=8, original=flag) for flag in (True, False))
    assert sorted(original.state_dict()) == sorted(ours.state_dict())
    assert (original(image)["depth"] < 0).any()
    assert (ours(image)["depth"] > 0).all()
    torch.testing.assert_close(original(image)["normals"].norm(dim=1), torch.ones(2, 32, 32))
    for module in original.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            fans = (module.in_channels + module.out_channels) * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.1)
            assert module.bias is None or not module.bias.any()


def test_declared_parameters_are_those_the_graph_shows(make):
    model = make()
    masks = find_leaves(list(losses(model(torch.randn(2, 3, 33, 40))).values()))
    assert set(masks) == set(model.parameters())
    assert set(model.shared_parameters()) == {p for p, mask in masks.items() if mask.bit_count() > 1}
    for index, name in enumerate(model.objectives):
        assert set(model.objective_parameters(name)) == {p for p, mask in masks.items() if mask == 1 << index}


def test_gradients_that_stop_at_the_features_go_on_to_those_of_the_whole(make):
    model, image = make().eval(), torch.randn(2, 3, 33, 40)
    whole = torch.autograd.grad(sum(losses(model(image)).values()), model.shared_parameters())
    features = model.features(image)
    points = [features] if isinstance(features, torch.Tensor) else list(features)
    at_features = torch.autograd.grad(sum(losses(model.heads(features)).values()), points)
    torch.autograd.backward(points, at_features, inputs=model.shared_parameters())
    for parameter, expected in zip(model.shared_parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6)


def test_balancing_at_the_features(make):
    model = make()
    features = model.features(torch.randn(2, 3, 33, 40))
    report = create_balancer("mgda", objectives=MAPS, at="features").backward(
        losses(model.heads(features)), features=features
    )
    assert report.cosines.shape == (3, 3)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"maps": ()}, "maps must be"),
        ({"maps": ("depth", "edges")}, "edges"),
        ({"maps": ("depth", "depth")}, "different"),
        ({"maps": ("ground",)}, "for other names say what they are"),
        ({"maps": {}}, "at least one map"),
        ({"maps": {"a": {"kind": "dept"}}}, "maps.a.kind: did you mean depth"),
        ({"maps": {"a": {"kind": "classes"}}}, "maps.a needs classes"),
        ({"maps": {"a": {"kind": "depth", "classes": 3}}}, "cannot have classes"),
        ({"maps": {"a": {"kind": "depth", "scale": 3}}}, "cannot have scale"),
        ({"maps": {"keys": {"kind": "depth"}}}, "cannot be called 'keys'"),
        ({"segmentation_classes": None}, "segmentation_classes"),
        ({"width": 0}, "at least 1"),
        ({"in_channels": 0}, "at least 1"),
    ],
)
def test_impossible_maps_and_sizes_are_refused(make, wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)


OWN = {
    "ground": {"kind": "classes", "classes": 4},
    "walls": {"kind": "classes", "classes": 2},
    "height": {"kind": "depth"},
    "near": {"kind": "disparity"},
    "tilt": {"kind": "normals"},
    "border": {"kind": "binary"},
    "saliency": {"kind": "share"},
}


def test_maps_of_any_names_and_kinds(make):
    model = make(maps=OWN, segmentation_classes=None)
    outputs = model(3 * torch.randn(2, 3, 32, 40))
    assert model.objectives == tuple(OWN)
    channels = {"ground": 4, "walls": 2, "height": 1, "near": 1, "tilt": 3, "border": 1, "saliency": 1}
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        name: (2, size, 32, 40) for name, size in channels.items()
    }
    assert min(outputs["height"].min(), outputs["near"].min()) > 0
    assert min(outputs["border"].min(), outputs["saliency"].min()) < 0
    torch.testing.assert_close(outputs["tilt"].norm(dim=1), torch.ones(2, 32, 40))


FAMILIES = {
    "dense": {"encoder": "test_resnet", "width": 8},
    "dense_deeplab": {"encoder": "test_resnet"},
    "dense_mtan": {"width": 4},
    "dense_mtan_original": {"width": 4},
    "dense_segnet": {"width": 4},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_of_the_whole_image_beside_maps(name):
    torch.manual_seed(0)
    model = create_model(name, maps=("depth", "normals"), labels={"weather": 3, "age": 1}, **FAMILIES[name])
    image = torch.randn(2, 3, 32, 40)
    outputs = model(image)
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {
        "depth": (2, 1, 32, 40),
        "normals": (2, 3, 32, 40),
        "weather": (2, 3),
        "age": (2, 1),
    }
    assert model.objectives == tuple(outputs)
    masks = find_leaves(list(losses(outputs).values()))
    assert set(masks) == set(model.parameters())
    for index, key in enumerate(model.objectives):
        assert set(model.objective_parameters(key)) == {p for p, mask in masks.items() if mask == 1 << index}
    model.eval()
    features, shared = model.features(image), [p for p, mask in masks.items() if mask == 15]
    whole = torch.autograd.grad(sum(losses(model(image)).values()), shared)
    every = [features] if isinstance(features, torch.Tensor) else features
    points = [point for point in every if point.requires_grad]
    at_features = torch.autograd.grad(sum(losses(model.heads(features)).values()), points, allow_unused=True)
    used = [(point, grad) for point, grad in zip(points, at_features, strict=True) if grad is not None]
    torch.autograd.backward(*map(list, zip(*used, strict=True)), inputs=shared)
    for parameter, expected in zip(shared, whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"depth": 2}, "both called 'depth'"),
        ({"a b": 2}, "cannot be called 'a b'"),
        ({"age": 0}, "label 'age' must be"),
    ],
)
def test_impossible_labels_are_refused(make, labels, problem):
    with pytest.raises(ValueError, match=problem):
        make(labels=labels)


def test_maps_in_words_are_the_three_names(make):
    kinds = {
        "segmentation": {"kind": "classes", "classes": 5},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals"},
    }
    image, (old, new) = torch.randn(2, 3, 32, 32), (make(maps=maps).eval() for maps in (MAPS, kinds))
    assert all(torch.equal(a, b) for a, b in zip(old(image).values(), new(image).values(), strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_of_ones_own_are_stored_and_restored(name, tmp_path):
    options = FAMILIES[name]
    model = create_model(name, maps=OWN, segmentation_classes=None, labels={"age": 1}, **options).eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    image = torch.randn(1, 3, 32, 32)
    assert again.objectives == model.objectives
    assert all(torch.equal(a, b) for a, b in zip(model(image).values(), again(image).values(), strict=True))


@pytest.mark.parametrize("encoder", ["test_convnext", "test_efficientnet", "test_vit"])
def test_encoders_of_other_families(encoder):
    model = Dense(3, MAPS, 5, encoder, width=8)
    assert model(torch.randn(2, 3, 33, 47))["segmentation"].shape == (2, 5, 33, 47)


def test_an_unknown_encoder_is_refused_with_its_nearest_names():
    with pytest.raises(ValueError, match=r"did you mean .*resnet18"):
        Dense(3, MAPS, 5, "resnet_18")


def test_encoders_with_channels_last_are_turned():
    model = Dense(3, MAPS, 5, "test_resnet", width=8).eval()
    stages = model.trunk.encoder
    image = torch.randn(1, 3, 32, 32)
    expected = model(image)["depth"]

    class Turned(torch.nn.Module):
        def forward(self, x):
            return [stage.permute(0, 2, 3, 1) for stage in stages(x)]

    model.trunk.encoder, model.trunk.channels_last = Turned(), True
    assert torch.equal(model(image)["depth"], expected)


def test_pretrained_weights_go_to_the_encoder(monkeypatch):
    source = Dense(3, MAPS, 5, "test_resnet", 8).trunk.encoder
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, pretrained=False, **k: source if pretrained else real(*a, **k))
    model = Dense(3, MAPS, 5, "test_resnet", 8, pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(model.trunk.encoder.parameters(), source.parameters(), strict=True))


def test_resnet18_is_dense_with_that_encoder():
    model = dense_resnet18(3, ("depth",), width=8)
    assert [tuple(f.shape[1:]) for f in model.features(torch.randn(2, 3, 40, 64))] == [
        (16, 40, 64),
        *((64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)),
    ]


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_unpooling_puts_maxima_back(size):
    values = torch.randn(2, 3, *size)
    pooled, positions = F.max_pool2d(values, 2, ceil_mode=True, return_indices=True)
    back = _unpool(pooled, positions, size)
    assert torch.equal(back, F.max_unpool2d(pooled, positions, 2, output_size=size))
    assert torch.equal(F.max_pool2d(back.abs(), 2, ceil_mode=True), pooled.abs())


def test_segnet_has_the_convolutions_of_vgg16_twice():
    net = SegNet(3, 4)
    counts = [sum(isinstance(m, torch.nn.Conv2d) for m in half.modules()) for half in (net.encoder, net.decoder)]
    assert counts == [13, 13]
    assert net.widths == [4, 8, 16, 32, 32]


def test_attention_masks_are_between_zero_and_one():
    model, masks = DenseMTAN(3, MAPS, 5, width=4), []
    for attention in model.head.values():
        for mask in [*attention.down_masks, *attention.up_masks]:
            mask.register_forward_hook(lambda module, inputs, output: masks.append(output))
    model(torch.randn(2, 3, 32, 32))
    assert len(masks) == 3 * 10
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in masks)
