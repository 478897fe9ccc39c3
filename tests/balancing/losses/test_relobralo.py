"""ReLoBRaLo equals its formula, with random looks back."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import double, next_weights


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_relobralo_looks_back_now_and_then(keep):
    balancer = create_balancer("relobralo", ("a", "b"), temperature=0.8, alpha=0.7, keep=keep, seed=3)
    generator = torch.Generator().manual_seed(3)
    history = [double([4, 1]), double([3, 2]), double([2, 2]), double([2.5, 1])]
    w = torch.ones(2, dtype=torch.float64)
    assert next_weights(balancer, history[0]).tolist() == [1, 1]
    for t in (1, 2, 3):
        start, last = (2 * torch.softmax(history[t] / (0.8 * past), 0) for past in (history[0], history[t - 1]))
        kept = torch.rand((), generator=generator) < keep
        w = 0.7 * (w if kept else start) + 0.3 * last
        torch.testing.assert_close(next_weights(balancer, history[t]), w, rtol=1e-5, atol=0)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"alpha": 1.5}, {"keep": -0.5}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="relobralo"):
        create_balancer("relobralo", ("a", "b"), **options)
