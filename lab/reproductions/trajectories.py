"""The two trajectory problems of the paper on Jacobian descent, with TorchJD's end points.

    EWQ, element-wise quadratic:   f(x) = (x_1^2, x_2^2)                           50 steps of 0.075
    CQF, convex quadratic forms:   f_i(x) = (x - u_i)' B_i B_i' (x - u_i)          500 steps of 0.05
        B_1 = R(pi/16) diag(1, 0.1), B_2 = R(-pi/16) diag(sqrt 3, 0.1), u = (1, 0), (-1, 0);  R(a) rotates by a

Plain gradient descent. The paper prints figures only; ``trajectories.json`` holds the end points of its library, TorchJD 0.18,
with the settings of the figures, but in double precision, and for UPGrad and DualProj with a regularization of 1e-11: that of
the figures, 1e-7, moves an end of UPGrad on CQF by 0.005, away from the path that it shares with PCGrad at half the step, and
in single precision AlignedMTL takes nearly parallel gradients for parallel ones, and goes elsewhere.
Two ends are left out. From (0, -3), where one gradient is zero, TorchJD's CAGrad does not move though the other loss could
fall. From (-3.5, -0.75) the path of IMTL-G, x_1 - x_2 = -2.75, leads to (-2.75, 0), as ours does; TorchJD's leaves it when the
square of the smaller gradient vanishes in rounding.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from balancing import create_balancer
from lab.reproductions.experiment import descend

DATA = Path(__file__).with_suffix(".json")
STARTS = {
    "EWQ": ((3.0, -2.0), (0.0, -3.0), (-4.0, 4.0), (-3.0, 4.0), (-3.5, -0.75)),
    "CQF": ((0.5, 0.5), (-1.0, 7.0), (0.0, 0.0), (1.0, 6.0)),
}
STEPS = {"EWQ": (50, 0.075), "CQF": (500, 0.05)}
#: Our method -> its options, the factor of the step in the published figures, and the aggregator with its arguments. Random
#: methods are left out, and Nash-MTL, whose public solver keeps weights that are no solution where its problem has no minimum.
METHODS: dict[str, tuple[dict[str, Any], float, str, dict[str, Any]]] = {
    "sum": ({}, 0.5, "Sum", {}),
    "mgda": ({}, 1.0, "MGDA", {"epsilon": 1e-6, "max_iters": 1000}),
    "pcgrad": ({}, 0.5, "PCGrad", {}),
    "upgrad": ({}, 1.0, "UPGrad", {}),
    "dualproj": ({}, 1.0, "DualProj", {}),
    "cagrad": ({"c": 0.5, "rescale": "none"}, 1.0, "CAGrad", {"c": 0.5}),
    "imtl_g": ({}, 2.0, "IMTLG", {}),
    "aligned_mtl": ({"tolerance": 2.0**-52}, 1.0, "AlignedMTL", {}),
}


def losses(problem: str, x: Tensor) -> dict[str, Tensor]:
    """(2,) point -> both losses."""
    if problem == "EWQ":
        return {"f1": x[0].square(), "f2": x[1].square()}
    values = {}
    for name, sign, length in (("f1", 1, 1.0), ("f2", -1, math.sqrt(3))):
        angle = sign * math.pi / 16
        turn = x.new_tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        away = x - x.new_tensor([sign, 0])
        values[name] = (away @ turn @ torch.diag(x.new_tensor([length, 0.1]))).square().sum()
    return values


def run(problem: str, seed: int, folder: Path) -> dict[str, float]:
    """Largest deviation of each method's end points from TorchJD's, over starts and coordinates."""
    reference = json.loads(DATA.read_text(encoding="utf-8"))[problem]
    steps, lr = STEPS[problem]
    deviations = {}
    for method, (options, factor, *_) in METHODS.items():
        worst = 0.0
        for start, theirs in zip(STARTS[problem], reference[method], strict=True):
            if theirs is None:
                continue
            balancer = create_balancer(method, ("f1", "f2"), **options)
            point = torch.tensor(start, dtype=torch.float64)
            ours = descend(partial(losses, problem), balancer, point, lr * factor, steps, epochs=1)
            worst = max(worst, *(abs(a - b) for a, b in zip(ours.tolist(), theirs, strict=True)))
        deviations[f"{method}: deviation from TorchJD"] = worst
    return deviations


RUNS = {f"trajectories_{problem.lower()}": partial(run, problem) for problem in STARTS}
