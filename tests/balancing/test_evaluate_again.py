"""Several evaluations per step: the state rests, weights are used again, graphs are kept or created."""

import copy

import pytest
import torch

from balancing import BalancingError, create_balancer
from balancing.state import decode
from tests.balancing.problems import (
    ALL,
    COMBINES,
    GRADIENT,
    LOSS,
    WEIGHS,
    Net,
    assert_close,
    core,
    expected,
    inputs,
    make,
    reference_rows,
    train,
)


def everything(balancer):
    """The state and the gradients of own parameters, as tensors and plain values."""
    found = {}
    for key, value in balancer.state_dict().items():
        if key.endswith("_extra_state"):
            saved = decode(value)
            found |= {f"{key}.memory.{name}": tensor for name, tensor in saved.pop("memory").items()}
            found[f"{key}.generator"] = saved.pop("generator")
            found |= {f"{key}.{name}": entry for name, entry in saved.items()}
        else:
            found[key] = value.clone()
    return found | {f"grad {name}": p.grad for name, p in balancer.named_parameters()}


def assert_same(actual, wanted):
    assert actual.keys() == wanted.keys()
    for key, value in wanted.items():
        same = torch.equal(actual[key], value) if isinstance(value, torch.Tensor) else actual[key] == value
        assert same, key


CASES = [*((name, {}) for name in ALL), ("mgda", {"update_every": 3}), ("realtime", {"weight_ema": 0.5})]
CASES += [(["uncertainty", "moco"], {"max_norm": 1.0}), (["famo", "gradvac"], {}), (["dwa", "uncertainty"], {})]


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_without_advance_the_gradients_are_those_of_the_coming_step_and_the_state_rests(name, options, steps):
    net, balancer, x = Net(), make(name, **options), inputs()
    train(net, balancer, steps=steps)
    twin = copy.deepcopy(balancer)
    before = everything(balancer)
    net.zero_grad()
    wanted_report = twin.backward(net.losses(x))
    wanted = net.gradients()
    for _ in range(2):
        net.zero_grad()
        report = balancer.backward(net.losses(x), advance=False)
        assert_same(net.gradients(), wanted)
        assert (report.weights is None) == (wanted_report.weights is None)
        assert_same(everything(balancer), before)
    net.zero_grad()
    balancer.zero_grad()  # as copies have no .grad
    balancer.backward(net.losses(x))
    assert_same(net.gradients(), wanted)
    assert_same(everything(balancer), everything(twin))


@pytest.mark.parametrize("name", ["rlw", "sum", "dwa", "uncertainty", "pcgrad", "moco", "alternating"])
def test_micro_batches_may_be_evaluated_without_advance(name):
    net, balancer = Net(), make(name)
    train(net, balancer, steps=2)
    found = []
    for advance in (False, False, True):
        net.zero_grad()
        for i, part in enumerate(inputs().chunk(2)):
            balancer.backward(net.losses(part), last=i == 1, advance=advance)
        found.append(net.gradients())
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])
    assert balancer.step == 3


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm", "moco"])
def test_the_state_rests_if_an_evaluation_fails(name):
    net, balancer, x = Net(), make(name), inputs()
    train(net, balancer, steps=2)
    before = everything(balancer)
    losses = net.losses(x)
    losses["b"] = losses["b"] * float("nan")
    with pytest.raises(BalancingError, match="not finite"):
        balancer.backward(losses, advance=False)
    assert_same(everything(balancer), before)


@pytest.mark.parametrize("name", [*WEIGHS, ["uncertainty", "pcgrad"], ["dwa", "uncertainty"]])
def test_weights_of_a_report_are_used_again(name):
    net, balancer = Net(), make(name)
    train(net, balancer, steps=2)
    net.zero_grad()
    report = balancer.backward(net.losses(inputs()))
    before, heads = everything(balancer), balancer.head_weights
    rows = reference_rows(net, inputs(seed=7))
    again = balancer.backward(net.losses(inputs(seed=7)), weights_of=report)
    assert_close(net.gradients(), expected(rows, balancer, report))
    torch.testing.assert_close(again.weights, report.weights)
    assert again.losses.tolist() == [pytest.approx(v.item()) for v in net.losses(inputs(seed=7)).values()]
    assert_same(everything(balancer), before)
    assert balancer.head_weights is heads


def test_weights_of_a_report_weigh_micro_batches_at_once():
    net, balancer, x = Net(), make("mgda"), inputs()
    report = balancer.backward(net.losses(x))
    rows = reference_rows(net, x)
    for i, part in enumerate(x.chunk(2)):
        losses = {key: loss / 2 for key, loss in net.losses(part).items()}
        again = balancer.backward(losses, weights_of=report, last=i == 1)
    assert_close(net.gradients(), expected(rows, balancer, report))
    torch.testing.assert_close(again.losses, report.losses)


@pytest.mark.parametrize("name", COMBINES)
def test_a_report_without_weights_is_refused(name):
    net, balancer = Net(), make(name)
    report = balancer.backward(net.losses(inputs()))
    with pytest.raises(ValueError, match="the report given as weights_of= has no weights"):
        balancer.backward(net.losses(inputs()), weights_of=report)


def test_weights_that_cannot_hold_are_refused():
    net, x = Net(), inputs()
    report = make("mgda").backward(net.losses(x))
    with pytest.raises(ValueError, match="max_norm= would not hold"):
        make("mgda", max_norm=1.0).backward(net.losses(x), weights_of=report)
    with pytest.raises(ValueError, match="the report given as weights_of= is of other objectives"):
        make("mgda", ("a", "b")).backward({key: net.losses(x)[key] for key in "ab"}, weights_of=report)
    balancer = make("mgda")
    balancer.backward(net.losses(x), last=False)
    with pytest.raises(ValueError, match="cannot end an accumulation"):
        balancer.backward(net.losses(x), weights_of=report)


@pytest.mark.parametrize("name", ["mgda", "uncertainty", "alternating"])
def test_l_bfgs_finds_the_minimum_of_the_sum_with_the_step_s_weights(name):
    x = inputs()

    def minimized(net, backward):
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=8, line_search_fn="strong_wolfe")
        for _ in range(2):
            report = None

            def closure():
                nonlocal report
                optimizer.zero_grad()
                report, value = backward(net.losses(x), report)
                return value

            optimizer.step(closure)
        return list(net.parameters())

    def balanced(losses, report):
        now = balancer.backward(losses, weights_of=report)
        return (now if report is None else report), (now.losses * now.weights).sum()

    def plain(losses, weights):  # weights from a balancer that sees the first evaluation alone
        if weights is None:
            weights = reference.backward(losses, retain_graph=True).weights
            for parameter in twin.parameters():
                parameter.grad = None
        value = (torch.stack(list(losses.values())) * weights).sum()
        value.backward()
        return weights, value.detach()

    balancer, reference = make(name, **({"heads": "weighted"} if name == "mgda" else {})), make(name)
    twin = Net()
    for mine, other in zip(minimized(Net(), balanced), minimized(twin, plain), strict=True):
        torch.testing.assert_close(mine, other)
    assert balancer.step == 2


@pytest.mark.parametrize("name", ["pcgrad", "dwa", "moco"])
def test_sam_descends_the_gradient_at_the_ascended_point(name):
    net, balancer, x, rho = Net(), make(name), inputs(), 0.05
    train(net, balancer, steps=2)
    twin, reference = copy.deepcopy(net), copy.deepcopy(balancer)
    at, moved = [], list(net.parameters())
    for advance in (False, True):
        net.zero_grad()
        balancer.backward(net.losses(x), advance=advance)
        if not advance:
            length = torch.stack([p.grad.norm() for p in moved]).norm()
            at = [rho * p.grad / length for p in moved]
            with torch.no_grad():
                torch._foreach_add_(moved, at)
    trial = copy.deepcopy(reference)
    twin.zero_grad()
    trial.backward(twin.losses(x))
    length = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(rho * p.grad / length)
    twin.zero_grad()
    reference.backward(twin.losses(x))
    assert_close(net.gradients(), twin.gradients())
    assert_same(everything(balancer), everything(reference))


@pytest.mark.parametrize(
    ("name", "options"), [*((n, {}) for n in ALL), ("mgda", {"at": "features"}), ("mgda", {"at": "subset"})]
)
def test_a_graph_that_is_kept_can_be_differentiated_again(name, options):
    net, balancer, x = Net(), make(name, **options), inputs()
    z = net.features(x)
    losses = net.losses(x, z)
    given = {"features": {"features": z}, "subset": {"subset": [net.trunk[2].weight]}}.get(options.get("at"), {})
    balancer.backward(losses, retain_graph=True, **given)
    net.zero_grad()
    sum(losses.values()).backward()
    wanted = net.gradients()
    net.zero_grad()
    sum(net.losses(x).values()).backward()
    assert_close(net.gradients(), wanted)


@pytest.mark.parametrize("name", ["sum", "uncertainty", "mgda", "graddrop"])
def test_a_graph_is_freed_unless_it_is_kept(name):
    net, losses = Net(), None
    losses = net.losses(inputs())
    make(name).backward(losses)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        sum(losses.values()).backward()


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")
@pytest.mark.parametrize("name", LOSS)
def test_created_graphs_differentiate_the_sum_with_constant_weights(name):
    net, x = Net(), inputs()
    balancer = make(name)
    report = balancer.backward(net.losses(x), create_graph=True)
    moved = [p for p in net.parameters() if p.grad is not None]
    mine = torch.autograd.grad(sum(p.grad.square().sum() for p in moved), moved)
    losses = torch.stack(list(net.losses(x).values()))
    first = torch.autograd.grad((losses * report.weights).sum(), moved, create_graph=True)
    wanted = torch.autograd.grad(sum(g.square().sum() for g in first), moved)
    for actual, value in zip(mine, wanted, strict=True):
        torch.testing.assert_close(actual, value)
    for p in moved:
        p.grad = None


@pytest.mark.parametrize("name", GRADIENT)
def test_created_graphs_have_no_meaning_where_gradients_are_measured(name):
    net = Net()
    with pytest.raises(ValueError, match=r"measures gradients.*create_graph=True has no meaning"):
        make(name).backward(net.losses(inputs()), create_graph=True)


def test_created_graphs_need_the_whole_batch():
    with pytest.raises(ValueError, match="create_graph=True needs the whole batch in one call"):
        make("realtime").backward(Net().losses(inputs()), create_graph=True, last=False)


@pytest.mark.parametrize("name", ALL)
def test_backward_under_no_grad_differentiates_a_graph_made_before(name):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    wanted = net.gradients()
    net.zero_grad()
    losses = net.losses(x)
    with torch.no_grad():
        make(name).backward(losses)
    assert_same(net.gradients(), wanted)


def test_backward_under_inference_mode_is_refused():
    losses = Net().losses(inputs())
    with torch.inference_mode(), pytest.raises(BalancingError, match=r"sum: backward under torch.inference_mode\(\)"):
        create_balancer("sum", ("a", "b", "c")).backward(losses)


@pytest.mark.parametrize("name", ["mgda", "uncertainty"])
def test_weights_of_a_step_without_an_objective_serve_a_step_without_it(name):
    net, balancer, x = Net(), make(name), inputs()
    report = balancer.backward(net.losses(x) | {"b": None})
    again = balancer.backward(net.losses(x) | {"b": None}, weights_of=report)
    torch.testing.assert_close(again.weights, report.weights, equal_nan=True)
    with pytest.raises(ValueError, match="is of a step without one of the objectives"):
        balancer.backward(net.losses(x), weights_of=report)


@pytest.mark.parametrize("name", [name for name in GRADIENT if core(make(name)).remembers])
@pytest.mark.parametrize("how", ["advance=False", "an error"])
def test_a_parameter_of_a_step_that_does_not_count_is_not_remembered(name, how):
    net, balancer, extra = Net(), make(name), torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    twin = copy.deepcopy(balancer)
    found = []
    for each in (balancer, twin):
        each.backward(net.losses(inputs()))
        net.zero_grad()
        scaled = {key: loss * extra for key, loss in net.losses(inputs(seed=2)).items()}
        if each is balancer and how == "advance=False":
            each.backward(scaled, advance=False)
        elif each is balancer:
            with pytest.raises(BalancingError, match="not finite"):
                each.backward({key: loss * float("nan") for key, loss in scaled.items()})
        net.zero_grad()
        extra.grad = None
        each.backward(net.losses(inputs(seed=3)))
        found.append(net.gradients())
        assert extra.grad is None
    assert_close(*found)
