"""The engine: whatever the method, the gradients that arrive in ``.grad`` are the promised combination."""

import pytest
import torch
import torch._functorch.config
from torch import _functorch as functorch
from torch import nn

from balancing import BalancingError, Composed, JacobianBalancer, balancer_class, create_balancer
from balancing.measuring.gradients import _CHUNK, Gradients
from balancing.measuring.graph import find_leaves
from balancing.measuring.looped import collect
from tests.balancing.problems import (
    ALL,
    COMBINES,
    GRADIENT,
    GRAMIAN,
    JACOBIAN,
    TURNS,
    WEIGHS,
    Net,
    core,
    inputs,
    make,
    reference_rows,
)

#: Methods that need more objectives than one or two.
MANY = ("krum", "trimmed_mean")


class RowMean(JacobianBalancer):
    """Sum of the rows by way of the Jacobian, to check that path against the others."""

    name = "row_mean"

    def combine(self, losses, jacobian):
        return jacobian.sum(0)


def expected(rows, balancer, report):
    """The weighted sum of the rows; heads as the balancer's rule has it. Objectives whose turn it is not give nothing."""
    heads = balancer.head_weights
    heads = report.weights if heads is None else heads
    total = {}
    for weight, head, gradients in zip(report.weights.tolist(), heads.tolist(), rows.values(), strict=True):
        for name, gradient in gradients.items():
            if weight != 0 or balancer.name not in TURNS:
                total[name] = total.get(name, 0) + (head if name.startswith("head") else weight) * gradient
    return total


def assert_close(actual, wanted, **tolerance):
    assert actual.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(actual[name], wanted[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")


def shared(gradients):
    return torch.cat([g.flatten() for name, g in gradients.items() if name.startswith("trunk")])


@pytest.mark.parametrize("name", WEIGHS)
def test_gradients_are_the_weighted_sum(name):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    balancer = make(name)
    report = balancer.backward(net.losses(x))
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize("name", COMBINES)
def test_jacobian_methods_combine_the_rows_and_leave_heads_their_gradients(name):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    balancer, twin = make(name), make(name)
    seen = net.losses(x)
    report = balancer.backward(seen, shared=net.shared())
    jacobian = torch.stack([shared(rows[key]) for key in net.objectives])
    heads = balancer.head_weights
    if name in TURNS:
        jacobian[1:] = 0
    losses = torch.stack([seen[key].detach() for key in net.objectives])
    update = core(twin).combine(losses * heads, jacobian * heads[:, None])
    assert report.weights is None
    torch.testing.assert_close(shared(net.gradients()), update)
    for i, key in enumerate(net.objectives):
        for leaf, gradient in rows[key].items():
            if leaf.startswith("head"):
                found = net.gradients().get(leaf, torch.zeros_like(gradient))
                turn = 0 if name in TURNS and i > 0 else 1
                torch.testing.assert_close(found, turn * heads[i] * gradient)


@pytest.mark.parametrize("heads", ["unit", "weighted"])
@pytest.mark.parametrize("name", [n for n in GRADIENT if n in WEIGHS])
def test_heads_get_what_the_option_says(name, heads):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    balancer = make(name, heads=heads)
    report = balancer.backward(net.losses(x))
    assert (balancer.head_weights is None) == (heads == "weighted")
    assert_close(net.gradients(), expected(rows, balancer, report))


def test_sum_is_plain_backward_bit_for_bit():
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    create_balancer("sum", net.objectives).backward(net.losses(x))
    balanced = net.gradients()
    net.zero_grad()
    torch.stack(list(net.losses(x).values())).sum().backward()
    plain = net.gradients()
    assert all(torch.equal(balanced[name], plain[name]) for name in plain)


@pytest.mark.parametrize("name", [n for n in ALL if n not in MANY])
def test_one_objective_keeps_the_direction_of_its_gradient(name):
    net, x = Net(("a",)), inputs()
    rows = reference_rows(net, x)["a"]
    balancer = make(name, ("a",))
    report = balancer.backward(net.losses(x))
    found, own = shared(net.gradients()), shared(rows)
    scale = float(found @ own / (own @ own))
    torch.testing.assert_close(found, scale * own)
    assert scale > 0
    if name in GRADIENT and balancer.convention != "own":
        assert scale == pytest.approx(float(balancer.head_weights[0]) if isinstance(balancer, Composed) else 1.0)
    if report.weights is not None:
        assert scale == pytest.approx(float(report.weights[0]))


@pytest.mark.parametrize("name", GRADIENT)
def test_given_shared_parameters_equal_discovered_ones(name):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    discovered = net.gradients()
    net.zero_grad()
    order = [*collect_order(net, x)]
    make(name).backward(net.losses(x), shared=order)
    assert_close(net.gradients(), discovered, rtol=0, atol=0)


def collect_order(net, x):
    """The shared parameters in the order in which the graph lists them."""
    masks = find_leaves(list(net.losses(x).values()))
    return [leaf for leaf, mask in masks.items() if mask.bit_count() > 1]


def test_jacobian_path_equals_gramian_path_and_one_backward():
    net, x = Net(), inputs()
    report = RowMean(net.objectives).backward(net.losses(x))
    by_rows = net.gradients()
    net.zero_grad()
    create_balancer("sum", net.objectives).backward(net.losses(x))
    assert_close(by_rows, net.gradients())
    assert report.weights is None
    assert report.norms is not None


@pytest.mark.parametrize("name", GRAMIAN)
def test_at_features_finds_weights_there_and_passes_them_on(name):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    z = net.features(x)
    balancer = make(name, at="features")
    report = balancer.backward(net.losses(x, z), features=z)
    assert_close(net.gradients(), expected(rows, balancer, report))
    z = net.features(x)
    grads = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in net.losses(x, z).values()]
    flat = torch.stack([g.flatten() for g in grads])
    torch.testing.assert_close(report.gramian, flat @ flat.T)


@pytest.mark.parametrize("name", [n for n in JACOBIAN if not balancer_class(n).remembers])
def test_jacobian_methods_combine_at_features(name):
    net, x = Net(), inputs()
    z = net.features(x)
    losses = net.losses(x, z)
    rows = torch.stack([torch.autograd.grad(v, z, retain_graph=True)[0].flatten() for v in losses.values()])
    update = core(make(name)).combine(torch.stack(list(losses.values())).detach(), rows)
    wanted = torch.autograd.grad(z, net.shared(), update.view_as(z), retain_graph=True)
    make(name, at="features").backward(losses, features=z)
    for parameter, gradient in zip(net.shared(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", GRAMIAN)
@pytest.mark.parametrize("heads", ["unit", "weighted"])
def test_at_subset_measures_there_and_weighs_everything(name, heads):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    last = [net.trunk[2].weight]
    balancer = make(name, at="subset", heads=heads)
    report = balancer.backward(net.losses(x), subset=last)
    flat = torch.stack([rows[k]["trunk.2.weight"].flatten() for k in net.objectives])
    torch.testing.assert_close(report.gramian, flat @ flat.T)
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize("name", [n for n in WEIGHS if balancer_class(n).needs != "nothing"])
def test_every_keeps_weights_between_refreshes(name, monkeypatch):
    net, balancer, seen, calls, reports = Net(), make(name, update_every=3), [], [], []
    method, verb = core(balancer), "effective_weights"
    if balancer_class(name).needs == "jacobian":
        verb = "compute_weights"
    find = getattr(method, verb)
    monkeypatch.setattr(method, verb, lambda *a: calls.append(1) or find(*a))
    for step in range(5):
        x = inputs(seed=step)
        rows = reference_rows(net, x)
        report = balancer.backward(net.losses(x))
        seen.append(report.weights.double())
        reports.append((report, seen[-1].clone()))
        assert len(calls) == 1 + step // 3
        if step % 3 == 0:
            assert_close(net.gradients(), expected(rows, balancer, report), rtol=1e-6, atol=1e-6)
        else:
            torch.testing.assert_close(seen[step], seen[step - 1], rtol=1e-6, atol=0)
            heads = balancer.head_weights
            wanted = combination(rows, seen[step], seen[step] if heads is None else heads)
            assert_close(net.gradients(), wanted, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(report.weights.double(), weights) for report, weights in reports)  # later steps change none


def combination(rows, weights, heads):
    total = {}
    for weight, head, gradients in zip(weights.tolist(), heads.tolist(), rows.values(), strict=True):
        for name, gradient in gradients.items():
            total[name] = total.get(name, 0) + (head if name.startswith("head") else weight) * gradient
    return total


@pytest.mark.parametrize("name", [n for n in ALL if not balancer_class(n).unbiased])
def test_micro_batches_equal_one_batch(name):
    net, x = Net(), inputs(12)
    whole = make(name)
    whole.backward(net.losses(x))
    wanted, wanted_theta = net.gradients(), [p.grad for p in whole.parameters()]
    net.zero_grad()
    parts = make(name)
    for i, part in enumerate(x.chunk(3)):
        losses = {key: loss / 3 for key, loss in net.losses(part).items()}
        report = parts.backward(losses, last=i == 2)
        if i < 2 and parts.needs != "nothing":
            assert report.weights is None
    assert_close(net.gradients(), wanted)
    for parameter, gradient in zip(parts.parameters(), wanted_theta, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", [n for n in ALL if balancer_class(n).unbiased])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_micro_batches_are_independent_samples_for_an_unbiased_gramian(name, count, monkeypatch):
    net, x, balancer, shown = Net(), inputs(12), make(name), []
    monkeypatch.setattr(
        balancer,
        "compute_weights",
        lambda losses, gramian, find=balancer.compute_weights: (shown.append(gramian), find(losses, gramian))[1],
    )
    parts = [{key: shared(row) for key, row in reference_rows(net, part).items()} for part in x.chunk(count)]
    rows = reference_rows(net, x)
    for i, part in enumerate(x.chunk(count)):
        losses = {key: loss / count for key, loss in net.losses(part).items()}
        report = balancer.backward(losses, last=i == count - 1)
    halves = [
        torch.stack([torch.stack([p[key] for p in parts[i::2]]).mean(0) for key in net.objectives]) for i in (0, 1)
    ]
    if count == 3:  # the third joins the first
        halves[0] = torch.stack([(parts[0][key] + parts[2][key]) / 2 for key in net.objectives])
    cross = halves[0] @ halves[1].T
    torch.testing.assert_close(shown[0], (cross + cross.T) / 2)
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize("name", ALL)
def test_gradients_accumulate_like_backward(name):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    once = net.gradients()
    make(name).backward(net.losses(x))
    assert_close(net.gradients(), {key: 2 * g for key, g in once.items()})


@pytest.mark.parametrize("name", [name for name in ALL if balancer_class(name).remembers])
def test_gradients_of_steps_add_up_where_memory_is_used_again(name):
    net, balancers = Net(), [make(name), make(name)]
    total = {}
    for seed in range(5):
        net.zero_grad()
        balancers[0].backward(net.losses(inputs(seed=seed)))
        total |= {key: total.get(key, 0) + g for key, g in net.gradients().items()}
    net.zero_grad()
    for seed in range(5):
        balancers[1].backward(net.losses(inputs(seed=seed)))
    assert_close(net.gradients(), total)


@pytest.mark.parametrize("name", [name for name in JACOBIAN if name not in TURNS])
def test_shared_parameters_of_two_precisions_get_gradients_of_theirs(name):
    net, x = Net(dtype=torch.float32), inputs()
    net.trunk[0].double()
    z = net.trunk[1:](net.trunk[0](x).float())
    make(name).backward(net.losses(x.float(), z))
    assert {p.grad.dtype for p in net.shared()} == {torch.float32, torch.float64}


@pytest.mark.parametrize("size", [100, _CHUNK])
@pytest.mark.parametrize("name", ["conflict_free", "imtl_g"])
def test_dependent_gradients_in_single_precision_are_those_of_double(name, size):
    weights, a, b = [], *torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64):
        p = nn.Parameter(torch.ones(size, dtype=dtype))
        rows = {"a": a.to(dtype), "b": b.to(dtype), "c": 0.3 * a.to(dtype) + 2 * b.to(dtype)}
        weights.append(make(name).backward({key: (row * p).sum() + 9 for key, row in rows.items()}).weights)
    assert weights[0].abs().max() > 0.1
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_only_given_parameters_receive_gradients(name):
    net, x = Net(), inputs()
    chosen = [*net.trunk[0].parameters(), *net.head["a"].parameters()]  # the first objective has the first turn
    make(name).backward(net.losses(x), parameters=chosen)
    touched = {id(p) for p in net.parameters() if p.grad is not None}
    assert touched == {id(p) for p in chosen}


@pytest.mark.parametrize("name", ALL)
def test_without_shared_parameters_each_objective_keeps_its_gradient(name):
    names = ("a", "b", "c")
    nets = {key: nn.Linear(3, 1).double() for key in names}
    losses = {key: net(torch.ones(4, 3).double()).square().mean() + 1 for key, net in nets.items()}
    plain = {key: torch.autograd.grad(losses[key], net.weight, retain_graph=True)[0] for key, net in nets.items()}
    balancer = make(name, names)
    report = balancer.backward(losses)
    heads = balancer.head_weights
    heads = report.weights if heads is None else heads
    active = balancer_class(name).active(make(name, names))
    for i, key in enumerate(names):
        if active is None or i in active:
            torch.testing.assert_close(nets[key].weight.grad, float(heads[i]) * plain[key])
        else:
            assert nets[key].weight.grad is None


@pytest.mark.parametrize("name", [n for n in GRAMIAN if n not in MANY])
def test_gradients_that_autograd_aliases_are_not_corrupted(name):
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    q = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    constant = torch.tensor([1.0, -2.0], dtype=torch.float64)
    losses = {"a": (p + q).sum(), "b": 3 * ((p + q) * constant).sum() + 50}  # both rows are one tensor for p and q
    report = make(name, ("a", "b")).backward(losses)
    wanted = report.weights[0] * torch.ones(2) + report.weights[1] * 3 * constant
    torch.testing.assert_close(p.grad, wanted)
    torch.testing.assert_close(q.grad, wanted)
    assert p.grad.data_ptr() != q.grad.data_ptr()
    assert constant.tolist() == [1.0, -2.0]


def test_weights_come_from_the_true_gramian_for_every_layout():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 512, 3, padding=1))
    net.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert net[2].weight.numel() > _CHUNK
    losses = {"a": net(x).square().mean(), "b": (net(x) - 1).abs().mean(), "c": net(x)[:, :3].exp().mean()}
    points = list(net.parameters())
    flat = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(v, points, retain_graph=True)]).double()
            for v in losses.values()
        ]
    )
    report = create_balancer("mgda", ("a", "b", "c")).backward(losses)
    torch.testing.assert_close(report.gramian, flat @ flat.T, rtol=1e-5, atol=1e-9)


def test_the_gramian_reads_rows_in_small_pieces():
    big, small = torch.zeros(3 * _CHUNK + 5), [torch.zeros(7) for _ in range(10)]
    rows = [[torch.ones_like(p) * (k + 1) for p in (big, *small)] for k in range(2)]
    gradients = Gradients([big, *small], rows, [{}, {}])
    assert max(piece.numel() for pieces in gradients._pieces() for piece in pieces) <= 2 * _CHUNK
    n = 3 * _CHUNK + 75
    assert gradients.gramian().tolist() == [[n, 2 * n], [2 * n, 4 * n]]


def test_rows_with_missing_parts_count_as_zero():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    gradients = collect([p.sum() + q.sum(), 2 * p.sum()], [p, q], {}, keep_graph=False)
    assert gradients.gramian().tolist() == [[5.0, 4.0], [4.0, 8.0]]
    assert [t.tolist() for t in gradients.combine([1.0, 1.0])] == [[3.0, 3.0], [1.0, 1.0, 1.0]]


def test_find_leaves_names_the_objectives_of_each_parameter():
    net, x = Net(("a", "b")), inputs()
    masks = find_leaves(list(net.losses(x).values()))
    assert {masks[p] for p in net.trunk.parameters()} == {0b11}
    assert {masks[p] for p in net.head["a"].parameters()} == {0b01}
    assert {masks[p] for p in net.head["b"].parameters()} == {0b10}
    z = net.features(x)
    assert not set(net.trunk.parameters()) & set(find_leaves(list(net.losses(x, z).values()), stop=[z]))


# with a compiled graph GradDrop's coordinates come in another order, and heads whose turn it is not get zeros
@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in ("graddrop", *TURNS)])
def test_compiled_model_gives_the_gradients_of_the_eager_one(name):
    functorch.config.donated_buffer = False
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    eager = net.gradients()
    net.zero_grad()
    compiled = torch.compile(net.losses, backend="aot_eager")
    make(name).backward(compiled(x), shared=net.shared())
    assert_close(net.gradients(), eager)


@pytest.mark.parametrize("name", ALL)
def test_loss_scaling_cancels(name):
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    report = make(name).backward(net.losses(x))
    plain = net.gradients()
    net.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaled = make(name).backward(net.losses(x), scaler=scaler)
    if report.weights is not None:
        torch.testing.assert_close(scaled.weights, report.weights, rtol=1e-5, atol=1e-6)
    assert_close({key: g / 2**16 for key, g in net.gradients().items()}, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in TURNS])
def test_fp16_overflow_is_left_to_the_scaler(name):
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    report = make(name).backward(net.losses(x), scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert report.skipped
    assert scaler.get_scale() < 1e38
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", ALL)
def test_bf16_autocast_is_finite(name):
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.losses(x)
    report = make(name).backward(losses)
    assert report.weights is None or report.weights.isfinite().all()
    assert all(g.isfinite().all() for g in net.gradients().values())


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


def test_a_loss_that_depends_on_nothing_is_named():
    net, x = Net(), inputs()
    losses = net.losses(x)
    losses["b"] = losses["b"].detach()
    with pytest.raises(BalancingError, match="'b' does not depend on any trainable parameter"):
        make("sum").backward(losses)


def test_a_loss_that_reaches_nothing_shared_is_named():
    net, x = Net(), inputs()
    losses = net.losses(x)
    losses["b"] = net.head["b"].weight.square().sum()
    with pytest.raises(BalancingError, match="'b' reaches none of the shared parameters"):
        make("mgda").backward(losses)


def test_a_shared_parameter_that_bypasses_the_features_is_an_error():
    net, x = Net(), inputs()
    z = net.features(x)
    losses = {name: loss + net.trunk[0].weight.square().sum() for name, loss in net.losses(x, z).items()}
    with pytest.raises(BalancingError, match="without passing through the features"):
        make("mgda", at="features").backward(losses, features=z)


def two_levels(x, copy):
    """Features at two depths, and two losses that read both."""
    torch.manual_seed(0)
    first, second, heads = nn.Linear(5, 4).double(), nn.Linear(4, 4).double(), [nn.Linear(8, 1).double() for _ in "ab"]
    low = first(x).tanh()
    high = second(low).tanh()
    features = [low.view_as(low), high.view_as(high)] if copy else [low, high]
    z = torch.cat(features, 1)
    losses = {"a": heads[0](z).square().mean(), "b": (heads[1](z) - 1).square().mean()}
    return losses, features, [*first.parameters(), *second.parameters()]


def test_features_computed_from_one_another_are_refused_and_copies_are_exact():
    losses, features, _ = two_levels(inputs(), copy=False)
    with pytest.raises(BalancingError, match="computed from another"):
        make("gradnorm", ("a", "b"), at="features", init="equal").backward(losses, features=features)
    losses, features, trunk = two_levels(inputs(), copy=True)
    wanted = torch.autograd.grad(losses["a"] + losses["b"], trunk, retain_graph=True)
    make("gradnorm", ("a", "b"), at="features", init="equal").backward(losses, features=features)
    for parameter, gradient in zip(trunk, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_trunk_parameter_that_one_loss_reads_past_the_features_is_an_error():
    trunk, head = nn.Linear(5, 4).double(), nn.Linear(4, 1).double()
    x = inputs()
    z = trunk(x).tanh()
    losses = {"a": (z @ trunk.weight - 1).square().mean(), "b": head(z).square().mean()}
    with pytest.raises(BalancingError, match="without passing through the features"):
        make("mgda", ("a", "b"), at="features").backward(losses, features=z)


def test_another_output_of_the_layer_that_made_the_features_is_not_lost():
    trunk, head = nn.Linear(5, 8).double(), nn.Linear(4, 1).double()
    z, side = trunk(inputs()).chunk(2, 1)
    losses = {"a": (z + side).square().mean(), "b": (head(z) - side).square().mean()}
    with pytest.raises(BalancingError, match="without passing through the features"):
        make("mgda", ("a", "b"), at="features").backward(losses, features=z)


@pytest.mark.parametrize("name", ["mgda", "realtime"])
def test_micro_batches_may_take_different_paths(name):
    torch.manual_seed(0)
    left, right, heads = nn.Linear(5, 4).double(), nn.Linear(5, 4).double(), nn.Linear(4, 2).double()
    x = inputs()

    def losses(*trunks):
        outs = [heads(trunk(x).tanh()).square().mean(0) for trunk in trunks]
        return {"a": sum(o[0] for o in outs), "b": sum(o[1] for o in outs)}

    parameters = [*left.parameters(), *right.parameters(), *heads.parameters()]
    report = make(name, ("a", "b")).backward(losses(left, right))
    wanted = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    balancer = make(name, ("a", "b"))
    balancer.backward(losses(left), last=False)
    parts = balancer.backward(losses(right))
    torch.testing.assert_close(parts.weights, report.weights)
    for p, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.parametrize("name", ["sum", "mgda"])
def test_a_failed_micro_batch_is_forgotten(name):
    net, x = Net(), inputs()
    balancer = make(name)
    balancer.backward(net.losses(x), last=False)
    with pytest.raises(ValueError, match="is missing"):
        balancer.backward({"a": net.losses(x)["a"]})
    report = balancer.backward(net.losses(x))
    torch.testing.assert_close(report.losses, torch.stack(list(net.losses(x).values())).detach())


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


@pytest.mark.parametrize("name", ["uncertainty", "imtl_l", "gradnorm"])
def test_own_parameters_may_be_frozen(name):
    net, x = Net(), inputs()
    frozen, free = make(name).requires_grad_(False), make(name)
    weights = [balancer.backward(net.losses(x)).weights for balancer in (frozen, free)]
    torch.testing.assert_close(*weights)
    assert all(p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None for p in free.parameters())


@pytest.mark.parametrize(("at", "name"), [("features", "mgda"), ("subset", "mgda"), ("features", "graddrop")])
def test_features_that_are_named_twice_count_once(at, name):
    net, x = Net(), inputs()
    found = []
    for times in (1, 2):
        net.zero_grad()
        z = net.features(x)
        given = {"features": [z] * times, "subset": [net.trunk[0].weight] * times}[at]
        report = make(name, at=at).backward(net.losses(x, z), **{at: given})
        found.append(net.gradients() | {"gramian": report.gramian})
    assert_close(*found)


def test_gradients_that_cannot_be_measured_are_refused():
    p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    losses = {"a": p.abs().sum(), "b": (p - 1j).abs().sum()}
    with pytest.raises(BalancingError, match="complex"):
        make("mgda", ("a", "b")).backward(losses)
    table = nn.Embedding(5, 2, sparse=True)
    row = table(torch.tensor([1]))
    with pytest.raises(BalancingError, match="sparse=False"):
        make("mgda", ("a", "b")).backward({"a": row.sum(), "b": row.square().sum()})


def test_frozen_parameters_may_be_listed():
    net, x = Net(), inputs()
    net.trunk[0].weight.requires_grad_(False)
    for name in ("sum", "mgda"):
        make(name).backward(net.losses(x), parameters=list(net.parameters()), shared=net.shared())
    assert net.trunk[0].weight.grad is None
    assert net.trunk[2].weight.grad is not None


@pytest.mark.parametrize("exponent", [-24, 20])
def test_lengths_beyond_the_squares_of_float32_are_measured(exponent):
    p = nn.Parameter(torch.ones(3))
    losses = {"a": 10.0**exponent * p.sum(), "b": 2 * 10.0**exponent * p.sum()}
    report = make("mgda", ("a", "b")).backward(losses)
    assert (report.norms[1] / report.norms[0]).item() == pytest.approx(2)


def test_autocast_does_not_touch_the_gramian():
    p = nn.Parameter(torch.randn(50, 50))
    gradients = collect([(p * p).sum(), p.sin().sum()], [p], {}, keep_graph=False)
    plain = gradients.gramian()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradients.gramian(), plain)


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
    with pytest.raises(ValueError, match=r"needs backward\(\.\.\., features="):
        make("mgda", at="features").backward(losses)
    with pytest.raises(ValueError, match=r"needs backward\(\.\.\., subset="):
        make("mgda", at="subset").backward(losses)
    with pytest.raises(ValueError, match="cannot collect micro-batches"):
        make("mgda", at="features").backward(losses, features=x, last=False)


def test_report_describes_the_gradients():
    net, x = Net(("a", "b")), inputs()
    rows = reference_rows(net, x)
    report = make("pcgrad", ("a", "b")).backward(net.losses(x))
    flat = [torch.cat([g.flatten() for key, g in rows[k].items() if key.startswith("trunk")]) for k in "ab"]
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=0)
    torch.testing.assert_close(report.norms, torch.stack([f.norm() for f in flat]))
    torch.testing.assert_close(report.cosines[0, 1], cosine)
    assert report.conflicts == float(cosine < 0)
    assert set(report.as_dict()) == {
        "loss/a", "loss/b", "weight/a", "weight/b", "norm/a", "norm/b", "cosine/a/b", "conflicts",
    }  # fmt: skip
