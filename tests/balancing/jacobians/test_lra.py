"""Learning-rate annealing equals its formula."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import names, next_update, ones, rows


@pytest.mark.parametrize("weighted", [True, False])
def test_lra_equals_its_formula(weighted):
    balancer = create_balancer("lra", names(3), primary="1", alpha=0.3, weighted=weighted)
    w = ones(3)
    for k in range(4):
        j = rows("random", 3, k) * torch.tensor([[1.0], [5.0], [0.01]], dtype=torch.float64)
        w = 0.7 * w + 0.3 * j[1].abs().max() / j.abs().mean(1) / (w if weighted else 1)
        w[1] = 1
        torch.testing.assert_close(next_update(balancer, ones(3), j).double(), w, rtol=1e-5, atol=0)


def test_weighted_gradients_bring_weights_to_the_square_root():
    balancer, j = create_balancer("lra", names(2), alpha=0.5), rows("random", 2)
    ratio = j[0].abs().max() / j[1].abs().mean()
    for _ in range(60):
        weights = next_update(balancer, ones(2), j)
    assert float(weights[1]) == pytest.approx(float(ratio) ** 0.5, rel=1e-5)


def test_a_gradient_of_zeros_leaves_its_weight():
    balancer = create_balancer("lra", names(3), alpha=1.0, weighted=False)
    j = torch.nn.functional.pad(
        rows("zero_row", 3), (0, 7)
    )  # the second is zero, and so are coordinates that do not count
    w = next_update(balancer, ones(3), j)
    assert w[0] == w[1] == 1
    assert float(w[2]) == pytest.approx(float(j[0].abs().max() / j[2, :9].abs().mean()), rel=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_gradient_of_zeros_of_the_primary_objective_leaves_all_weights(weighted):
    balancer, j = create_balancer("lra", names(2), alpha=0.9, weighted=weighted), rows("random", 2)
    before = next_update(balancer, ones(2), j)
    for _ in range(60):
        torch.testing.assert_close(next_update(balancer, ones(2), j * torch.tensor([[0.0], [1.0]])), before)
    assert torch.isfinite(next_update(balancer, ones(2), j)).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"lra: alpha must be in \(0, 1\]"):
        create_balancer("lra", ("a", "b"), alpha=0.0)
    with pytest.raises(ValueError, match="lra: alpha=1 needs weighted=False"):
        create_balancer("lra", ("a", "b"), alpha=1.0)
