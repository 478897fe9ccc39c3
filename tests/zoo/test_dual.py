"""What the dual networks train, share and are judged on."""

import pytest
import torch

from tasks import Batch
from tasks.two_view_fashion import TwoViewFashion
from zoo.dual import Dual, dual_separate, dual_sum

SIZES = {"in_features": 6, "in_channels": 2, "classes": 10, "linear_width": 8, "conv_width": 4}


def views(height=5, width=9):
    torch.manual_seed(0)
    return torch.randn(4, 6), torch.randn(4, 2, height, width)


def losses_of(model):
    labels = torch.arange(4)
    return TwoViewFashion().losses(model, Batch(views(), dict.fromkeys(model.objectives, labels)), "train")[0]


@pytest.mark.parametrize("build", [dual_sum, dual_separate])
def test_fused_is_the_sum_of_the_branches(build):
    outputs = build(**SIZES)(*views())
    assert set(outputs) == {"fused", "left", "right"}
    torch.testing.assert_close(outputs["fused"], outputs["left"] + outputs["right"])


@pytest.mark.parametrize(
    ("options", "trained"),
    [("all", ("fused", "left", "right")), ("fused", ("fused",)), ("branches", ("left", "right"))],
)
def test_only_what_is_trained_has_a_loss_and_a_gradient(options, trained):
    model = Dual(**SIZES, losses=options)
    assert model.phases[0].objectives == trained
    assert set(losses_of(model)) == set(trained)
    outputs = model(*views())
    assert {name for name, output in outputs.items() if output.requires_grad} == set(trained)


def test_separate_networks_share_nothing():
    model = dual_separate(**SIZES)
    assert model.shared_parameters() == []
    losses_of(model)["left"].backward()
    assert all(p.grad is not None for p in model.linear.parameters())
    assert all(p.grad is None for p in model.conv.parameters())
    assert [model.objective_parameters(name) for name in model.objectives] == [
        [],
        list(model.linear.parameters()),
        list(model.conv.parameters()),
    ]


def test_all_parameters_are_contested_in_the_sum_unless_it_is_alone():
    assert set((model := dual_sum(**SIZES)).shared_parameters()) == set(model.parameters())
    alone = dual_sum(**SIZES, auxiliary=False)
    assert alone.shared_parameters() == []
    assert set(alone.objective_parameters("fused")) == set(alone.parameters())


@pytest.mark.parametrize("size", [(1, 1), (7, 30)])
def test_any_size_and_any_number_of_blocks(size):
    model = dual_sum(**SIZES, linear_depth=0, conv_depth=5)
    assert model(*views(*size))["fused"].shape == (4, 10)


@pytest.mark.parametrize("wrong", [{"losses": "some"}, {"classes": 0}, {"conv_depth": 0}, {"linear_depth": -1}])
def test_impossible_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="dual: "):
        Dual(**SIZES | wrong)
