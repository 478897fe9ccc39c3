"""Learning-rate annealing equals its formula."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import names, next_update, ones, rows


def test_lra_equals_its_formula():
    balancer = create_balancer("lra", names(3), primary="1", alpha=0.3)
    w = ones(3)
    for k in range(4):
        j = rows("random", 3, k) * torch.tensor([[1.0], [5.0], [0.01]], dtype=torch.float64)
        w = 0.7 * w + 0.3 * j[1].abs().max() / j.abs().mean(1)
        w[1] = 1
        torch.testing.assert_close(next_update(balancer, ones(3), j).double(), w, rtol=1e-5, atol=0)


def test_weighted_gradients_bring_weights_to_the_square_root():
    balancer, j = create_balancer("lra", names(2), alpha=0.5, weighted=True), rows("random", 2)
    ratio = j[0].abs().max() / j[1].abs().mean()
    first = next_update(balancer, ones(2), j)
    assert float(first[1]) == pytest.approx(0.5 + 0.5 * float(ratio), rel=1e-6)  # as without, since it starts at 1
    for _ in range(60):
        last = next_update(balancer, ones(2), j)
    assert float(last[1]) == pytest.approx(float(ratio) ** 0.5, rel=1e-5)


def test_a_gradient_of_zeros_leaves_its_weight():
    balancer = create_balancer("lra", names(3), alpha=1.0)
    j = torch.nn.functional.pad(
        rows("zero_row", 3), (0, 7)
    )  # the second is zero, and so are coordinates that do not count
    w = next_update(balancer, ones(3), j)
    assert w[0] == w[1] == 1
    assert float(w[2]) == pytest.approx(float(j[0].abs().max() / j[2, :9].abs().mean()), rel=1e-6)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"lra: alpha must be in \(0, 1\]"):
        create_balancer("lra", ("a", "b"), alpha=0.0)
    with pytest.raises(ValueError, match="lra: weighted needs alpha < 1"):
        create_balancer("lra", ("a", "b"), alpha=1.0, weighted=True)
