"""Who reaches whom in the chained networks, and any size."""

import pytest
import torch

from zoo.chained import Chained


def make(**arguments):
    torch.manual_seed(0)
    return Chained(
        **{"in_features": 5, "in_channels": 1, "image_size": 9, "classes": 3, "linear_width": 8, "conv_width": 4}
        | arguments
    )


def reached(model, name):
    """The networks in which the loss of ``name`` leaves a gradient."""
    model.zero_grad()
    model(torch.randn(4, 5))[name].square().sum().backward()
    return {key for key, net in model.networks().items() if any(p.grad is not None for p in net.parameters())}


def test_class_loss_reaches_the_linear_net():
    model = make()
    assert reached(model, "class") == {"linear", "conv"}
    assert reached(model, "image") == {"linear"}
    assert set(model.shared_parameters()) == set(model.linear.parameters())


def test_detach_stops_it():
    model = make(detach=True)
    assert reached(model, "class") == {"conv"}
    assert model.shared_parameters() == []
    assert set(model.objective_parameters("image")) == set(model.linear.parameters())


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("depths", [(0, 1), (2, 4)])
def test_any_size_and_any_number_of_blocks(size, depths):
    model = make(image_size=size, in_channels=2, linear_depth=depths[0], conv_depth=depths[1])
    outputs = model(torch.randn(4, 5))
    assert outputs["image"].shape == (4, 2, size, size)
    assert outputs["class"].shape == (4, 3)
    assert torch.equal(outputs["image"], model.heads(outputs["image"])["image"])


@pytest.mark.parametrize("wrong", [{"conv_depth": 0}, {"linear_depth": -1}, {"classes": 0}, {"image_size": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="chained: "):
        make(**wrong)
