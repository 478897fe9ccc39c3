"""Losses, gradients and calls that a method cannot use are errors that name the cause."""

import pytest
import torch
from torch import nn

from balancing import BalancingError, create_balancer, group_parameters
from tests.balancing.formulas import double, next_weights
from tests.balancing.problems import ALL, GRADIENT, MANY, TURNS, Net, inputs, make


def test_wrong_calls_say_what_to_do():
    net, x = Net(), inputs()
    losses = net.losses(x)
    with pytest.raises(ValueError, match="unknown objective 'aa'; did you mean 'a'"):
        make("sum").backward({"aa": losses["a"], "b": losses["b"], "c": losses["c"]})
    with pytest.raises(ValueError, match="'c' is missing"):
        make("sum").backward({"a": losses["a"], "b": losses["b"]})
    with pytest.raises(ValueError, match="must be a scalar"):
        make("sum").backward({**losses, "a": losses["a"].expand(3)})
    with pytest.raises(ValueError, match="'a' must be a tensor"):
        make("sum").backward({**losses, "a": 0.5})
    wanted = r"pcgrad: losses must be a mapping from objective to loss, \{'a': ..., 'b': ..., 'c': ...\}, got "
    with pytest.raises(ValueError, match=wanted + "list"):
        make("pcgrad").backward(list(losses.values()))
    with pytest.raises(ValueError, match=wanted + r"a tensor of shape \(3,\)"):
        make("pcgrad").backward(torch.stack(list(losses.values())))
    with pytest.raises(ValueError, match=r"sum: the loss of objective 'b' must be real, got torch.complex128"):
        make("sum").backward({**losses, "b": torch.complex(losses["b"], losses["b"])})
    with pytest.raises(ValueError, match="unknown objective 2; the objectives are 0, 1"):
        create_balancer("pcgrad", (0, 1)).backward(dict(enumerate(losses.values())))
    with pytest.raises(ValueError, match="features= must be a tensor, or a list or mapping of tensors"):
        make("mgda", at="features").backward(losses, features=["x"])
    with pytest.raises(ValueError, match=r"needs backward\(\.\.\., features="):
        make("mgda", at="features").backward(losses)
    with pytest.raises(ValueError, match=r"needs backward\(\.\.\., subset="):
        make("mgda", at="subset").backward(losses)
    with pytest.raises(ValueError, match="cannot collect micro-batches"):
        make("mgda", at="features").backward(losses, features=x, last=False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (lambda net: {"parameters": net}, "parameters= must be a list of tensors .*, got an object of type Net"),
        (lambda net: {"parameters": dict(net.named_parameters())}, "parameters= .*, got an object of type dict"),
        (lambda net: {"parameters": net.named_parameters()}, "parameters= .*, got a list with an object of type tuple"),
        (lambda net: {"parameters": net.trunk[0].weight}, "parameters= .*, got an object of type Parameter"),
        (lambda net: {"shared": net.trunk}, "shared= .*, got a list with an object of type"),
        (lambda net: {"subset": "trunk"}, "subset= .*, got an object of type str"),
        (lambda net: {"groups": "layer"}, "groups= must be a mapping .*, got an object of type str"),
        (lambda net: {"groups": {"one": net.trunk[0].weight}}, "group 'one' must be a list of tensors"),
        (
            lambda net: {"groups": group_parameters(Net(), "layer")},
            "groups= holds no parameter that several losses reach",
        ),
        (lambda net: {"scaler": 65536.0}, "scaler= must be a torch.amp.GradScaler, got an object of type float"),
        (lambda net: {"weights_of": torch.ones(3)}, "weights_of= must be a report .*, got an object of type Tensor"),
    ],
)
def test_an_argument_of_another_type_is_named(argument, message):
    net, balancer = Net(), make("pcgrad")
    with pytest.raises(ValueError, match=f"pcgrad: {message}"):
        balancer.backward(net.losses(inputs()), **argument(net))
    assert balancer.step == 0
    assert not net.gradients()


def test_parameters_may_come_from_a_generator():
    gradients = []
    for given in (lambda net: list(net.parameters()), lambda net: net.parameters()):
        net = Net()
        make("pcgrad").backward(net.losses(inputs()), parameters=given(net))
        gradients.append(net.gradients())
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ALL)
def test_non_finite_loss_names_objective_and_method(name, bad):
    net, x = Net(), inputs()
    losses = net.losses(x)
    losses["b"] = losses["b"] * bad
    with pytest.raises(BalancingError, match=rf"{name}.*'b'.*not finite"):
        make(name).backward(losses)
    assert not net.gradients()


@pytest.mark.parametrize("name", ALL)
def test_a_loss_that_is_not_finite_is_no_overflow(name):
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    losses = {key: loss * float("nan") for key, loss in net.losses(x).items()}
    with pytest.raises(BalancingError, match="loss of objective 'a' is not finite"):
        make(name).backward(losses, scaler=torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in MANY and n not in TURNS])
def test_non_finite_gradient_names_objective_and_method(name):
    p = nn.Parameter(torch.tensor([0.0, 1.0]))
    losses = {"a": p.square().sum() + 1, "b": p.sqrt().sum()}  # the root has an infinite slope at 0
    with pytest.raises(BalancingError, match=rf"{name}.*gradient.*'b'"):
        make(name, ("a", "b")).backward(losses)


@pytest.mark.parametrize("name", ALL)
def test_skip_leaves_gradients_alone_and_counts(name):
    net, x = Net(), inputs()
    balancer = make(name, on_nonfinite="skip")
    losses = net.losses(x)
    losses["c"] = losses["c"] * float("nan")
    report = balancer.backward(losses)
    assert report.skipped
    assert report.skips == 1
    assert not net.gradients()
    report = balancer.backward(net.losses(x))
    assert not report.skipped
    assert report.skips == 1
    assert all(g.isfinite().all() for g in net.gradients().values())


@pytest.mark.parametrize("name", ["realtime", "inverse_mean", "initial_loss", "gradnorm", "uncertainty"])
def test_a_negative_loss_is_named(name):
    net, x = Net(("a", "b")), inputs()
    losses = net.losses(x)
    losses["b"] = losses["b"] - 1e6
    with pytest.raises(BalancingError, match=rf"{name}: the loss of objective 'b' is -"):
        make(name, ("a", "b")).backward(losses)


@pytest.mark.parametrize("name", ["moco", "db_mtl"])
def test_negative_losses_are_named(name):
    net, x = Net(("a", "b")), inputs()
    losses = net.losses(x)
    losses["b"] = losses["b"] - 1e6
    with pytest.raises(BalancingError, match=r"the loss of objective 'b' is -"):
        create_balancer(name, ("a", "b")).backward(losses)


@pytest.mark.parametrize("name", ["power_mean", "geometric", "imtl_l", "igb", "go4align", "cov_weighting", "relobralo"])
def test_a_zero_loss_is_named(name):
    with pytest.raises(BalancingError, match=rf"{name}.*'b'.*positive"):
        next_weights(create_balancer(name, ("a", "b")), double([1, 0]))


@pytest.mark.parametrize("name", ["tchebycheff", "stch", "pbi", "cosmos", "famo", "group_dro", "softadapt"])
def test_a_zero_loss_is_allowed(name):
    assert next_weights(create_balancer(name, ("a", "b")), double([1, 0])).isfinite().all()


def test_a_loss_that_depends_on_nothing_is_named():
    net, x = Net(), inputs()
    losses = net.losses(x)
    losses["b"] = losses["b"].detach()
    with pytest.raises(BalancingError, match="'b' does not depend on any trainable parameter"):
        make("sum").backward(losses)


def test_a_loss_that_misses_the_subset_but_shares_parameters_is_named():
    net, x = Net(), inputs()
    losses = net.losses(x)
    losses["b"] = net.trunk[0].weight.square().sum()
    with pytest.raises(BalancingError, match="'b' reaches none of the subset"):
        make("mgda", at="subset").backward(losses, subset=list(net.trunk[2].parameters()))


def test_shared_parameters_of_another_model_are_noticed():
    net, x = Net(), inputs()
    with pytest.raises(BalancingError, match="none of the given shared parameters"):
        make("mgda").backward(net.losses(x), shared=Net().shared())
    for name in ("mgda", "sum"):
        with pytest.raises(BalancingError, match="none of the given parameters"):
            make(name).backward(net.losses(x), parameters=Net().shared())


def test_without_trainable_parameters_there_is_nothing_to_do():
    net, x = Net(), inputs()
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    for name in ("mgda", "sum"):
        with pytest.raises(BalancingError, match="none of the given parameters"):
            make(name).backward(net.losses(x), parameters=[frozen])


def test_gradients_that_cannot_be_measured_are_refused():
    p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    losses = {"a": p.abs().sum(), "b": (p - 1j).abs().sum()}
    with pytest.raises(BalancingError, match="complex"):
        make("mgda", ("a", "b")).backward(losses)
    table = nn.Embedding(5, 2, sparse=True)
    row = table(torch.tensor([1]))
    with pytest.raises(BalancingError, match="sparse=False"):
        make("mgda", ("a", "b")).backward({"a": row.sum(), "b": row.square().sum()})


@pytest.mark.parametrize("name", [name for name in GRADIENT if name not in TURNS])
def test_sparse_gradients_of_shared_parameters_are_refused(name):
    words = nn.Embedding(9, 5, sparse=True)
    features = words(torch.arange(8))
    losses = {key: nn.Linear(5, 1)(features).square().mean() for key in "abc"}
    with pytest.raises(BalancingError, match=rf"{name}: cannot measure sparse gradients; use nn.Embedding"):
        make(name).backward(losses)


def test_backward_of_a_bilevel_method_names_the_other_function():
    balancer = create_balancer("moml", ("a", "b"))
    assert not hasattr(balancer, "backward")
    with pytest.raises(AttributeError, match=r"moml: call meta_backward\(model, train, validation, lr=...\) instead"):
        balancer.backward({})
    net = Net()
    with pytest.raises(ValueError, match=r"moml: parameters= must be a list of tensors .*, got an object of type Net"):
        balancer.meta_backward(net, net.losses, net.losses, lr=0.1, parameters=net)


def test_what_is_no_state_of_a_balancer_is_refused():
    balancer = make("uncertainty")
    with pytest.raises(ValueError, match="uncertainty: the state must be a state_dict, got Uncertainty"):
        balancer.load_objectives(balancer)
    with pytest.raises(ValueError, match="uncertainty: the state has no names of objectives: it is not of a balancer"):
        balancer.load_objectives(Net().state_dict())
