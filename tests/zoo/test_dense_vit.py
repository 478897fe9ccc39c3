"""Dense prediction by a transformer: encoders, sizes, and which map reads which tokens."""

import pytest
import torch

import zoo

TINY = {"maps": ("segmentation", "depth"), "segmentation_classes": 4, "dim": 8, "attention_heads": 2, "width": 8}


def make(**arguments):
    torch.manual_seed(0)
    return zoo.create_model("dense_vit", **{**TINY, "encoder": "test_vit", "image_size": (32, 48), **arguments}).eval()


@pytest.mark.parametrize(
    ("arguments", "stride"),
    [
        ({}, 16),  # one stride, so a stem gives all that is finer
        ({"patch_size": 8}, 8),
        ({"encoder": "test_resnet", "image_size": None}, 8),
        ({"encoder": "test_vit", "image_size": (29, 45)}, 16),  # no multiple of the patch
    ],
)
def test_maps_have_the_size_of_the_image(arguments, stride):
    model = make(**arguments)
    size = arguments.get("image_size") or (32, 48)
    assert model.trunk.stride == stride
    outputs = model(torch.randn(2, 3, *size))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "segmentation": (2, 4, *size),
        "depth": (2, 1, *size),
    }
    assert (outputs["depth"] > 0).all()


def test_maps_of_any_kind():
    kinds = {"ground": {"kind": "classes", "classes": 5}, "height": {"kind": "depth"}, "roof": {"kind": "binary"}}
    outputs = make(maps=kinds)(torch.randn(1, 3, 32, 48))
    assert {name: value.shape[1] for name, value in outputs.items()} == {"ground": 5, "height": 1, "roof": 1}


def test_encoders_that_take_any_size_take_other_ones():
    assert make()(torch.randn(1, 3, 64, 40))["depth"].shape == (1, 1, 64, 40)


def test_every_map_reads_the_tokens_of_all_maps():
    model = make(depth=0)
    *finer, tokens = model.features(torch.randn(2, 3, 32, 48))
    tokens = tokens.detach().requires_grad_()
    for name in model.objectives:
        (gradient,) = torch.autograd.grad(model.heads((*finer, tokens))[name].sum(), tokens)
        assert (gradient.abs().flatten(2).sum(2) > 0).all()  # (B, maps)


def test_blocks_before_the_last_are_shared():
    one, two = make(depth=0), make(depth=2)
    assert len(two.shared_parameters()) - len(one.shared_parameters()) == 2 * len(
        list(two.trunk.blocks[0].parameters())
    )


def test_other_sizes_are_refused_where_the_encoder_has_one():
    with pytest.raises(
        ValueError, match=r"made for images of 32 x 48 pixels, and got 64 x 48; .*image_size=\(64, 48\)"
    ):
        make(encoder="vit_tiny_patch16_224")(torch.randn(1, 3, 64, 48))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 0}, "cannot have patch_size=0"),
        ({"patch_size": 40}, "patch_size=40 is larger than an image of 32 x 48 pixels"),
        ({"encoder": "test_resnet", "patch_size": 8, "image_size": None}, "cannot have patch_size=8"),
        ({"dim": 9}, "dim must be a multiple of attention_heads, got 9 and 2"),
        ({"depth": -1}, "depth must be at least 0"),
        ({"attention_heads": 0}, "attention_heads must be at least 1"),
        ({"image_size": (32,)}, "image_size must be height and width"),
        ({"encoder": "test_vitt"}, "timm has no encoder 'test_vitt'"),
        ({"maps": ()}, "maps must be"),
    ],
)
def test_impossible_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"dense_vit: .*{message}"):
        make(**arguments)


def test_pretrained_weights_start_the_encoder(tmp_path):
    import safetensors.torch
    import timm

    source = timm.create_model("test_resnet")
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(source.state_dict(), file)
    model = make(encoder="test_resnet", image_size=None, pretrained=True, pretrained_file=str(file))
    assert torch.equal(model.trunk.encoder.conv1[0].weight, source.conv1[0].weight)


def test_labels_of_the_whole_image_beside_maps():
    options = {"encoder": "test_vit", "image_size": (32, 32), "dim": 8, "depth": 0, "width": 4}
    model = zoo.create_model("dense_vit", maps=("depth",), labels={"weather": 3}, **options).eval()
    assert model(torch.zeros(2, 3, 32, 32))["weather"].shape == (2, 3)
    model.train()(torch.rand(2, 3, 32, 32))["weather"].sum().backward()
    assert all(p.grad is not None for p in model.head["weather"].parameters())


def test_labels_read_the_maps_in_their_order():
    """So their weights are not those of a model with another order, which the name says to whoever moves weights."""
    labels, x = {"weather": 3}, torch.randn(2, 3, 32, 48)
    one, two = (make(maps=maps, labels=labels) for maps in (("segmentation", "depth"), ("depth", "segmentation")))
    two.load_state_dict(one.state_dict())
    expected, found = one(x), two(x)
    assert {name for name in expected if not torch.allclose(expected[name], found[name], atol=1e-5)} == {"weather"}
    assert two.ordered_by_objective == ("weather",)
    assert make().ordered_by_objective == ()
