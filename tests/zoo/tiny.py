"""A tiny instance of every model, with random inputs and simple losses: a line in ``TINY``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo

Inputs = tuple[Tensor, ...]


def squared(model, inputs, phase):
    """Squared distance of each output of ``phase`` from targets that disagree."""
    outputs = model.heads(model.features(*inputs))
    return {name: (outputs[name] - 1 - k).square().mean() for k, name in enumerate(phase.objectives)}


def adversarial(model, inputs, phase):
    """The losses of the player whose turn it is."""
    (real,) = inputs
    labels = torch.arange(len(real)) % model.classes
    fake = model.generate(model.noise(len(real)), labels)
    if phase.name == "generator":
        outputs = model(fake)
        losses = {name: F.softplus(-outputs[name]).mean() for name in model.adversarial}
        return losses | {"fake_class": F.cross_entropy(outputs["fake_class"], labels)}
    outputs, forged = model(real), model(fake.detach())
    return {
        "real_fake": (F.softplus(-outputs["real_fake"]) + F.softplus(forged["real_fake"])).mean(),
        "real_class": F.cross_entropy(outputs["real_class"], labels),
    }


def residuals(model, inputs, phase):
    """An equation with second derivatives at points, and values at others."""
    with torch.enable_grad():
        points = inputs[0].detach().requires_grad_()
        u, v = (model(points)[name] for name in ("u", "v"))
        (slopes,) = torch.autograd.grad(u.sum(), points, create_graph=True)
        (curvature,) = torch.autograd.grad(slopes[:, :1].sum(), points, create_graph=True)
        losses = {"equation": (curvature[:, :1] + slopes[:, 1:] + u * v).square().mean()}
        return losses | {"boundary": (model(1 - inputs[0])["u"] - 1).square().mean()}


@dataclass(frozen=True)
class Tiny:
    """What it takes to try a model.

    Args:
        shapes: Of its inputs, without the batch.
        arguments: For ``create_model``.
        losses: The losses of a phase, from model, inputs and phase.
        make: Makes a batch of the inputs, if these are not numbers of any size.
        needs: Package without which the model cannot be built.
    """

    shapes: tuple[tuple[int, ...], ...]
    arguments: dict[str, Any]
    losses: Callable[..., dict[str, Tensor]] = squared
    make: Callable[[int], Inputs] | None = None
    needs: str = ""

    def inputs(self, size: int) -> Inputs:
        """A batch of random inputs."""
        return self.make(size) if self.make else tuple(torch.randn(size, *shape) for shape in self.shapes)


def table(**arguments):
    return Tiny(((4,),), {"in_features": 4, "classifiers": {"a": 3}, "regressors": {"b": 1, "c": 2}, **arguments})


def maps(**arguments):
    every = {"maps": ("segmentation", "depth", "normals"), "segmentation_classes": 4}
    return Tiny(((3, 32, 32),), {"in_channels": 3, **every, **arguments})


def pictures(size, **arguments):
    heads = {"classifiers": {"a": 3, "b": 2}, "regressors": {"c": 1}}
    return Tiny(((1, size, size),), {"in_channels": 1, **heads, **arguments})


def views(**arguments):
    sizes = {"in_features": 6, "in_channels": 1, "classes": 3, "linear_width": 8, "conv_width": 2, "conv_depth": 2}
    return Tiny(((6,), (1, 8, 6)), {**sizes, **arguments})


def atoms(size):
    """Chains of 3 to 6 atoms, bonded to their neighbours."""
    there = torch.arange(6) < torch.randint(3, 7, (size, 1))
    numbers = torch.tensor([1, 6, 7, 8, 9])[torch.randint(5, (size, 6))] * there
    positions = (torch.arange(6)[:, None] + 0.3 * torch.randn(size, 6, 3)) * there[:, :, None]
    pairs = there[:, :, None] & there[:, None] & ((torch.arange(6)[:, None] - torch.arange(6)).abs() == 1)
    return numbers, positions, pairs.to(torch.uint8)


TINY = {
    "chained": Tiny(
        ((6,),),
        {"in_features": 6, "in_channels": 1, "image_size": 8, "classes": 3}
        | {"linear_width": 8, "conv_width": 2, "conv_depth": 2},
    ),
    "conditioned": table(width=8, depth=2, hidden=4),
    "conditioned_lenet": pictures(12, image_size=12, channels=(2, 3), kernels=(3, 3), width=4, hidden=4),
    "cross_stitch": table(width=8, depth=2),
    "cross_stitch_resnet18": pictures(32, classifiers={"a": 3}, regressors={"b": 1}),
    "cross_stitch_timm": pictures(32, backbone="test_resnet", regressors={}),
    "dense": maps(encoder="test_resnet", width=8),
    "dense_deeplab": maps(encoder="test_resnet"),
    "dense_mtan": maps(width=4),
    "dense_mtan_original": maps(width=4),
    "dense_resnet18": maps(maps=("segmentation", "depth"), width=8),  # eleven million parameters: two rows of them
    "dense_segnet": maps(width=4),
    "dense_vit": maps(encoder="test_vit", image_size=(32, 32), dim=8, attention_heads=2, width=8),
    "dual_separate": views(),
    "dual_sum": views(),
    "esmm": Tiny(((4,),), {"in_features": 4, "classifiers": {"a": 1, "b": 1, "c": 1}, "width": 8, "depth": 1}),
    "gan": Tiny(
        ((1, 8, 8),),
        {"in_channels": 1, "image_size": 8, "classes": 2, "latent": 4, "width": 4, "discriminators": 2},
        adversarial,
    ),
    "gan_points": Tiny(((2,),), {"in_features": 2, "classes": 2, "latent": 4, "width": 8, "depth": 2}, adversarial),
    "molecules": Tiny(
        ((6,), (6, 3)),
        {"classifiers": {"a": 3}, "regressors": {"b": 1, "c": 2}, "width": 8, "channels": 4, "bumps": 4},
        make=lambda size: atoms(size)[:2],
    ),
    "molecules_nnconv": Tiny(
        ((6,), (6, 3), (6, 6)),
        {"classifiers": {"a": 3}, "regressors": {"b": 1, "c": 2}, "width": 4, "hidden": 4},
        make=atoms,
        needs="torch_geometric",
    ),
    "mmoe": table(width=8, depth=1, experts=2),
    "mmoe_resnet18": pictures(32, regressors={}, experts=2),
    "mmoe_timm": pictures(32, backbone="test_resnet", experts=2),
    "pinn": Tiny(
        ((2,),),
        {"lower": [-3.0, -3.0], "upper": [3.0, 3.0], "fields": ["u", "v"], "objectives": ["equation", "boundary"]}
        | {"width": 8, "depth": 2},
        residuals,
    ),
    "ple": table(width=8, depth=1),
    "ple_resnet18": pictures(32, classifiers={"a": 3}, regressors={"b": 1}),
    "ple_timm": pictures(32, backbone="test_resnet", regressors={}),
    "shared_trunk": table(width=8, depth=2),
    "shared_trunk_cnn": pictures(8, channels=(2, 3), width=4),
    "shared_trunk_lenet": pictures(12, image_size=12, channels=(2, 3), kernels=(3, 3), width=4),
    "shared_trunk_resnet18": pictures(32, regressors={}),
    "shared_trunk_timm": pictures(32, backbone="test_resnet"),
}


#: Classes that stand under another name as well, with millions of parameters: what takes long is shown with the other alone.
VARIANTS = ("cross_stitch_resnet18", "dense_resnet18", "mmoe_resnet18", "ple_resnet18", "shared_trunk_resnet18")
#: Classes made of the parts of others, of which those are shown.
ALIKE = ("dense_mtan_original", "mmoe_timm", "ple_timm")
#: Those whose graphs take the longest, of the kinds of operations that others have.
LONG = ("dense_deeplab", "dense_mtan", "dense_vit", "molecules_nnconv")


def _parameters(slow: Sequence[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in zoo.list_models()]


MODELS = _parameters((*VARIANTS, *ALIKE))
GRAPHS = _parameters((*VARIANTS, *ALIKE, *LONG))


def tiny(name: str) -> Tiny:
    """The entry of ``TINY``; the test is skipped if there is none."""
    if name not in TINY:
        pytest.skip(f"{name}: no line in tests/zoo/tiny.py")
    if TINY[name].needs:
        pytest.importorskip(TINY[name].needs)
    return TINY[name]


def build(name: str, **options: Any) -> torch.nn.Module:
    """The tiny model, always with the same weights."""
    torch.manual_seed(0)
    return zoo.create_model(name, **(tiny(name).arguments | options))
