"""Weights found for groups of parameters, against the same method applied to each group's part of the rows."""

import pytest
import torch
from torch import nn

from balancing import GramianBalancer, balancer_class, create_balancer, group_parameters, list_balancers
from tests.balancing.problems import Net, inputs, reference_rows

OBJECTIVES = ("a", "b", "c")
GRAMIAN = [
    n for n in list_balancers() if isinstance(cls := balancer_class(n), type) and issubclass(cls, GramianBalancer)
]
PER_GROUP = [name for name in GRAMIAN if balancer_class(name).per_group]
UNIT = {"heads": "unit"}


def flat(rows, names):
    return torch.stack([torch.cat([rows[k][name].flatten() for name in names]) for k in OBJECTIVES])


@pytest.mark.parametrize("name", PER_GROUP)
def test_each_group_gets_the_weights_of_its_own_rows(name):
    net, x = Net(OBJECTIVES), inputs()
    rows = reference_rows(net, x)
    losses = torch.stack([loss.detach() for loss in net.losses(x).values()])
    layers = {"trunk.0": ["trunk.0.weight", "trunk.0.bias"], "trunk.2": ["trunk.2.weight", "trunk.2.bias"]}
    alone = create_balancer(name, OBJECTIVES, **UNIT)  # draws, if any, come in the order of the groups
    expected, weights = {}, {}
    for layer, names in layers.items():
        matrix = flat(rows, names)
        weights[layer] = alone.effective_weights(losses, matrix @ matrix.T)
        expected |= {p: sum(w * rows[k][p] for w, k in zip(weights[layer], OBJECTIVES, strict=True)) for p in names}

    report = create_balancer(name, OBJECTIVES, **UNIT).backward(net.losses(x), groups=group_parameters(net, "layer"))
    for parameter, gradient in expected.items():
        torch.testing.assert_close(net.get_parameter(parameter).grad, gradient, rtol=1e-9, atol=1e-12)
    for k in OBJECTIVES:
        torch.testing.assert_close(net.head[k].weight.grad, rows[k][f"head.{k}.weight"], rtol=1e-9, atol=1e-12)
    assert list(report.groups) == ["trunk.0", "trunk.2"]
    shares = {"trunk.0": 48 / 102, "trunk.2": 54 / 102}  # of the parameters
    mean = sum(share * weights[layer] for layer, share in shares.items())
    torch.testing.assert_close(report.weights, mean, rtol=1e-9, atol=1e-12)
    for layer in layers:
        torch.testing.assert_close(report.groups[layer].weights, weights[layer], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("by", ["layer", "network", "tensor"])
def test_the_report_has_conflicts_per_group_and_the_whole_gramian(by):
    net, x = Net(OBJECTIVES), inputs()
    rows = reference_rows(net, x)
    groups = group_parameters(net, by)
    report = create_balancer("pcgrad", OBJECTIVES).backward(net.losses(x), groups=groups)
    matrix = flat(rows, [name for name in rows["a"] if name.startswith("trunk")])
    torch.testing.assert_close(report.gramian, matrix @ matrix.T, rtol=1e-9, atol=1e-9)
    names = {id(p): name for name, p in net.named_parameters()}
    for name, group in report.groups.items():
        part = flat(rows, [names[id(p)] for p in groups[name]])
        cosines = part @ part.T / part.norm(dim=1).outer(part.norm(dim=1))
        conflicts = (cosines[*torch.triu_indices(3, 3, 1)] < 0).double().mean()
        assert group.conflicts == pytest.approx(float(conflicts))
        assert report.as_dict()[f"conflicts/{name}"] == group.conflicts


def test_group_parameters_names_layers_networks_and_tensors():
    net = Net(("a", "b"))
    net.trunk[2].bias.requires_grad_(False)
    assert list(group_parameters(net, "layer")) == ["trunk.0", "trunk.2", "head.a", "head.b"]
    assert list(group_parameters(net, "network")) == ["trunk", "head"]
    tensors = group_parameters(net, "tensor")
    assert list(tensors)[:3] == ["trunk.0.weight", "trunk.0.bias", "trunk.2.weight"]
    assert "trunk.2.bias" not in tensors
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert [len(group) for group in group_parameters(tied, "layer").values()] == [2, 1]
    alone = nn.ParameterDict({"scale": nn.Parameter(torch.ones(1))})
    assert list(group_parameters(alone, "layer")) == ["scale"]
    with pytest.raises(ValueError, match="block"):
        group_parameters(net, "block")


def test_one_group_of_everything_is_the_whole():
    x, gradients = inputs(), []
    for whole in (True, False):
        net = Net(OBJECTIVES)
        groups = None if whole else {"all": net.shared()}
        create_balancer("mgda", OBJECTIVES).backward(net.losses(x), groups=groups)
        gradients.append(net.gradients())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_parameters_in_no_group_form_a_group_of_their_own():
    net, x = Net(OBJECTIVES), inputs()
    report = create_balancer("mgda", OBJECTIVES).backward(net.losses(x), groups={"first": net.trunk[0].parameters()})
    assert list(report.groups) == ["first", "others"]


def test_max_norm_holds_for_all_groups_together():
    net, x = Net(OBJECTIVES), inputs()
    free = Net(OBJECTIVES)
    create_balancer("pcgrad", OBJECTIVES).backward(free.losses(x), groups=group_parameters(free, "layer"))
    create_balancer("pcgrad", OBJECTIVES, max_norm=0.1).backward(net.losses(x), groups=group_parameters(net, "layer"))
    update, longer = (torch.cat([p.grad.flatten() for p in each.shared()]) for each in (net, free))
    assert float(update.norm()) == pytest.approx(0.1)
    torch.testing.assert_close(update / update.norm(), longer / longer.norm())


def test_micro_batches_and_a_method_before_work_per_group():
    halves, gradients = inputs().chunk(2), []
    for parts in (1, 2):
        net = Net(OBJECTIVES)
        balancer = create_balancer(["realtime", "mgda"], OBJECTIVES)
        groups = group_parameters(net, "layer")
        for index in range(parts):
            x = inputs() if parts == 1 else halves[index]
            losses = {name: loss / parts for name, loss in net.losses(x).items()}
            balancer.backward(losses, groups=groups, last=index == parts - 1)
        gradients.append(net.gradients())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sum", {}, "sum: groups= needs a method that finds weights from the Gramian alone, such as pcgrad"),
        ("graddrop", {}, "graddrop: groups= needs a method"),
        ("moco", {}, "moco: groups= needs a method"),
        *((name, {}, "keeps state of the whole gradients") for name in GRAMIAN if name not in PER_GROUP),
        ("mgda", {"at": "features"}, "groups= needs at='shared'"),
        ("mgda", {"update_every": 2}, "update_every="),
        ("mgda", {"weight_ema": 0.5}, "weight_ema="),
    ],
)
def test_what_has_no_weights_per_group_is_refused(name, options, message):
    net, x = Net(OBJECTIVES), inputs()
    balancer = create_balancer(name, OBJECTIVES, **options)
    with pytest.raises(ValueError, match=message):
        balancer.backward(net.losses(x), groups=group_parameters(net, "layer"))
    assert balancer.step == 0


def test_a_parameter_in_two_groups_is_refused():
    net, x = Net(OBJECTIVES), inputs()
    with pytest.raises(ValueError, match=r"mgda: a parameter of shape \(8, 5\) is in the groups 'one' and 'two'"):
        create_balancer("mgda", OBJECTIVES).backward(net.losses(x), groups={"one": net.shared(), "two": net.shared()})


def test_groups_of_the_objectives_that_are_present():
    net, alone, x = Net(OBJECTIVES), Net(OBJECTIVES), inputs()
    report = create_balancer("mgda", OBJECTIVES).backward(
        net.losses(x) | {"b": None}, groups=group_parameters(net, "layer")
    )
    pair = {key: loss for key, loss in alone.losses(x).items() if key != "b"}
    wanted = create_balancer("mgda", ("a", "c")).backward(pair, groups=group_parameters(alone, "layer"))
    for name, gradient in alone.gradients().items():
        torch.testing.assert_close(net.gradients()[name], gradient)
    for layer, group in wanted.groups.items():
        torch.testing.assert_close(report.groups[layer].weights[[0, 2]], group.weights)
        assert report.groups[layer].weights[1].isnan()
        assert report.groups[layer].conflicts == group.conflicts


def test_a_probe_on_the_side_keeps_its_gradient_beside_groups():
    net, x = Net(OBJECTIVES), inputs()
    losses = net.losses(x)
    losses["b"] = net.losses(x, net.features(x).detach())["b"]
    report = create_balancer("mgda", OBJECTIVES).backward(losses, groups=group_parameters(net, "layer"))
    pair = Net(OBJECTIVES)
    wanted = {key: loss for key, loss in pair.losses(x).items() if key != "b"}
    create_balancer("mgda", ("a", "c")).backward(wanted, groups=group_parameters(pair, "layer"))
    torch.testing.assert_close(net.trunk[0].weight.grad, pair.trunk[0].weight.grad)
    assert all(float(group.weights[1]) == 1.0 for group in report.groups.values())
