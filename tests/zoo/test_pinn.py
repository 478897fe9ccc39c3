"""The physics-informed network: inputs, options, and what is stored and exported of it."""

import math

import pytest
import torch

import zoo

BOX = {"lower": [0.0, 0.0], "upper": [2 * math.pi, 1.0], "fields": ["u"], "objectives": ["equation", "initial"]}


def make(**arguments):
    torch.manual_seed(0)
    return zoo.create_model("pinn", **{**BOX, "width": 8, "depth": 2, **arguments})


def test_coordinates_are_scaled_to_the_box():
    corners = torch.tensor([[0.0, 0.0], [2 * math.pi, 1.0], [math.pi, 0.5]])
    torch.testing.assert_close(make().inputs(corners), torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]))
    circled = make(periodic=[0]).inputs(corners)
    torch.testing.assert_close(circled, torch.tensor([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]))


def test_random_frequencies_have_the_scale_that_was_asked_for():
    model = make(fourier=2000, fourier_scale=3.0)
    assert model.inputs.frequencies.std().item() == pytest.approx(3, rel=0.05)
    waves = model.inputs(torch.rand(5, 2))
    assert waves.shape == (5, 4000)
    torch.testing.assert_close(waves[:, :2000] ** 2 + waves[:, 2000:] ** 2, torch.ones(5, 2000))
    model.inputs.frequencies.copy_(torch.tensor([[1.0], [0.0]]))
    line = torch.tensor([0, 0.5 * math.pi, math.pi, 2 * math.pi])  # a frequency of 1: one period from edge to edge
    waves = model.inputs(torch.stack([line, torch.rand(4)], 1))
    torch.testing.assert_close(waves[:, 0], torch.tensor([-1.0, 0.0, 1.0, -1.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "sin", "silu", "gelu"])
def test_derivatives_are_those_of_differences(activation):
    model, h = make(activation=activation, fourier=4, trial="advection", periodic=[0]).double(), 1e-4
    points = (torch.rand(6, 2, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    (slopes,) = torch.autograd.grad(model(points)["u"].sum(), points, create_graph=True)
    (curvatures,) = torch.autograd.grad(slopes[:, 0].sum(), points)
    step = torch.tensor([h, 0.0], dtype=torch.float64)
    high, middle, low = (model(points + k * step)["u"][:, 0] for k in (1, 0, -1))
    torch.testing.assert_close(slopes[:, 0], (high - low) / (2 * h), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(curvatures[:, 0], (high - 2 * middle + low) / h**2, rtol=1e-4, atol=1e-5)


def test_conditions_and_frequencies_are_stored_and_exported(tmp_path):
    model, points = make(fourier=3, trial="advection", periodic=[0]), torch.rand(4, 2)
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    other = type(model).from_pretrained(tmp_path)
    assert torch.equal(other(points)["u"], model(points)["u"])
    start = points * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(other(start)["u"], torch.sin(start[:, :1]))
    graph = torch.export.export(model, (points,), dynamic_shapes=[{0: torch.export.Dim("batch", min=1, max=64)}])
    more = torch.rand(7, 2)
    torch.testing.assert_close(graph.module()(more)["u"], model(more)["u"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"depth": 0},
        {"fourier": -1},
        {"fourier_scale": 0.0},
        {"lower": [1.0, 1.0]},
        {"lower": [0.0]},
        {"lower": [], "upper": []},
        {"fields": []},
        {"fields": ["u", "u"]},
        {"objectives": "equation"},
        {"activation": "relu"},
        {"periodic": [2]},
        {"trial": "lid_cavity"},
        {"trial": "heat"},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"pinn: .*{next(iter(wrong))}"):
        make(**wrong)
