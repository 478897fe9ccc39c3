"""Lid-driven cavity: steady flow in a square whose lid moves, by four losses.

    u u_x + v u_y + p_x = (u_xx + u_yy) / Re,  u v_x + v v_y + p_y = (v_xx + v_yy) / Re,  u_x + v_y = 0 on 0 < x, y < 1
    u = 1, v = 0 at the lid y = 1;  u = v = 0 at the other walls

The benchmark of U. Ghia, K. Ghia, C. Shin, J. Comput. Phys. 48, 1982; as a problem for physics-informed networks whose losses
have to be weighed it stands in S. Wang, Y. Teng, P. Perdikaris (arXiv:2001.04536). The reference is computed once, by
:mod:`tasks.cavity_flow` on two grids, extrapolated to none, and kept as ``<data_dir>/lid_cavity-v1-re<Re>-<cells>.npy``.

With a stream function psi, u = psi_y and v = -psi_x, so that continuity holds whatever psi is.

The pressure is known up to a constant, and infinite in the two corners of the lid; it is compared from 0.1 on around them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tasks.cavity_flow import cavity_flow
from tasks.physics import Conditions, Fields, PhysicsTask, gradient
from tasks.registry import register_task
from tasks.room_renderer import replacing
from tasks.task import Batch, DataError, Splits

_CORNER = 0.1


@register_task("lid_cavity")
class LidCavity(PhysicsTask):
    """Velocity ``u``, ``v`` and pressure ``p`` over ``x`` and ``y``.

    Args:
        reynolds: Re, from 1 to 1000.
        formulation: ``velocity``: the model's outputs are u, v and p, and continuity is a loss. ``stream``: they are psi and p, from
            which u and v follow.
        conditions: ``soft``: the velocity at the walls is a loss of its own. ``hard``: the model fulfils it exactly, with a lid
            that comes to rest in its corners.
        points: Points of each kind in an epoch.
        cells: Of the reference's grid in each direction, from 16 on, an even number.
    """

    coordinates = ("x", "y")
    fields = ("u", "v", "p")
    lower, upper = (0.0, 0.0), (1.0, 1.0)
    free_constant = frozenset({"p"})

    def __init__(
        self,
        reynolds: float = 100.0,
        formulation: Literal["velocity", "stream"] = "velocity",
        conditions: Conditions = "soft",
        points: int = 102_400,
        cells: int = 48,
    ) -> None:
        if not 1 <= reynolds <= 1000:
            raise ValueError(f"lid_cavity: reynolds must be in [1, 1000], where the flow is steady, got {reynolds}")
        if cells < 16 or cells % 2:
            raise ValueError(f"lid_cavity: cells must be an even number from 16 on, got {cells}")
        self.reynolds, self.cells, self.grid = reynolds, cells, (cells + 1, cells + 1)
        self.flow = np.zeros((0, 0, 0))  # of load
        self.stream = formulation == "stream"
        equations = ("momentum_x", "momentum_y", *(() if self.stream else ("continuity",)))
        super().__init__(equations, ("walls",), conditions == "hard", points)
        if self.stream:
            trial = "lid_cavity_stream" if self.hard else None
            self.info = {**self.info, "fields": ("psi", "p"), "trial": trial}

    def load(self, data_dir: Path) -> Splits:
        """As for other tasks, with a flow that is computed once."""
        file = data_dir / f"lid_cavity-v1-re{self.reynolds:g}-{self.cells}.npy"
        if file.is_file():
            self.flow = _read(file, self.grid)
        else:
            coarse, fine = (cavity_flow(self.reynolds, cells) for cells in (self.cells, 2 * self.cells))
            self.flow = (4 * fine[:, ::2, ::2] - coarse) / 3  # without the error of second order
            try:
                data_dir.mkdir(parents=True, exist_ok=True)
                with replacing(file) as stream:
                    np.save(stream, self.flow)
            except OSError as error:
                problem = f"cannot write {file} ({error.strerror or error})"
                raise DataError(f"lid_cavity: {problem}; set data_dir to a folder with space") from None
        return super().load(data_dir)

    def draw(self, count: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Points inside, and at the four walls."""
        inside, walls = self.uniform(count, generator), self.uniform(count, generator)
        side = torch.randint(4, (count,), generator=generator)
        walls[torch.arange(count), side // 2] = (side % 2).float()
        return inside, walls

    def residuals(self, fields: Fields, *points: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Of the equations, and differences from the velocity of the walls."""
        inside, walls = points
        flow = self._flow(fields, inside)
        u, v = flow["u"], flow["v"]
        u_x, u_y = gradient(u, inside)
        v_x, v_y = gradient(v, inside)
        p_x, p_y = gradient(flow["p"], inside)
        if self.stream:
            (u_xy, u_yy), (v_xx, v_xy) = gradient(u_y, inside), gradient(v_x, inside)
            u_xx, v_yy = -v_xy, -u_xy  # as u_x = -v_y
        else:
            (u_xx, _), (_, u_yy) = gradient(u_x, inside), gradient(u_y, inside)
            (v_xx, _), (_, v_yy) = gradient(v_x, inside), gradient(v_y, inside)
        yield "momentum_x", u * u_x + v * u_y + p_x - (u_xx + u_yy) / self.reynolds
        yield "momentum_y", u * v_x + v * v_y + p_y - (v_xx + v_yy) / self.reynolds
        if not self.stream:
            yield "continuity", u_x + v_y
        if not self.hard:
            moving = self._flow(fields, walls.detach().requires_grad_() if self.stream else walls)
            lid = (walls[:, 1:] == self.upper[1]).to(walls)
            yield "walls", torch.cat([moving["u"] - lid, moving["v"]], 1)

    def outputs(self, model: Fields, batch: Batch) -> Mapping[str, Tensor]:
        """Velocity and pressure at the points inside."""
        if not self.stream:
            return super().outputs(model, batch)
        with torch.enable_grad():
            flow = self._flow(model, batch.inputs[0].detach().requires_grad_())
        return {name: values.detach() for name, values in flow.items()}

    def _flow(self, fields: Fields, points: Tensor) -> Mapping[str, Tensor]:
        """u, v and p; those of a stream function need points that require gradients."""
        found = fields(points)
        if not self.stream:
            return found
        psi_x, psi_y = gradient(found["psi"], points)
        return {"u": psi_y, "v": -psi_x, "p": found["p"]}

    def reference(self, points: np.ndarray) -> Mapping[str, np.ndarray]:
        """Values between the nodes of the grid, bilinear; no pressure close to the lid's corners."""
        place = points * self.cells
        low = np.minimum(place.astype(int), self.cells - 1)
        (i, j), (a, b) = low.T, (place - low).T
        f = self.flow
        values = (1 - a) * ((1 - b) * f[:, i, j] + b * f[:, i, j + 1])
        values += a * ((1 - b) * f[:, i + 1, j] + b * f[:, i + 1, j + 1])
        u, v, p = values
        x, y = points.T
        return {"u": u, "v": v, "p": np.where(np.hypot(np.minimum(x, 1 - x), 1 - y) < _CORNER, math.nan, p)}


def _read(file: Path, grid: tuple[int, ...]) -> np.ndarray:
    try:
        flow = np.load(file)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"lid_cavity: {file} cannot be read ({error}); delete it, and it is computed again") from None
    if flow.shape != (3, *grid) or not np.isfinite(flow).all():
        raise DataError(f"lid_cavity: {file} holds no flow on this grid; delete it, and it is computed again")
    return flow
