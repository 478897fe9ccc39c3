"""Rotations between shared features and heads, which ``rotograd`` learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .choices import check_value
from .objectives import objective_names


class Rotations(nn.Module):
    """A rotation of the shared features for each objective: ``r_k = R_k z``.

    ``R_k = (I - A_k)^-1 (I + A_k)`` with ``A_k`` antisymmetric, so R_k stays orthogonal whatever the optimizer does. The
    parameters are the numbers above the diagonal of A_k, times 2 / ``rate``; all R_k start at I. Heads read R_k as a constant: no
    loss moves it, and ``rotograd`` alone gives its parameters gradients. Weight decay would turn them back.

    Args:
        objectives: Names of the losses, in the order of the balancer.
        size: How many of the last dimension's numbers are turned, the first ones; at least 2.
        rate: How far an angle turns, in radians near I, if its parameter moves by 1. Below 1 the rotations are slower than the
            heads with the same optimizer of Adam's kind, as the method asks.

    Raises:
        TypeError: ``size`` or ``rate`` of another type.
        ValueError: ``size`` or ``rate`` out of range or not finite, no objectives, equal ones, or a name that no module can have.
    """

    places: Tensor

    def __init__(self, objectives: Sequence[str], size: int, *, rate: float = 0.1) -> None:
        super().__init__()
        check_value("Rotations", "size", size, int)
        check_value("Rotations", "rate", rate, float)
        self.objectives, self.size, self.rate = objective_names("Rotations", objectives), size, rate
        wrong = next((name for name in self.objectives if "." in name or hasattr(nn.ParameterDict, name)), None)
        for problem, message in (
            (wrong is not None, f"an objective cannot be called {wrong!r}; use letters, digits and _"),
            (size < 2, f"size must be at least 2, got {size}"),
            (not rate > 0, f"rate must be above 0, got {rate}"),
        ):
            if problem:
                raise ValueError(f"Rotations: {message}")
        angles = {name: nn.Parameter(torch.zeros(size * (size - 1) // 2)) for name in self.objectives}
        self.angles = nn.ParameterDict(angles)  # vectors, which train.py's optimizers do not decay
        self.register_buffer("places", torch.triu_indices(size, size, 1), persistent=False)

    def matrix(self, name: str) -> Tensor:
        """(size, size) rotation of objective ``name``."""
        angles = self.angles[name]
        angles = angles.to(torch.promote_types(angles.dtype, torch.float32))  # solvers need it
        upper = angles.new_zeros(self.size, self.size).index_put(tuple(self.places), angles * (self.rate / 2))
        half, eye = upper - upper.T, torch.eye(self.size, dtype=angles.dtype, device=angles.device)
        return torch.linalg.solve(eye - half, eye + half)

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        """Features (..., d) -> z and K rotations, which a balancer takes as ``features``."""
        return z, *(self.matrix(name) for name in self.objectives)

    def turned(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """What :meth:`forward` returned -> the input (..., d) of each head."""
        z, *rotations = features
        first, rest = z[..., : self.size], z[..., self.size :]
        turned = {}
        for name, rotation in zip(self.objectives, rotations, strict=True):
            part = first @ rotation.detach().to(z.dtype).T
            turned[name] = part if self.size == z.shape[-1] else torch.cat([part, rest], -1)
        return turned


def holds_rotations(features: Sequence[Tensor], size: int) -> bool:
    """Whether these are what :meth:`Rotations.forward` gives for ``size`` objectives."""
    if len(features) != size + 1 or not all(isinstance(tensor, Tensor) for tensor in features):
        return False
    z, *rotations = features
    if not all(r.dim() == 2 and len(r) == r.shape[1] <= z.shape[-1] for r in rotations):
        return False
    lengths = torch.cat([r.detach().norm(dim=1) for r in rotations])  # together, as a device waits for each answer
    return bool(((lengths - 1).abs() < 1e-3).all())
