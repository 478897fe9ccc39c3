"""Preferences that a method draws at each step, for a model that reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from .method import Method


def drawn_preference(method: Method, ray: Tensor, drawn: Tensor, alpha: float) -> Tensor:
    """(K,) Dirichlet sample of the coming step, the same until the step has been counted.

    Args:
        method: Its ``preference`` is proportional to the mean, and its generator decides the sample.
        ray: Buffer (K,) of the method, which holds the sample.
        drawn: Buffer of the method, the step that ``ray`` belongs to.
        alpha: Concentration; 1 is uniform if all priorities are equal.
    """
    if int(drawn) != method.step:
        ray.copy_(torch._sample_dirichlet(alpha * method.preference, generator=method.generator))
        drawn.fill_(method.step)
    return ray.clone()


def check_drawing(method: Method, alpha: float | None) -> None:
    """Raise ValueError for alpha <= 0, or for options that keep weights of earlier samples."""
    method.reject(alpha is not None and not alpha > 0, f"alpha must be positive, got {alpha}")
    kept = method.options.update_every > 1 or method.options.weight_ema > 0
    problem = "draws a preference at each step, of which update_every= and weight_ema= would keep earlier ones"
    method.reject(alpha is not None and kept, problem)
