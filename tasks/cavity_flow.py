"""Steady flow in a square with a moving lid, by finite differences and Newton's method.

Stream function and vorticity at the nodes of a grid, central differences of second order, the vorticity at the walls by A.
Thom's formula (1933): the scheme of U. Ghia, K. Ghia, C. Shin, J. Comput. Phys. 48, 1982, whose tables it reproduces. The
linear systems are block tridiagonal, a block for each row of the grid, and are solved exactly. The pressure is integrated from
the momentum equations, in the sense of least squares.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_STEPS = 30  # of Newton's method
_FIRST = 100.0  # Reynolds number up to which it converges from rest


def cavity_flow(reynolds: float, cells: int) -> np.ndarray:
    """(3, cells + 1, cells + 1) of u, v and p at the nodes, by x and y; the lid is at y = 1.

    The pressure has mean 0. At the walls it is extrapolated, and it is infinite in the lid's corners.
    Raises ArithmeticError if Newton's method does not converge.
    """
    n, h = cells - 1, 1 / cells
    state = np.zeros((2, n, n))  # stream function and vorticity inside, by y and x
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for one another at every small block, for minutes on a busy machine
    try:
        for number in [*_numbers_below(reynolds), reynolds]:
            state = _solve(state, 1 / number, h)
    finally:
        torch.set_num_threads(threads)
    psi = np.pad(state[0], 1)
    u, v = np.zeros((cells + 1, cells + 1)), np.zeros((cells + 1, cells + 1))
    u[1:-1, 1:-1] = (psi[2:, 1:-1] - psi[:-2, 1:-1]) / (2 * h)
    v[1:-1, 1:-1] = -(psi[1:-1, 2:] - psi[1:-1, :-2]) / (2 * h)
    u[-1, 1:-1] = 1.0
    p = _pressure(u, v, 1 / reynolds, h)
    return np.stack([u.T, v.T, p.T])


def _numbers_below(reynolds: float) -> list[float]:
    """Easier flows on the way, each the start of the next."""
    numbers: list[float] = []
    while _FIRST * 2 ** len(numbers) < reynolds:
        numbers.append(_FIRST * 2 ** len(numbers))
    return numbers


def _solve(state: np.ndarray, viscosity: float, h: float) -> np.ndarray:
    for _ in range(_STEPS):
        change = _newton_step(state, viscosity, h)
        state = state + change
        if np.abs(change[0]).max() < 1e-12:
            return state
    raise ArithmeticError(f"Newton's method did not converge at Reynolds number {1 / viscosity:g}")


def _newton_step(state: np.ndarray, viscosity: float, h: float) -> np.ndarray:
    """Change of stream function and vorticity that solves the linearized equations."""
    (psi, omega), n = state, state.shape[1]
    at_wall = -2 / h**2  # vorticity at a wall, for the stream function next to it
    full_psi, full = np.pad(psi, 1), np.pad(omega, 1)
    full[1:-1, 0], full[1:-1, -1] = at_wall * psi[:, 0], at_wall * psi[:, -1]
    full[0, 1:-1], full[-1, 1:-1] = at_wall * psi[0], at_wall * psi[-1] - 2 / h

    def slopes(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (field[1:-1, 2:] - field[1:-1, :-2]) / (2 * h), (field[2:, 1:-1] - field[:-2, 1:-1]) / (2 * h)

    (psi_x, psi_y), (omega_x, omega_y) = slopes(full_psi), slopes(full)
    diffusion, half = viscosity / h**2, 1 / (2 * h)
    first = -(_laplacian(full_psi, h) + omega)
    second = -(psi_y * omega_x - psi_x * omega_y - viscosity * _laplacian(full, h))
    right, left = psi_y * half - diffusion, -psi_y * half - diffusion  # factors of the vorticity beside a node
    above, below = -psi_x * half - diffusion, psi_x * half - diffusion
    eye = np.eye(n)
    poisson = (np.eye(n, k=1) + np.eye(n, k=-1) - 4 * eye) / h**2

    def blocks(j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Matrices of row j for the rows below it, of itself and above it."""
        wall = np.zeros(n)
        wall[0] += left[j, 0]
        wall[-1] += right[j, -1]
        wall += (below[j] if j == 0 else 0) + (above[j] if j == n - 1 else 0)
        beside = np.diag(-omega_y[j, :-1] * half, 1) + np.diag(omega_y[j, 1:] * half, -1) + np.diag(at_wall * wall)
        moved = np.diag(right[j, :-1], 1) + np.diag(left[j, 1:], -1) + 4 * diffusion * eye
        own = np.block([[poisson, eye], [beside, moved]])
        down = np.block([[eye / h**2, 0 * eye], [np.diag(-omega_x[j] * half), np.diag(below[j])]])
        up = np.block([[eye / h**2, 0 * eye], [np.diag(omega_x[j] * half), np.diag(above[j])]])
        return down, own, up

    sides = torch.from_numpy(np.concatenate([first, second], axis=1))
    uppers: list[Tensor] = []
    values: list[Tensor] = []
    for j in range(n):
        down, own, up = map(torch.from_numpy, blocks(j))
        side = sides[j]
        if j:
            own, side = own - down @ uppers[-1], side - down @ values[-1]
        solved = torch.linalg.solve(own, torch.column_stack([up, side]))
        uppers.append(solved[:, :-1])
        values.append(solved[:, -1])
    for j in range(n - 2, -1, -1):
        values[j] = values[j] - uppers[j] @ values[j + 1]
    return torch.stack(values).reshape(n, 2, n).permute(1, 0, 2).numpy()


def _laplacian(field: np.ndarray, h: float) -> np.ndarray:
    inside = field[1:-1, 1:-1]
    return (field[2:, 1:-1] + field[:-2, 1:-1] + field[1:-1, 2:] + field[1:-1, :-2] - 4 * inside) / h**2


def _pressure(u: np.ndarray, v: np.ndarray, viscosity: float, h: float) -> np.ndarray:
    """Pressure whose differences come closest to those of the momentum equations."""
    inner = (slice(1, -1), slice(1, -1))

    def gradient(w: np.ndarray) -> np.ndarray:
        w_x, w_y = (w[1:-1, 2:] - w[1:-1, :-2]) / (2 * h), (w[2:, 1:-1] - w[:-2, 1:-1]) / (2 * h)
        return viscosity * _laplacian(w, h) - u[inner] * w_x - v[inner] * w_y

    p_x, p_y = gradient(u), gradient(v)
    n = len(p_x)
    steps_x, steps_y = h * (p_x[:, 1:] + p_x[:, :-1]) / 2, h * (p_y[1:] + p_y[:-1]) / 2
    divergence = np.zeros((n, n))
    divergence[:, 1:] += steps_x
    divergence[:, :-1] -= steps_x
    divergence[1:] += steps_y
    divergence[:-1] -= steps_y
    # eigenvectors of the Laplacian of a line of nodes
    waves = np.cos(np.pi * np.outer(np.arange(n) + 0.5, np.arange(n)) / n)
    waves /= np.linalg.norm(waves, axis=0)
    values = 2 - 2 * np.cos(np.pi * np.arange(n) / n)
    spectrum = waves.T @ divergence @ waves
    sums = values[:, None] + values[None]
    sums[0, 0] = 1.0
    spectrum /= sums
    spectrum[0, 0] = 0.0
    p = np.pad(waves @ spectrum @ waves.T, 1)
    p[:, 0], p[:, -1] = 2 * p[:, 1] - p[:, 2], 2 * p[:, -2] - p[:, -3]
    p[0], p[-1] = 2 * p[1] - p[2], 2 * p[-2] - p[-3]
    return p - p.mean()
