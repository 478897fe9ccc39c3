"""Encoders and backbones of timm: sizes that fit, weights from a file, and one message for what cannot be."""

import logging

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from zoo import create_model

MAPS = {"depth": {"kind": "depth"}, "border": {"kind": "binary"}}


def dense(**options):
    return create_model("dense", **{"maps": MAPS, "width": 4, **options})


def pooled(**options):
    sizes = {"in_channels": 3, "classifiers": {"a": 2}, "regressors": {}}
    return create_model("shared_trunk_timm", **{**sizes, "backbone": "test_resnet", **options})


@pytest.mark.parametrize("encoder", ["test_vit", "test_mambaout", "swin_tiny_patch4_window7_224", "levit_128s"])
def test_encoders_for_one_size_are_made_for_that_of_the_images(encoder):
    if not timm.is_model(encoder):
        pytest.skip(f"this timm has no {encoder}")
    model = dense(encoder=encoder, image_size=[40, 70]).eval()
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 40, 70))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "depth": (1, 1, 40, 70),
        "border": (1, 1, 40, 70),
    }


def test_an_encoder_of_any_size_is_the_same_with_and_without_a_size():
    models = []
    for size in (None, [40, 70]):
        torch.manual_seed(0)
        models.append(dense(encoder="test_resnet", image_size=size).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(models[0].values(), models[1].values(), strict=True))


def test_a_size_that_does_not_fit_is_refused_with_sizes_that_do():
    with pytest.raises(ValueError, match=r"'nest_tiny' cannot take images of 96 x 128 pixels .*these fit: .*224 x 224"):
        dense(encoder="nest_tiny", image_size=[96, 128])
    with pytest.raises(ValueError, match="image_size must be height and width"):
        dense(encoder="test_resnet", image_size=[96])


def test_maps_of_an_encoder_without_padding_are_complete():
    model = dense(encoder="legacy_xception").eval()
    with torch.no_grad():
        depth = model(torch.randn(1, 3, 96, 128))["depth"]
    assert depth.shape == (1, 1, 96, 128)


@pytest.mark.parametrize("make", [dense, pooled])
def test_names_of_pages_on_the_hub(make):
    key = "encoder" if make is dense else "backbone"
    for start in ("timm/", "hf-hub:timm/"):
        make(**{key: f"{start}test_resnet.r160_in1k"})
    with pytest.raises(ValueError, match=r"download its weights, name the architecture"):
        make(**{key: "hf-hub:somebody/resnet18-of-mine"})


@pytest.mark.parametrize("make", [dense, pooled])
def test_weights_of_a_file(make, tmp_path):
    key = "encoder" if make is dense else "backbone"
    source = timm.create_model("test_resnet", in_chans=3)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = make(**{key: "test_resnet", "pretrained": True, "pretrained_file": str(tmp_path / "weights.pth")})
    found = {name: value for name, value in model.trunk.state_dict().items() if name.endswith("conv1.weight")}
    assert found
    wanted = {name: value for name, value in source.state_dict().items() if name.endswith("conv1.weight")}
    assert any(torch.equal(a, b) for a in found.values() for b in wanted.values() if a.shape == b.shape)
    with pytest.raises(ValueError, match="there is no file"):
        make(**{key: "test_resnet", "pretrained": True, "pretrained_file": str(tmp_path / "other.pth")})
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth has no weights of (encoder|backbone) 'test_resnet'"):
        make(**{key: "test_resnet", "pretrained": True, "pretrained_file": str(tmp_path / "other.pth")})


@pytest.mark.parametrize("make", [dense, pooled])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("test_resnet", "cannot be fetched .*check the network, or give a file: pretrained_file="),
        ("test_resnet.nobody_in1k", r"has no weights 'nobody_in1k'; it has r160_in1k"),
        ("resnet14t", "timm has no weights for .*set pretrained=false"),
    ],
)
def test_weights_that_cannot_be_had_are_one_message(make, name, problem, monkeypatch):
    def offline(*arguments, **options):
        assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)  # of each attempt
        raise LocalEntryNotFoundError("cannot find the requested files in the disk cache")

    if not timm.is_model(name.partition(".")[0]) or (name == "resnet14t" and timm.list_pretrained("resnet14t.*")):
        pytest.skip("another timm")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", offline)
    key = "encoder" if make is dense else "backbone"
    with pytest.raises(ValueError, match=problem):
        make(**{key: name, "pretrained": True})
