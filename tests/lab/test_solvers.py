"""What the benchmark of the solvers measures."""

import pytest
import torch

from balancing import create_balancer
from lab.solvers import CERTIFIED, Problem, error


@pytest.mark.parametrize(("rank", "size"), [("full", 24), ("K/2", 3), ("3", 3)])
def test_gradients_have_the_gramian_and_the_rank(rank, size):
    problem = Problem.of(0, 6, rank)
    assert problem.gradients.shape == (6, 24)
    torch.testing.assert_close(problem.gradients @ problem.gradients.T, problem.gramian)
    assert int(torch.linalg.matrix_rank(problem.gramian)) == min(size, 6)


@pytest.mark.parametrize("name", CERTIFIED)
def test_the_error_is_that_of_weights_that_miss_what_a_method_promises(name):
    problem = Problem.of(1, 6, "K/2")
    weights = create_balancer(name, list("abcdef")).effective_weights(problem.losses, problem.gramian)
    assert error(name, weights, problem.gramian) < 1e-11
    assert error(name, weights + 1e-3, problem.gramian) > 1e-6
    assert error(name, torch.full_like(weights, 1 / 6), problem.gramian) > 1e-2
