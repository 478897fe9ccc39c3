"""Bilevel methods on models with activation checkpointing."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from balancing import create_balancer
from tests.balancing.bilevel.problems import after_a_step, batches, closure, stacked
from tests.balancing.problems import BILEVEL, inputs
from tests.balancing.test_recomputation import NORMS, Checkpointed, assert_same

#: Large enough that the virtual parameters are far from the model's own.
LARGE = 0.1


class Half(Checkpointed):
    """Dropout between the blocks, in a checkpoint of its own."""

    def __init__(self, reentrant):
        super().__init__(reentrant=reentrant)
        self.drop = nn.Dropout(0.5)

    def features(self, x):
        drop = self.drop if self.reentrant is None else lambda z: checkpoint(self.drop, z, use_reentrant=False)
        return self.trunk[1](drop(super_block(self, x)))


def super_block(net, x):
    return net.trunk[0](x) if net.reentrant is None else checkpoint(net.trunk[0], x, use_reentrant=False)


def looked_ahead(name, net, **options):
    """The gradients of alpha and of the model, and the model's state."""
    balancer = create_balancer(name, tuple("abc"), **options)
    with torch.no_grad():
        balancer.alpha.copy_(torch.tensor([0.9, 0.2, 0.5]))
    torch.manual_seed(4)
    train, validation = batches()
    balancer.meta_backward(net, train, validation, lr=LARGE)
    return {"alpha": balancer.alpha.grad} | net.state_dict() | {f"grad.{k}": g for k, g in net.gradients().items()}


@pytest.mark.parametrize("name", BILEVEL)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_and_buffers_are_those_without_checkpointing(name, norm):
    wanted = looked_ahead(name, Checkpointed(norm=norm))
    assert_same(looked_ahead(name, Checkpointed(norm=norm, reentrant=False)), wanted)


@pytest.mark.parametrize("name", BILEVEL)
def test_masks_of_dropout_are_those_without_checkpointing(name):
    assert_same(looked_ahead(name, Half(False)), looked_ahead(name, Half(None)))


def test_gradient_of_alpha_is_the_exact_one():
    """Against a derivative through the virtual step, on a model without BatchNorm."""
    net = Checkpointed(norm="spectral", reentrant=False).eval()
    found = looked_ahead("auto_lambda", net, radius=1e-4)["alpha"]
    weights = torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64, requires_grad=True)
    plain = Checkpointed(norm="spectral").eval()
    train, validation = batches()
    after = after_a_step(plain, train, validation, weights, LARGE).sum()
    (exact,) = torch.autograd.grad(after, weights)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BILEVEL)
def test_batchnorm_counts_one_batch(name):
    net = Checkpointed(reentrant=False)
    looked_ahead(name, net)
    assert net.trunk[0][1].num_batches_tracked == 1
    mean = nn.functional.linear(inputs(seed=10), net.trunk[0][0].weight, net.trunk[0][0].bias).mean(0)
    torch.testing.assert_close(net.trunk[0][1].running_mean, 0.1 * mean.detach())
    assert stacked(closure(inputs())(net)).isfinite().all()
