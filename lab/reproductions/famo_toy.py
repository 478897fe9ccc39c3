"""The two-dimensional toy of CAGrad, Nash-MTL, FAMO and Aligned-MTL.

    f1 = log(max(|0.5 (-x - 7) - tanh(-y)|, 5e-6)) + 6        g1 = ((-x + 7)^2 + 0.1 (-y - 8)^2) / 10 - 20
    f2 = log(max(|0.5 (-x + 3) + tanh(-y) + 2|, 5e-6)) + 6    g2 = ((-x - 7)^2 + 0.1 (-y - 8)^2) / 10 - 20
    L1 = 0.1 (c1 f1 + c2 g1),  L2 = c1 f2 + c2 g2,            c1 = max(tanh(y / 2), 0), c2 = max(tanh(-y / 2), 0)

in single precision with Adam, 1e-3. The papers print ``-tanh(-y)`` in f2 and other starting points than their code has;
what stands here is the code's. At (0, 0) both gates are exactly at their bound, where ``torch.clamp`` had the derivative 1
until torch 2.13 and has 0 since, with which no method ever leaves that point: the published runs need the 1.
PCGrad, CAGrad and Nash-MTL get gradients of length 1 at most, as in FAMO's code; ``*_unclipped`` are those of Nash-MTL's.

A step of autograd takes longer than all else here, so derivatives are written out (a test compares them), and the starting
points move in one batch, each with a balancer of its own, which gets losses and the Gramian of their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from balancing import LossBalancer, create_balancer

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
STEPS, EVERY = 50_000, 200
SCALE = (0.1, 1.0)
#: Method -> its options. The lower bounds of FAMO are those of its code.
OPTIONS: dict[str, dict[str, Any]] = {"cagrad": {"c": 0.4}, "famo": {"gamma": 0.0, "lower": {"L1": -2.1, "L2": -21.0}}}


def losses(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) points -> (N, 2) losses and (N, 2, 2) gradients, in the same precision."""
    x, y = points[:, :1], points[:, 1:]
    side, scale = np.array([-1, 1], points.dtype), np.array(SCALE, points.dtype)
    gate, wave = np.tanh(0.5 * y), np.tanh(y)
    c1, c2 = np.maximum(gate, 0), np.maximum(-gate, 0)
    slope1, slope2 = (0.5 * (1 - gate**2) * sign * (sign * gate >= 0) for sign in (1, -1))
    inner = 0.5 * (-2 + 5 * side - x) - side * wave + (1 + side)
    size = np.maximum(np.abs(inner), 5e-6)
    inside = np.where(np.abs(inner) >= 5e-6, np.sign(inner) / size, 0)
    f = np.log(size) + 6
    g = ((x + 7 * side) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
    by_x = c1 * -0.5 * inside + c2 * (x + 7 * side) / 5
    by_y = slope1 * f - c1 * side * (1 - wave**2) * inside + slope2 * g + c2 * 0.02 * (y + 8)
    return scale * (c1 * f + c2 * g), scale[:, None] * np.stack([by_x, by_y], axis=-1)


def trace(method: str, clip: float | None = None, steps: int = STEPS) -> np.ndarray:
    """The way of every start: (1 + steps / EVERY, 5, 2) points."""
    balancers: list[Any] = [create_balancer(method, ("L1", "L2"), **OPTIONS.get(method, {})) for _ in STARTS]
    own = [each for balancer in balancers for each in balancer.parameters()]
    levels = torch.optim.Adam(own, lr=0.025) if own else None
    points = np.array(STARTS, np.float32)
    mean, square = np.zeros_like(points), np.zeros_like(points)
    path = [points]
    with torch.no_grad():
        for step in range(1, steps + 1):
            values, jacobians = losses(points)
            gramians = torch.from_numpy(jacobians @ jacobians.mT).double()
            loss_values = torch.from_numpy(values).double()
            weights = [
                each.compute_weights(*((value,) if isinstance(each, LossBalancer) else (value, gramian)))
                for each, value, gramian in zip(balancers, loss_values, gramians, strict=True)
            ]
            gradient = (torch.stack(weights).float().numpy()[:, None] @ jacobians)[:, 0]
            if clip is not None:
                gradient *= np.minimum(clip / (np.linalg.norm(gradient, axis=1, keepdims=True) + 1e-6), 1)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            points = points - 1e-3 / (1 - 0.9**step) * mean / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            if levels is not None:
                for balancer, value in zip(balancers, torch.from_numpy(losses(points)[0]).double(), strict=True):
                    balancer.update(value)
                levels.step()
                levels.zero_grad()
            if step % EVERY == 0:
                path.append(points)
    return np.stack(path)


def front(count: int = 20_001) -> tuple[np.ndarray, np.ndarray]:
    """The Pareto set, (count, 2) points, and the front, (count, 2) losses.

    The minimum in x is 7 (2 w - 1), that in y is bisected.
    """
    w = np.linspace(0, 1, count)
    low, high = np.full(count, -9.0), np.full(count, -8.0)
    for _ in range(60):
        y = (low + high) / 2
        gate = np.tanh(-y / 2)
        height = 19.6 * w * (1 - w) + 0.01 * (y + 8) ** 2 - 20
        slope = -0.5 * (1 - gate**2) * height + gate * 0.02 * (y + 8)
        low, high = np.where(slope < 0, y, low), np.where(slope < 0, high, y)
    points = np.stack([7 * (2 * w - 1), (low + high) / 2], axis=1)
    return points, losses(points)[0]


def distances(points: np.ndarray) -> np.ndarray:
    """How far the losses at (N, 2) points are from the front, a chain of short straight lines."""
    _, chain = front()
    start, way = chain[:-1], np.diff(chain, axis=0)
    shortest = []
    for value in losses(points.astype(float))[0]:
        share = np.clip(((value - start) * way).sum(1) / (way**2).sum(1), 0, 1)
        shortest.append(np.linalg.norm(start + share[:, None] * way - value, axis=1).min())
    return np.array(shortest)


def run(method: str, clip: float | None, steps: int, seed: int, folder: Path) -> dict[str, float]:
    """End points of a method, which also writes ``path.npy``. Nothing here is random."""
    path = trace(method, clip, steps)
    np.save(folder / "path.npy", path)
    far = distances(path[-1])
    results = {"runs on the front": float((far < 1e-3).sum())}
    for start, end, distance in zip(STARTS, path[-1], far, strict=True):
        results |= {f"x from {start}": float(end[0]), f"y from {start}": float(end[1])}
        results |= {f"distance from {start}": float(distance)}
    return results


#: Method -> title of its panel, largest length of a gradient, and steps; in the order in which the methods appeared.
METHODS: dict[str, tuple[str, float | None, int]] = {
    "sum": ("equal weights", None, STEPS),
    "mgda": ("MGDA", None, STEPS),
    "pcgrad": ("PCGrad", 1.0, STEPS),
    "cagrad": ("CAGrad", 1.0, STEPS),
    "imtl_g": ("IMTL-G", None, STEPS),
    "nash_mtl": ("Nash-MTL", 1.0, 35_000),
    "aligned_mtl": ("Aligned-MTL", None, STEPS),
    "famo": ("FAMO", None, STEPS),
    "upgrad": ("UPGrad", None, 35_000),
    "pcgrad_unclipped": ("PCGrad, not clipped", None, 35_000),
    "cagrad_unclipped": ("CAGrad, not clipped", None, 35_000),
}
RUNS = {
    f"famo_toy_{name}": partial(run, name.removesuffix("_unclipped"), clip, steps)
    for name, (_, clip, steps) in METHODS.items()
}


# ---- the figure ------------------------------------------------------------------------------------------------------

EDGE = 12.0
GOOD, BAD, PARETO = "#111827", "#be123c", "#d97706"


def draw(paths: Mapping[str, Path]) -> Figure:
    """The ways of all methods on the mean of both losses, with the Pareto set.

    Args:
        paths: Name of the experiment -> its ``path.npy``.
    """
    line = np.linspace(-EDGE, EDGE, 121)
    grid = np.stack(np.meshgrid(line, line), axis=-1)
    values = losses(grid.reshape(-1, 2))[0].reshape(*grid.shape)
    best, _ = front(201)
    figure = Figure(figsize=(9.6, 7.6), layout="constrained")
    axes = figure.subplots(3, 4).ravel()
    for panel, (name, (title, *_)) in zip(axes, METHODS.items(), strict=False):
        panel.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xticks=[], yticks=[], aspect="equal")
        for spine in panel.spines.values():
            spine.set_color("#cbd5e1")
        panel.imshow(values.mean(-1), extent=(-EDGE, EDGE) * 2, origin="lower", cmap="Blues_r", alpha=0.45, zorder=0)
        panel.plot(*best.T, color=PARETO, linewidth=4, solid_capstyle="round")
        path = np.load(paths[f"famo_toy_{name}"])
        stuck = distances(path[-1]) > 1e-3
        for way, failed in zip(path.swapaxes(0, 1), stuck, strict=True):
            panel.plot(*way.T, color=BAD if failed else GOOD, linewidth=1.3)
            panel.plot(*way[0], "o", color="white", markeredgecolor=GOOD, markersize=5)
            panel.plot(*way[-1], "X" if failed else "*", color=BAD if failed else GOOD, markersize=8)
        panel.set_title(title, fontsize=10.5, weight="bold")
        panel.set_xlabel(f"{int((~stuck).sum())} of {len(STARTS)} on the front", fontsize=9.5, color="#374151")
    legend = [
        Line2D([], [], color=PARETO, linewidth=4, label="Pareto set"),
        Line2D([], [], color="white", marker="o", markeredgecolor=GOOD, label="start"),
        Line2D([], [], color=GOOD, marker="*", label="ends on the front"),
        Line2D([], [], color=BAD, marker="X", label="ends elsewhere"),
    ]
    for panel in axes[len(METHODS) :]:
        panel.axis("off")
    axes[-1].legend(handles=legend, loc="center", frameon=False)
    return figure
