"""Losses, rows and single steps, for tests that compare a method with its formula."""

import importlib

import pytest
import torch

from balancing import JacobianBalancer, create_balancer
from tests.balancing.problems import core

CONFLICT = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
LOSSES = torch.tensor([0.5, 2.0, 3.0, 0.1], dtype=torch.float64)
PRIORITIES = {"a": 3.0, "b": 1.0, "c": 0.5, "d": 1.5}
KINDS = ("random", "scaled", "low_rank", "duplicated", "opposed", "zero_row", "aligned")


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def ones(size):
    return torch.ones(size, dtype=torch.float64)


def names(size):
    return [str(i) for i in range(size)]


def rows(kind, size, seed=0):
    """(size, 3 size) gradients of one of the ``KINDS``."""
    generator = torch.Generator().manual_seed(1000 * size + seed)
    j = torch.randn(size, 3 * size, generator=generator, dtype=torch.float64)
    if kind == "scaled":
        j *= 10 ** torch.linspace(-8, 8, size, dtype=torch.float64)[torch.randperm(size, generator=generator), None]
    elif kind == "low_rank":
        j = torch.randn(size, 2, generator=generator, dtype=torch.float64) @ j[:2]
    elif kind == "duplicated":
        j[-1] = j[0]
    elif kind == "opposed":
        j[-1] = -2 * j[0]
    elif kind == "zero_row":
        j[size // 2] = 0
    elif kind == "aligned":
        j = j[:1] + 1e-6 * j
    return j


def orthogonal(size, scales, seed=0):
    """Well-conditioned rows in general position, of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, 4 * size, generator=generator, dtype=torch.float64)
    return scales[:, None] * j / j.norm(dim=1, keepdim=True)


def wide(size, seed=0):
    """(size,) lengths from 1e-8 to 1e8, in random order."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return (10 ** torch.linspace(-8, 8, size, dtype=torch.float64))[order]


def random_rows(size, seed, shift=0.3):
    """(size, 2 size + 1) gradients of different lengths; a greater ``shift`` makes them agree more."""
    generator = torch.Generator().manual_seed(seed)
    j = torch.randn(size, 2 * size + 1, dtype=torch.float64, generator=generator)
    return j * (0.1 + 3 * torch.rand(size, 1, dtype=torch.float64, generator=generator)) + shift


def random_gramian(size, seed):
    j = torch.randn(size, 2 * size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return j @ j.T


def gramian_of(rows):
    j = torch.tensor(rows, dtype=torch.float64)
    return j @ j.T


def two_rows(seed, exponent):
    """Two gradients, the second 10**exponent times as long, and their squared lengths and product."""
    j = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    j[1] *= 10**exponent
    (aa, ab), (_, bb) = (j @ j.T).tolist()
    return j, aa, ab, bb


def gramian_weights(name, j, losses=None, **options):
    """The weights of the rows of ``j`` by a fresh balancer."""
    losses = ones(len(j)) if losses is None else losses
    with torch.no_grad():
        return create_balancer(name, names(len(j)), **options).compute_weights(losses, j @ j.T)


def loss_weights(name, losses=LOSSES, **options):
    """The weights of the losses by a fresh balancer."""
    return next_weights(create_balancer(name, tuple("abcdefgh"[: len(losses)]), **options), losses)


def next_weights(balancer, losses):
    """The weights of one step, which is counted."""
    w = balancer.effective_weights(losses)
    balancer.step += 1
    return w


def next_update(balancer, losses, j):
    """What ``backward`` does around the method: an update, and the step counted."""
    balancer = core(balancer)
    if balancer.active() is not None:
        j = torch.where(torch.arange(len(j))[:, None] == balancer.active()[0], j, 0.0)
    with torch.no_grad():
        update = (
            balancer.combine(losses, j.clone())
            if isinstance(core(balancer), JacobianBalancer)
            else balancer.compute_weights(losses, j.clone())
        )
    balancer.step += 1
    return update


def derivative(scalar, losses=LOSSES):
    """The gradient of ``scalar(losses)``."""
    leaf = losses.clone().requires_grad_()
    return torch.autograd.grad(scalar(leaf), leaf)[0]


def check_projection_of_torchjd(name, aggregator):
    """The update of the method ``name`` is that of torchjd's ``aggregator`` with an exact projector."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    projector = exact_projector()
    for size in (2, 3, 5, 10):
        for seed in range(5):
            j = random_rows(size, seed, shift=0.0)
            theirs = getattr(aggregation, aggregator)(projector=projector)(j)
            weights = gramian_weights(name, j)
            torch.testing.assert_close(weights @ j, theirs, rtol=1e-6, atol=1e-6 * float(j.abs().max()))


def exact_projector():
    """torchjd's projector without its ridge of 1e-4 of the trace, which is the whole difference to ours."""
    pytest.importorskip("qpsolvers")
    return importlib.import_module("torchjd.linalg").QuadprogProjector(norm_eps=1e-12, reg_eps=1e-12)
