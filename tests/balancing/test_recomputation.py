"""Activation checkpointing changes neither weights nor buffers, whatever the method."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.checkpoint import checkpoint

from balancing import BalancingError, create_balancer
from tests.balancing.problems import ALL, GRADIENT, Net, inputs, make, train

NORMS = {
    "batch": lambda a, b: nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.Tanh()),
    "cumulative": lambda a, b: nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b, momentum=None), nn.Tanh()),
    "spectral": lambda a, b: nn.Sequential(parametrizations.spectral_norm(nn.Linear(a, b)), nn.Tanh()),
    "spectral_hook": lambda a, b: nn.Sequential(spectral_norm(nn.Linear(a, b)), nn.Tanh()),
}


class Checkpointed(Net):
    """Two blocks with buffers in the trunk, checkpointed or not."""

    def __init__(self, objectives=("a", "b", "c"), norm="batch", reentrant=None):
        super().__init__(objectives)
        torch.manual_seed(0)
        self.trunk = nn.Sequential(NORMS[norm](5, 8), nn.Sequential(NORMS[norm](8, 8), nn.Linear(8, 6))).double()
        self.reentrant = reentrant

    def features(self, x):
        for block in self.trunk:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return x


def trained(name, norm, reentrant, steps=3, **options):
    """The state after some steps, and the number of batches."""
    net = Checkpointed(norm=norm, reentrant=reentrant)
    train(net, make(name, net.objectives, **options), steps)
    return net.state_dict()


def assert_same(states, wanted):
    assert states.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(states[key], value, rtol=1e-12, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", ALL)
def test_training_and_statistics_are_those_without_checkpointing(name):
    wanted = trained(name, "batch", None)
    assert wanted["trunk.0.1.num_batches_tracked"] == (6 if name == "famo" else 3)  # famo looks at each batch twice
    assert_same(trained(name, "batch", False), wanted)


@pytest.mark.parametrize("name", ["sum", "uncertainty", "pcgrad", "mgda", "graddrop"])
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "batch"])
def test_other_buffers_are_left_alone(name, norm):
    assert_same(trained(name, norm, False), trained(name, norm, None))


@pytest.mark.parametrize("options", [{"update_every": 2}, {"weight_ema": 0.5}, {"heads": "weighted"}])
def test_statistics_with_options(options):
    assert_same(trained("pcgrad", "batch", False, **options), trained("pcgrad", "batch", None, **options))


@pytest.mark.parametrize("norm", NORMS)
def test_reentrant_checkpoints_of_the_plain_sum(norm):
    states = []
    for reentrant in (None, True):
        net = Checkpointed(norm=norm, reentrant=reentrant)
        for step in range(3):
            create_balancer("sum", net.objectives).backward(net.losses(inputs(seed=step).requires_grad_()))
        states.append(net.state_dict() | net.gradients())
    assert_same(states[1], states[0])


def test_features_mode_and_micro_batches():
    states = []
    for reentrant in (None, False):
        net = Checkpointed(reentrant=reentrant)
        features = net.features(inputs())
        create_balancer("mgda", net.objectives, at="features").backward(
            net.losses(inputs(), features), features=features
        )
        balancer = create_balancer("mgda", net.objectives)
        for step in range(3):
            balancer.backward(net.losses(inputs(seed=step)), last=step == 2)
        states.append(net.state_dict() | net.gradients())
    assert_same(states[1], states[0])


def test_layers_in_a_mixed_model_may_be_used_again_outside_of_the_checkpoint():
    states = []
    for used_again in (checkpoint, lambda block, x, use_reentrant: block(x)):
        net = Checkpointed()
        x = used_again(net.trunk[0], inputs(), use_reentrant=False) + net.trunk[0](inputs(seed=2))
        z = net.trunk[1](x)
        losses = {name: (head(z) - k).square().mean() for k, (name, head) in enumerate(net.head.items())}
        create_balancer("pcgrad", net.objectives).backward(losses)
        states.append(net.state_dict() | net.gradients())
    assert_same(states[0], states[1])


class Elsewhere(torch.autograd.Function):
    """Runs a function in another thread while a backward is under way."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        thread = threading.Thread(target=ctx.function)
        thread.start()
        thread.join()
        return gradient, None


def test_forwards_of_other_threads_move_their_buffers():
    net, other = Checkpointed(reentrant=False), nn.BatchNorm1d(5).double()
    features = Elsewhere.apply(net.features(inputs()), lambda: other(inputs()))
    create_balancer("sum", net.objectives).backward(net.losses(inputs(), features))
    assert other.num_batches_tracked == 1


@pytest.mark.parametrize("name", ["sum", "pcgrad"])
def test_a_backward_that_fails_leaves_no_hook_and_no_change(name):
    net = Checkpointed(reentrant=False)

    def fail(gradient):
        raise ArithmeticError

    losses = net.losses(inputs())
    net.trunk[0][0].weight.register_hook(fail)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ArithmeticError):
        create_balancer(name, net.objectives).backward(losses)
    assert_same(net.state_dict(), before)
    assert not nn.modules.module._has_any_global_hook()


def compiled_blocks(norm, compile_block):
    """A model whose checkpointed blocks were given to ``compile_block`` if they were, and its state after three steps."""
    torch._dynamo.reset()
    net = Checkpointed(reentrant=False)
    net.trunk = nn.Sequential(*(nn.Sequential(nn.Linear(a, 6), norm(6), nn.Tanh()) for a in (5, 6))).double()
    shared, trunk = list(net.trunk.parameters()), net.trunk
    net.trunk = nn.Sequential(*map(compile_block, net.trunk))
    balancer = create_balancer("pcgrad", net.objectives)
    for step in range(3):
        balancer.backward(net.losses(inputs(seed=step)), shared=shared)
    torch._dynamo.reset()
    return trunk.state_dict() | {str(i): p.grad for i, p in enumerate(shared)}


def compile_in_place(block):
    block.compile(backend="aot_eager")
    return block


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_compiled_blocks_in_a_checkpoint(norm):
    torch.manual_seed(0)
    wanted = compiled_blocks(norm, lambda block: block)
    torch.manual_seed(0)
    assert_same(compiled_blocks(norm, lambda block: torch.compile(block, backend="aot_eager")), wanted)


def test_blocks_that_are_compiled_in_place_are_refused_in_a_checkpoint():
    with pytest.raises(BalancingError, match=r"a Sequential that is compiled by its method.* use torch.compile"):
        compiled_blocks(nn.BatchNorm1d, compile_in_place)
    torch._dynamo.reset()
    assert not nn.modules.module._has_any_global_hook()


def test_measured_gradients_are_those_without_checkpointing():
    reports = []
    for reentrant in (None, False):
        net = Checkpointed(norm="spectral", reentrant=reentrant)
        reports.append([make(name, net.objectives).backward(net.losses(inputs())).gramian for name in GRADIENT[:3]])
    for with_, without in zip(*reports, strict=True):
        torch.testing.assert_close(with_, without, rtol=1e-12, atol=1e-12)


def test_bilevel_methods_refuse_reentrant_checkpoints():
    net = Checkpointed(reentrant=True)
    closure = lambda model: model.losses(inputs().requires_grad_())  # noqa: E731
    with pytest.raises(BalancingError, match=r"auto_lambda: .*use_reentrant=False"):
        create_balancer("auto_lambda", net.objectives).meta_backward(net, closure, closure, lr=0.1)
