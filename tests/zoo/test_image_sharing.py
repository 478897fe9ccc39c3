"""Trunks of timm in stages; cross-stitch, mixture of experts and progressive layered extraction made of them."""

import pytest
import timm
import torch

import balancing
import zoo
from balancing.measuring.leaves import find_leaves
from zoo.timm_stages import timm_stages

HEADS = [({"a": 3}, {}), ({"a": 3, "b": 2}, {"c": 1})]
MAPS = {"maps": ("segmentation", "depth", "normals"), "segmentation_classes": 4}
VARIANTS = [
    ("cross_stitch_timm", {}),
    *(("mmoe_timm", {"experts": count, "expert_stages": count}) for count in (1, 2)),
    *(("ple_timm", {"levels": levels, "own_experts": own}) for levels, own in ((1, 2), (3, 1))),
]
NAMES = ("cross_stitch_timm", "mmoe_timm", "ple_timm")


def make(name, classifiers=None, regressors=None, **arguments):
    torch.manual_seed(0)
    heads = {
        "classifiers": {"a": 3} if classifiers is None else classifiers,
        "regressors": {"b": 2} if regressors is None else regressors,
    }
    return zoo.create_model(name, **{"in_channels": 1, "backbone": "test_resnet", **heads, **arguments})


def losses(model, features):
    return {name: output.square().mean() for name, output in model.heads(features).items()}


@pytest.fixture(params=VARIANTS, ids=lambda variant: f"{variant[0]}-{'-'.join(map(str, variant[1].values()))}")
def variant(request):
    return request.param


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_stages_in_turn_give_the_features_of_the_trunk(backbone):
    stages = timm_stages("us", backbone, 1, None).eval()
    whole = timm.create_model(backbone, in_chans=1, features_only=True).eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), stages.state_dict().values(), strict=True)))
    x = torch.randn(2, 1, 64, 64)
    expected = whole(x)
    assert stages.widths == [output.shape[1] for output in expected]
    for stage, output in zip(stages, expected, strict=True):
        x = stage(x)
        torch.testing.assert_close(x, output)


def test_stages_of_a_plain_transformer_give_its_tokens():
    torch.manual_seed(0)
    stages, x = timm_stages("us", "test_vit", 1, 32).eval(), torch.randn(2, 1, 32, 32)
    torch.manual_seed(0)
    expected = timm.create_model("test_vit", in_chans=1, img_size=32, num_classes=0).eval().forward_features(x)
    for stage in stages:
        x = stage(x)
    assert len(stages) == 4
    torch.testing.assert_close(x.transpose(1, 2), expected)


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_every_pixel_is_read(backbone):
    """Also of an image that is no multiple of the patch."""
    image = torch.randn(2, 1, 36, 36, requires_grad=True)
    make("mmoe_timm", backbone=backbone, image_size=36).eval()(image)["a"].sum().backward()
    unread = image.grad.abs().sum((0, 1)) == 0
    assert not unread.all(0).any()
    assert not unread.all(1).any()


def test_a_trunk_that_is_no_list_of_layers_is_refused():
    with pytest.raises(ValueError, match="us: backbone 'xcit_nano_12_p8_224' cannot be cut into stages"):
        timm_stages("us", "xcit_nano_12_p8_224", 1, None)
    with pytest.raises(ValueError, match=r"us: backbone 'hrnet_w18_small' cannot .* pixels \((?!.*img_size)"):
        timm_stages("us", "hrnet_w18_small", 1, 36)  # for a reason that is not the size


@pytest.mark.parametrize(
    ("name", "part"), [("cross_stitch_timm", "mixes"), ("mmoe_timm", None), ("ple_timm", "shared_gate")]
)
def test_weights_with_a_place_for_each_objective_are_named(name, part):
    """All others are found by the objective's name, whatever the order."""
    one, two = (make(name, classifiers, {}) for classifiers in ({"a": 3, "b": 2}, {"b": 2, "a": 3}))
    for tensor in one.parameters():
        tensor.data += 0.1 * torch.randn_like(tensor)
    two.load_state_dict(one.state_dict())
    x = torch.randn(3, 1, 32, 32)
    expected, found = one.eval()(x), two.eval()(x)
    assert all(torch.allclose(expected[key], found[key], atol=1e-5) for key in "ab") == (part is None)
    assert two.ordered_by_objective == (() if part is None else (part,))
    if part is not None:
        with torch.no_grad():
            for key, tensor in two.state_dict().items():
                if part in key.split("."):  # two places for each objective's mix, and its expert and a shared one
                    tensor.copy_(tensor.flip(0) if part == "mixes" else tensor[[1, 0, 2]])
        torch.testing.assert_close(two(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("maps", [{}, MAPS], ids=["pooled", "maps"])
@pytest.mark.parametrize("heads", HEADS, ids=["one", "three"])
def test_declared_parameters_are_those_the_graph_shows(variant, heads, maps):
    name, arguments = variant
    model = make(name, *heads, **arguments, **maps)
    values = losses(model, model.features(torch.randn(3, 1, 32, 32)))
    masks = find_leaves([values[key] for key in model.objectives])
    assert set(masks) == set(model.parameters())
    assert set(model.shared_parameters()) == {p for p, mask in masks.items() if mask.bit_count() > 1}
    for index, key in enumerate(model.objectives):
        assert set(model.objective_parameters(key)) == {p for p, mask in masks.items() if mask == 1 << index} or (
            len(model.objectives) == 1
        )
    networks = [p for network in model.networks().values() for p in network.parameters()]
    assert len(networks) == len(set(networks)) == len(masks)


@pytest.mark.parametrize("maps", [{}, MAPS], ids=["pooled", "maps"])
def test_gradients_through_the_features_are_those_of_the_sum(variant, maps):
    name, arguments = variant
    model, x = make(name, **arguments, **maps).eval(), torch.randn(3, 1, 32, 32)
    sum(losses(model, model.features(x)).values()).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    features = model.features(x)
    # a method that measures gradients, with weights of one
    balancer = balancing.create_balancer("mgda", model.objectives, at="features")
    balancer.compute_weights = lambda values, gramian: torch.ones_like(values)
    balancer.backward(losses(model, features), features=features, shared=model.shared_parameters())
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [*zip(NAMES, ("test_resnet", "test_vit", "test_convnext"), strict=True), (NAMES[0], "test_vit")],
)
def test_maps_have_the_size_of_any_image(name, backbone):
    """Of feature maps, of tokens, and beside a head for the whole image."""
    size = (33, 40) if backbone == "test_vit" else None
    model = make(name, regressors={}, backbone=backbone, image_size=size, **MAPS).eval()
    image = torch.randn(2, 1, 33, 40)
    with torch.no_grad():
        outputs, rows = model(image), model.sharing(image)
        one = model(image[:1])
    shapes = {key: tuple(value.shape[1:]) for key, value in outputs.items()}
    assert shapes == {"segmentation": (4, 33, 40), "depth": (1, 33, 40), "normals": (3, 33, 40), "a": (3,)}
    assert (outputs["depth"] > 0).all()
    torch.testing.assert_close(outputs["normals"].norm(dim=1), torch.ones(2, 33, 40))
    assert all(sum(row.values()) == pytest.approx(1, abs=1e-5) for row in rows.values())
    for key, value in one.items():
        torch.testing.assert_close(value, outputs[key][:1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_of_maps_are_saved_compiled_and_exported(name, tmp_path):
    model, image = make(name, **MAPS), torch.randn(4, 1, 32, 32)
    model(image)  # statistics of a batch
    model.eval().save_pretrained(tmp_path)
    restored = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model(image)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        program = torch.export.export(model, (image,), dynamic_shapes=[{0: torch.export.Dim("batch", min=1, max=64)}])
        torch.testing.assert_close(restored(image), expected, rtol=0, atol=0)
        torch.testing.assert_close(dict(compiled(image)), dict(expected))
        torch.testing.assert_close(program.module()(image[:3]), {key: value[:3] for key, value in expected.items()})


def test_gates_choose_what_decoders_read():
    """A map is that of an expert which its gate takes alone, in every stage that experts have."""
    model = make("mmoe_timm", {}, {}, experts=2, expert_stages=2, **MAPS).eval()
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        model.gate["depth"].weight.zero_()
        model.gate["depth"].bias.copy_(torch.tensor([0.0, 1e4]))
        before = model(image)
        for parameter in model.experts[0].parameters():
            parameter.mul_(2)
        after = model(image)
    torch.testing.assert_close(after["depth"], before["depth"])
    assert not torch.allclose(after["segmentation"], before["segmentation"])


def test_towers_that_keep_to_themselves_are_separate_networks():
    model = make("cross_stitch_timm", own=1.0)
    losses(model, model.features(torch.randn(3, 1, 32, 32)))["a"].backward()
    assert sum(p.grad.abs().sum() for p in model.towers["a"].parameters()) > 0
    assert all((p.grad == 0).all() for p in model.towers["b"].parameters())


def test_equal_experts_make_the_gates_idle():
    model = make("mmoe_timm", experts=3).eval()
    for expert in model.experts[1:]:
        expert.load_state_dict(model.experts[0].state_dict())
    x = torch.randn(3, 1, 32, 32)
    alone = model.experts[0](model.stem(x)).mean((2, 3))
    torch.testing.assert_close(model(x)["a"], model.head["a"](alone))


def test_own_experts_of_the_last_level_serve_their_objective_alone():
    model = make("ple_timm").eval()
    x = torch.randn(3, 1, 32, 32)
    before = model(x)
    with torch.no_grad():
        for p in model.levels[-1].own["a"].parameters():
            p.add_(1.0)
    after = model(x)
    assert not torch.equal(before["a"], after["a"])
    assert torch.equal(before["b"], after["b"])


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_a_row_sum_to_one(name):
    rows = make(name).eval().sharing(torch.randn(3, 1, 32, 32))
    assert rows
    for row in rows.values():
        assert sum(row.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["cross_stitch_timm", "cross_stitch"])
def test_own_share_stands_under_its_own_name(name):
    heads = {"classifiers": {"b": 3}, "regressors": {"a": 1}}  # not in alphabetical order
    inputs = {"in_features": 4} if name == "cross_stitch" else {"in_channels": 1, "backbone": "test_resnet"}
    rows = zoo.create_model(name, **heads, **inputs, own=0.8).sharing(torch.randn(2, 4))
    for key, row in rows.items():
        assert row[key[-1]] == pytest.approx(0.8)


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_weights_start_every_copy(name, tmp_path):
    import safetensors.torch

    file = tmp_path / "model.safetensors"
    source = timm.create_model("test_resnet", in_chans=1)
    safetensors.torch.save_file(source.state_dict(), file)
    model = make(name, pretrained=True, pretrained_file=str(file))
    last = [
        p for key, p in model.named_parameters() if p.shape == source.layer4[0].conv1.weight.shape and "head" not in key
    ]
    equal = [p for p in last if torch.equal(p, source.layer4[0].conv1.weight)]
    assert len(equal) == {"cross_stitch_timm": 2, "mmoe_timm": 3, "ple_timm": 3}[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbone": "xcit_nano_12_p8_224", "image_size": 36}, "not for images of 36 pixels"),
        ({"backbone": "resnet_18"}, "timm has no backbone"),
        ({"in_channels": 0}, "in_channels must be at least 1"),
    ],
)
def test_impossible_trunks_are_refused(name, wrong, message):
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        make(name, **wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("cross_stitch_timm", {"own": 1.1}, "own must be in"),
        ("mmoe_timm", {"experts": 0}, "experts must be at least 1"),
        ("mmoe_timm", {"expert_stages": 5}, r"expert_stages must be in 1 ... 4"),
        ("ple_timm", {"levels": 0}, r"levels must be in 1 ... 4"),
        ("ple_timm", {"own_experts": 0}, "own_experts must be at least 1"),
        ("ple_timm", {"decoder_width": 0, **MAPS}, "decoder_width must be at least 1"),
        ("mmoe_timm", {"maps": ("segmentation",)}, "segmentation needs segmentation_classes"),
        ("mmoe_timm", {"maps": {"a": {"kind": "depth"}}}, "a map and another objective are both called 'a'"),
        ("cross_stitch_timm", {"image_size": (32,)}, "image_size must be a side, or height and width"),
    ],
)
def test_impossible_options_are_refused(name, wrong, message):
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        make(name, **wrong)
