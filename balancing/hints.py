"""Warnings about a loop that leaves a method without what it needs; each once."""

from __future__ import annotations

import warnings

import torch

from .errors import caller_level
from .method import Method

_SOON = 10  # steps
_LATE = 1000  # steps of an epoch that does not end


def warn_if_idle(method: Method) -> None:
    """Warn if parameters of the method itself never move: it is then a plain sum."""
    own = list(method._parameters.values())
    if not own:
        return
    versions = sum(parameter._version for parameter in own if parameter is not None)
    method._unmoved = method._unmoved + 1 if versions == method._versions else 0
    method._versions = versions
    if method._unmoved == 1:
        method._still = [parameter.detach().clone() for parameter in method.parameters(recurse=False)]
    if method._unmoved == _SOON and not all(map(torch.equal, method._still, method.parameters(recurse=False))):
        method._unmoved = 0  # fused optimizers do not count versions
    elif method._unmoved == _SOON:
        observing = ", and call balancer.observe after each step of the model's" if method.observes else ""
        _warn(
            f"{method.name}: its parameters have not moved for {_SOON} steps; give balancer.parameters() to an optimizer"
            f"{observing}"
        )


def warn_if_unshared(method: Method) -> None:
    """Warn at the tenth step in which no gradient of two losses was for the same parameters."""
    method._unshared += 1
    if method._unshared == _SOON:
        _warn(
            f"{method.name}: in {_SOON} steps there was no parameter with a gradient that several losses reach, as where a trunk "
            "is frozen; there is nothing to balance, and each objective keeps its own gradient"
        )


def warn_if_unturned(method: Method) -> None:
    """Warn at the tenth step in which a method that learns rotations was given none."""
    if method.step == _SOON - 1:
        _warn(
            f"{method.name}: in {_SOON} steps there were no rotations, so only lengths were balanced; give at='features', and "
            "features=rotations(z) of a balancing.Rotations, whose turned features the heads read"
        )


def warn_if_endless(method: Method, instead: str) -> None:
    """Warn at step 1000 of a method whose weights change with epochs if none has ended.

    ``instead`` is how to count steps. A loop that sets ``ends_epochs`` is not warned.
    """
    if method.step == _LATE and method.epoch == 0 and not method.ends_epochs:
        _warn(
            f"{method.name}: no epoch has ended in {_LATE:,} steps, and its weights follow epochs; call balancer.next_epoch() at "
            f"the end of each, or give {instead}"
        )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=caller_level())
