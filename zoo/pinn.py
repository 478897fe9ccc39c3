"""Physics-informed network: an MLP from coordinates to smooth fields.

The losses are residuals of equations, with derivatives of the fields with respect to the coordinates, and of initial and
boundary conditions. They come from a task, and all of them are about the same parameters.

    x (B, D) -> to [-1, 1] -> cosine and sine of random frequencies -> [Linear -> tanh] x depth -> Linear -> trial -> fields
                              (with ``fourier``)                                                                      u (B, 1)

With ``trial``, conditions hold exactly whatever the weights are ("hard"): u = g + d N, where N is the network, g fulfils the
conditions and d is zero where they hold.
Shared parameters: all. Features for ``at="features"``: none that would do, as the derivatives depend on the trunk directly.
Origin: M. Raissi, P. Perdikaris, G. Karniadakis, "Physics-informed neural networks", J. Comput. Phys. 378, 2019 (arXiv:
1711.10561). Trial solutions: I. Lagaris, A. Likas, D. Fotiadis, IEEE Trans. Neural Networks 9, 1998 (arXiv:physics/9705023).
Random frequencies: M. Tancik et al., NeurIPS 2020 (arXiv:2006.10739); for such networks S. Wang, H. Wang, P. Perdikaris, CMAME
384, 2021 (arXiv:2012.10047). Periodic inputs: S. Dong, N. Ni, J. Comput. Phys. 435, 2021 (arXiv:2007.07442).

    model = create_model("pinn", lower=[-1, 0], upper=[1, 1], fields=["u"], objectives=["equation", "initial", "boundary"])
    u = model(points)["u"]                                           # points (B, 2) -> (B, 1)
    (u_x_t,) = torch.autograd.grad(u.sum(), points, create_graph=True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least
from zoo.registry import ModelInfo, register_model

Fields = dict[str, Tensor]
Features = tuple[Tensor, Tensor]


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Sine of every number."""
        return torch.sin(x)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "sin": _Sine, "silu": nn.SiLU, "gelu": nn.GELU}


def _burgers(points: Tensor, network: Fields) -> Fields:
    """u = -sin(pi x) at t = 0, and 0 at x = -1 and x = 1."""
    x, t = points.split(1, 1)
    return {"u": -torch.sin(math.pi * x) + t * (1 - x * x) * network["u"]}


def _helmholtz(points: Tensor, network: Fields) -> Fields:
    """u = 0 at the sides of the square from -1 to 1."""
    x, y = points.split(1, 1)
    return {"u": (1 - x * x) * (1 - y * y) * network["u"]}


def _advection(points: Tensor, network: Fields) -> Fields:
    """u = sin(x) at t = 0; that u is periodic in x follows from ``periodic``."""
    x, t = points.split(1, 1)
    return {"u": torch.sin(x) + t * network["u"]}


def _lid_cavity(points: Tensor, network: Fields) -> Fields:
    """u = v = 0 at the walls of the unit square, and u near 1 at the lid, but in its corners.

    u of the lid is 1 - exp(-50 x) - exp(-50 (1 - x)) up to 1e-21, which no longer jumps.
    """
    x, y = points.split(1, 1)
    walls = 16 * x * (1 - x) * y * (1 - y)
    lid = y * y * (1 - torch.exp(-50 * x)) * (1 - torch.exp(50 * (x - 1)))
    return {**network, "u": lid + walls * network["u"], "v": walls * network["v"]}


def _lid_cavity_stream(points: Tensor, network: Fields) -> Fields:
    """psi with psi_x = psi_y = 0 at the walls, and psi_y near 1 at the lid, but in its corners.

    psi_y of the lid is a(x) a(1 - x), a(x) = x^2 / (x^2 + 0.02^2). Below the lid the change from wall to lid is as wide as the
    lid is far, as in the flow itself; with a width that is the same everywhere, the equations have to undo much more.
    """
    x, y = points.split(1, 1)
    walls = 16 * x * (1 - x) * y * (1 - y)
    left, right, above = x.square(), (1 - x).square(), (1 - y).square() + 4e-4
    lid = left / (left + above) * right / (right + above)
    return {**network, "psi": lid * y * y * (y - 1) + walls.square() * network["psi"]}


_TRIALS: dict[str, tuple[tuple[str, ...], Callable[[Tensor, Fields], Fields]]] = {
    "burgers": (("u",), _burgers),
    "helmholtz": (("u",), _helmholtz),
    "advection": (("u",), _advection),
    "lid_cavity": (("u", "v", "p"), _lid_cavity),
    "lid_cavity_stream": (("psi", "p"), _lid_cavity_stream),
}


class _Inputs(nn.Module):
    """What the first layer reads: coordinates that are scaled, on circles, or in waves.

    A coordinate in ``periodic`` becomes cosine and sine. The frequencies are drawn once and stored with the weights.
    """

    lower: Tensor
    upper: Tensor
    frequencies: Tensor

    def __init__(
        self, lower: Sequence[float], upper: Sequence[float], periodic: Sequence[int], fourier: int, scale: float
    ) -> None:
        super().__init__()
        self.register_buffer("lower", torch.tensor([float(value) for value in lower]), persistent=False)
        self.register_buffer("upper", torch.tensor([float(value) for value in upper]), persistent=False)
        self.circles = tuple(k for k in range(len(lower)) if k in periodic)
        self.lines = tuple(k for k in range(len(lower)) if k not in periodic)
        numbers = len(self.lines) + 2 * len(self.circles)
        self.fourier = fourier
        if fourier:
            self.register_buffer("frequencies", scale * torch.randn(numbers, fourier))
        self.width = 2 * fourier or numbers

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, width)."""
        scaled = 2 * (x - self.lower) / (self.upper - self.lower) - 1
        if self.circles:
            angles = math.pi * scaled[:, self.circles]
            scaled = torch.cat([scaled[:, self.lines], angles.cos(), angles.sin()], 1)
        if not self.fourier:
            return scaled
        phases = math.pi * scaled @ self.frequencies
        return torch.cat([phases.cos(), phases.sin()], 1)


@register_model(
    "pinn",
    ModelInfo(
        summary="Physics-informed MLP from coordinates to fields, whose losses hold derivatives",
        inputs="x (B, D), coordinates",
        objectives="equations, initial and boundary conditions of the task",
        default_task="burgers",
        origin="Raissi et al., J. Comput. Phys. 2019",
    ),
)
class PINN(BaseModel):
    """MLP from coordinates to fields.

    Args:
        lower: Smallest value of each coordinate.
        upper: Largest value of each coordinate.
        fields: Names of the outputs, (B, 1) each.
        objectives: Names of the losses, which the task computes.
        width: Units of every hidden layer.
        depth: Number of hidden layers, at least 1.
        activation: After each hidden layer.
        fourier: How many random frequencies the inputs are read with; 0: the coordinates themselves.
        fourier_scale: Their deviation, in periods over the width of the domain.
        trial: Conditions that the fields fulfil exactly, by the task that has them; ``None``: they are learned.
        periodic: Coordinates, from 0 on, in which the fields are periodic.
    """

    def __init__(
        self,
        lower: Sequence[float],
        upper: Sequence[float],
        fields: Sequence[str],
        objectives: Sequence[str],
        width: int = 48,
        depth: int = 4,
        activation: Literal["tanh", "sin", "silu", "gelu"] = "tanh",
        fourier: int = 0,
        fourier_scale: float = 1.0,
        trial: Literal["burgers", "helmholtz", "advection", "lid_cavity", "lid_cavity_stream"] | None = None,
        periodic: Sequence[int] = (),
    ) -> None:
        check_at_least("pinn", 1, width=width, depth=depth)
        check_at_least("pinn", 0, fourier=fourier)
        if not lower or len(lower) != len(upper) or not all(a < b for a, b in zip(lower, upper, strict=True)):
            raise ValueError(f"pinn: lower must be below upper in each coordinate, got {[*lower]} and {[*upper]}")
        for what, names in (("fields", fields), ("objectives", objectives)):
            if not names or isinstance(names, str) or len(set(names)) < len(names):
                raise ValueError(f"pinn: {what} must be a list of different names, at least one, got {names!r}")
        if not fourier_scale > 0:
            raise ValueError(f"pinn: fourier_scale must be positive, got {fourier_scale}")
        if not all(0 <= k < len(lower) for k in periodic):
            raise ValueError(f"pinn: periodic must name coordinates from 0 to {len(lower) - 1}, got {[*periodic]}")
        if trial is not None and (set(_TRIALS[trial][0]) != set(fields) or len(lower) != 2):
            wanted = ", ".join(_TRIALS[trial][0])
            raise ValueError(f"pinn: trial={trial!r} is for the fields {wanted} of two coordinates, got {[*fields]}")
        super().__init__()
        self.objectives, self.fields, self.trial = tuple(objectives), tuple(fields), trial
        self.inputs = _Inputs(lower, upper, periodic, fourier, fourier_scale)
        layers: list[nn.Module] = []
        for a, b in pairwise([self.inputs.width] + [width] * depth):
            layers += [_layer(a, b), _ACTIVATIONS[activation]()]
        self.trunk = nn.Sequential(*layers)
        self.head = _layer(width, len(self.fields))

    def features(self, x: Tensor) -> Features:
        """(B, D) -> (B, width) of the last hidden layer, and the coordinates for ``trial``."""
        return self.trunk(self.inputs(x)), x

    def heads(self, features: Features) -> Fields:
        """Features -> (B, 1) of each field."""
        hidden, points = features
        network = dict(zip(self.fields, self.head(hidden).split(1, 1), strict=True))
        return network if self.trial is None else _TRIALS[self.trial][1](points, network)

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """None, as every loss is about the whole network."""
        return []

    def networks(self) -> dict[str, nn.Module]:
        """The hidden layers and the last one, for an optimizer each."""
        return {"trunk": self.trunk, "head": self.head}


def _layer(inputs: int, outputs: int) -> nn.Linear:
    """Glorot's normal weights, which keep the variance of derivatives, and biases of 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
