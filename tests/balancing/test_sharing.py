"""Parameters of merged outputs are sorted as those of separate outputs, by their gradients."""

import copy
import gc
import io
import warnings
import weakref

import pytest
import torch
import torch._functorch.config
from torch import _functorch as functorch
from torch import nn

from balancing import BalancingError, balancer_class, create_balancer
from balancing.measuring.leaves import find_leaves
from tests.balancing.problems import ALL, GRADIENT, GRAMIAN, MANY, TURNS, Net, assert_close, core, inputs, make
from tests.balancing.test_distributed import two_processes

REMEMBERS = [name for name in ALL if core(make(name)).remembers]
#: Methods that do not draw a number per coordinate, whose order a merged graph changes.
REPEATABLE = [name for name in GRADIENT if name != "graddrop"]


def merge(outputs, how):
    """The same outputs, after an operation through which each reaches all of them in the graph."""
    if how == "concatenated":
        return list(torch.cat(outputs, 1).split(outputs[0].shape[1], 1))
    if how == "stacked":
        return list(torch.stack(outputs).unbind())
    if how == "in place":
        table = outputs[0].new_zeros(len(outputs), *outputs[0].shape)
        for k, output in enumerate(outputs):
            table[k] = output
        return list(table)
    if how == "some":
        return [*merge(outputs[:2], "concatenated"), *outputs[2:]]
    return outputs


def merged_losses(net, x, how, features=None):
    """``Net.losses`` of merged outputs; ``matrix`` takes the mean of a table with a column per objective."""
    z = net.features(x) if features is None else features
    outputs = merge([net.head[name](z) for name in net.objectives], how)
    errors = [10.0**i * (out - (-1.0) ** i * (1 + x[:, :2])).square() for i, out in enumerate(outputs)]
    if how == "matrix":
        values = torch.stack([error.mean(1) for error in errors], 1).mean(0).unbind()
    else:
        values = [error.mean() for error in errors]
    return dict(zip(net.objectives, values, strict=True))


def steps(balancer, net, how, count=3, **arguments):
    """Gradients and weights of some steps."""
    found = []
    for seed in range(count):
        net.zero_grad()
        x = inputs(seed=seed)
        report = balancer.backward(merged_losses(net, x, how), **arguments)
        weights = {} if report.weights is None else {"weights": report.weights}
        found.append(net.gradients() | weights)
    return found


def assert_equal_steps(found, wanted):
    for mine, reference in zip(found, wanted, strict=True):
        assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["concatenated", "stacked", "in place", "matrix", "some"])
@pytest.mark.parametrize("name", REPEATABLE)
def test_merged_outputs_give_the_gradients_of_separate_ones(name, how):
    wanted = steps(make(name), Net(), "separate", count=4)
    assert_equal_steps(steps(make(name), Net(), how, count=4), wanted)


@pytest.mark.parametrize("objectives", ["ab", "abcde"])
@pytest.mark.parametrize("name", ["pcgrad", "mgda", "nash_mtl", "moco", "conflict_free_momentum", "excess_mtl"])
def test_merged_outputs_of_two_and_five_objectives(name, objectives):
    wanted = steps(make(name, objectives), Net(tuple(objectives)), "separate", count=7)
    assert_equal_steps(steps(make(name, objectives), Net(tuple(objectives)), "concatenated", count=7), wanted)


@pytest.mark.parametrize("heads", ["unit", "weighted"])
@pytest.mark.parametrize("options", [{"update_every": 3}, {"at": "subset"}])
@pytest.mark.parametrize("name", ["pcgrad", "mgda", "nash_mtl"])
def test_weights_of_an_earlier_step_and_of_a_subset_leave_merged_heads_theirs(name, options, heads):
    found = []
    for how in ("separate", "concatenated"):
        net = Net()
        found.append(steps(make(name, heads=heads, **options), net, how, subset=[net.trunk[2].weight]))
    assert_equal_steps(*found)


@pytest.mark.parametrize("name", GRAMIAN)
def test_merged_outputs_at_features(name):
    found = []
    for how in ("separate", "concatenated"):
        net, x = Net(), inputs()
        balancer = make(name, at="features")
        for _ in range(2):
            net.zero_grad()
            z = net.features(x)
            report = balancer.backward(merged_losses(net, x, how, z), features=z)
        found.append(net.gradients() | {"weights": report.weights})
    assert_close(*found, rtol=1e-9, atol=1e-12)


def test_a_merged_parameter_that_two_losses_use_past_the_features_is_an_error():
    net, x = Net(), inputs()
    z = net.features(x)
    extra = nn.Parameter(torch.ones(6, dtype=torch.float64))
    losses = merged_losses(net, x, "concatenated", z * extra)
    with pytest.raises(
        BalancingError, match=r"1 shared parameter\(s\) are reached without passing through the features"
    ):
        make("mgda", at="features").backward(losses, features=z)


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "sdmgrad", "modo", "moco", "trimmed_mean"])
def test_micro_batches_of_merged_outputs(name):
    found = []
    for how in ("separate", "concatenated"):
        net, balancer = Net(), make(name)
        for _ in range(2):
            net.zero_grad()
            for i, part in enumerate(inputs().chunk(3)):
                balancer.backward(merged_losses(net, part, how), last=i == 2)
        found.append(net.gradients())
    assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pieces", [("abc", "b"), ("bc", "ab"), ("ab", "bc", "a")])
@pytest.mark.parametrize("name", [name for name in REPEATABLE if not balancer_class(name).unbiased])
def test_micro_batches_of_merged_outputs_with_different_objectives(name, pieces):
    found = []
    for how in ("separate", "concatenated"):
        net, balancer = Net(), make(name)
        batches, totals = inputs(12).chunk(len(pieces)), {}
        for x, piece in zip(batches, pieces, strict=True):
            losses = {key: loss if key in piece else None for key, loss in merged_losses(net, x, how).items()}
            totals |= {key: totals.get(key, 0) + losses[key] for key in piece}
            if how == "concatenated":
                balancer.backward(losses, last=x is batches[-1])
        if how == "separate":
            balancer.backward(totals)
        found.append(net.gradients())
    assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in REPEATABLE if n not in TURNS])
def test_a_loss_without_gradient_does_not_give_the_trunk_away(name):
    net, x = Net(), inputs()
    results = []
    for how in ("separate", "concatenated"):
        net.zero_grad()
        balancer = make(name)
        balancer.backward(merged_losses(net, x, how))
        net.zero_grad()
        losses = merged_losses(net, x, how)
        # masked in the second step: whose leaves are whose is known from the first
        losses["b"] = 0.0 * losses["b"] + 1.0
        try:
            report = balancer.backward(losses)
        except BalancingError as error:  # some methods have no answer to a zero gradient
            results.append({"message": torch.tensor([ord(c) for c in str(error)])})
            continue
        results.append(net.gradients() | ({} if report.weights is None else {"weights": report.weights}))
    assert_close(*results, rtol=1e-9, atol=1e-12)


def test_without_evidence_the_graph_decides():
    net, x = Net(("a", "b")), inputs()
    losses = merged_losses(net, x, "concatenated")
    losses["b"] = 0.0 * losses["b"]
    report = make("pcgrad", ("a", "b"), heads="weighted").backward(losses)
    own = torch.autograd.grad(
        merged_losses(net, x, "separate")["a"], [*net.trunk.parameters(), *net.head["a"].parameters()]
    )
    assert report.norms[0].item() == pytest.approx(torch.cat([g.flatten() for g in own]).norm().item())
    assert net.trunk[0].weight.grad is not None


def test_a_parameter_becomes_shared_with_the_first_gradient_of_a_second_objective():
    extra = nn.Linear(6, 6).double()
    net, x, balancer = Net(("a", "b")), inputs(), make("mgda", ("a", "b"))

    def losses(second):
        z = net.features(x)
        outputs = merge([net.head["a"](extra(z)), net.head["b"](extra(z) if second else z)], "concatenated")
        return {name: (out - 1).square().mean() for name, out in zip("ab", outputs, strict=True)}

    balancer.backward(losses(False))
    for second in (True, False):
        net.zero_grad()
        extra.zero_grad()
        values = losses(second)
        leaves = [*net.trunk.parameters(), *extra.parameters()]
        rows = [torch.autograd.grad(v, leaves, retain_graph=True, allow_unused=True) for v in values.values()]
        flat = torch.stack([torch.cat([g.flatten() for g in row if g is not None]) for row in rows])
        report = balancer.backward(values)
        torch.testing.assert_close(report.gramian, flat @ flat.T)


def test_given_shared_parameters_are_shared_whatever_their_gradients():
    net, x = Net(), inputs()
    make("mgda").backward(merged_losses(net, x, "separate"))
    wanted = net.gradients()
    net.zero_grad()
    make("mgda").backward(merged_losses(net, x, "concatenated"), shared=net.shared())
    assert_close(net.gradients(), wanted)
    net.zero_grad()
    report = make("mgda").backward(merged_losses(net, x, "concatenated"), shared=list(net.parameters()))
    own = torch.autograd.grad(merged_losses(net, x, "separate")["c"], [*net.shared(), *net.head["c"].parameters()])
    assert report.norms[2].item() == pytest.approx(torch.cat([g.flatten() for g in own]).norm().item())


def test_an_overflow_teaches_nothing():
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    balancer = make("mgda")
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    assert balancer.backward(merged_losses(net, x, "concatenated"), scaler=scaler).skipped
    net.zero_grad()
    report = balancer.backward(merged_losses(net, x, "concatenated"))
    net.zero_grad()
    wanted = make("mgda").backward(merged_losses(net, x, "separate"))
    torch.testing.assert_close(report.gramian, wanted.gramian)


class Columns(nn.Module):
    """``Net`` as one function of the batch, with an output per objective."""

    def __init__(self, net):
        super().__init__()
        self.trunk, self.a, self.b, self.c = net.trunk, net.head["a"], net.head["b"], net.head["c"]

    def forward(self, x):
        z = self.trunk(x)
        return self.a(z), self.b(z), self.c(z)


def losses_of(outputs, x):
    return {
        name: 10.0**i * (out - (-1.0) ** i * (1 + x[:, :2])).square().mean()
        for i, (name, out) in enumerate(zip("abc", outputs, strict=True))
    }


@pytest.mark.parametrize("kind", ["script", "compile"])
@pytest.mark.parametrize("name", ["pcgrad", "mgda", "nash_mtl", "moco", "trimmed_mean"])
def test_models_with_one_node_for_everything_need_no_list_of_shared_parameters(name, kind):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    wanted = net.gradients()
    model = Columns(net)
    with warnings.catch_warnings(), functorch.config.patch(donated_buffer=False):
        warnings.simplefilter("ignore")
        model = torch.jit.script(model) if kind == "script" else torch.compile(model, backend="aot_eager")
        for _ in range(3):  # TorchScript fuses after a warm-up
            net.zero_grad()
            make(name).backward(losses_of(model(x), x))
            assert_close(net.gradients(), wanted, rtol=1e-7, atol=1e-10)


#: A method, its options, and how the outputs are merged: by an operation or inside DistributedDataParallel.
MERGED = [
    ("pcgrad", {}, "concatenated"),
    ("moco", {}, "concatenated"),
    ("conflict_free_momentum", {}, "concatenated"),
    ("mgda", {"at": "features"}, "concatenated"),
    ("mgda", {"at": "subset", "heads": "unit"}, "concatenated"),
    ("nash_mtl", {}, "some"),
    ("pcgrad", {}, {"find_unused_parameters": True}),
    ("pcgrad", {}, {"static_graph": True}),
]


def merged_steps(part):
    """Gradients of three steps of the cases; a single process does not merge the outputs."""
    gradients = []
    single = not torch.distributed.is_initialized()
    for name, options, how in MERGED:
        net, balancer = Net(), make(name, **options)
        wrapped = None if single or isinstance(how, str) else nn.parallel.DistributedDataParallel(Columns(net), **how)
        for seed in range(3):
            net.zero_grad()
            x = part(inputs(8, seed=seed))
            z = net.features(x)
            losses = (
                merged_losses(net, x, "separate" if single else how, z) if wrapped is None else losses_of(wrapped(x), x)
            )
            balancer.backward(losses, features=z, subset=[net.trunk[2].weight])
            gradients.append(net.gradients())
    return gradients


@pytest.mark.slow
def test_two_processes_with_merged_outputs_equal_one_with_separate_ones(tmp_path):
    whole, ranks = merged_steps(lambda x: x), two_processes(merged_steps, tmp_path)
    for rank in ranks:
        for mine, wanted in zip(rank, whole, strict=True):
            assert_close(mine, wanted, rtol=1e-9, atol=1e-12)


# ---- inputs that require a gradient ----------------------------------------------------------------------------------


class Field(nn.Module):
    """A network whose losses differentiate its output with respect to the points, as in a PINN."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def losses(self, points):
        u, v = self.body(points / 0.01).unbind(1)
        du, dv = (torch.autograd.grad(f.sum(), points, create_graph=True)[0] * 0.01 for f in (u, v))
        return {"a": (du[:, 1] + u * du[:, 0]).square().mean() + 0.1, "b": (du[:, 0] + dv[:, 1] - 1).square().mean()}


def points(seed):
    return (
        0.01 * torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).requires_grad_()


@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in MANY])
def test_fresh_points_are_no_parameters(name):
    found = []
    for given in (False, True):
        field, balancer = Field(), make(name, ("a", "b"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for seed in range(3):
                field.zero_grad()
                x = points(seed)
                balancer.backward(field.losses(x), parameters=list(field.parameters()) if given else None)
                assert x.grad is None
        found.append({key: p.grad for key, p in field.named_parameters() if p.grad is not None})
    assert_close(*found, rtol=0, atol=0)


def test_a_tensor_that_may_be_a_forgotten_weight_is_named_once():
    field, x, balancer = Field(), points(0), make("pcgrad", ("a", "b"))
    balancer.backward(field.losses(x))
    with pytest.warns(UserWarning, match=r"pcgrad: .*shape \(9, 2\).* is no nn.Parameter"):
        balancer.backward(field.losses(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balancer.backward(field.losses(x))
        make("pcgrad", ("a", "b")).backward(field.losses(x), parameters=list(field.parameters()))


@pytest.mark.parametrize("name", ["sum", "pcgrad", "mgda", "moco"])
def test_plain_tensors_are_weights_where_no_leaf_is_a_parameter(name):
    net, x = Net(("a", "b")), inputs()
    make(name, ("a", "b")).backward(net.losses(x))
    raw = {key: p.detach().clone().requires_grad_() for key, p in net.named_parameters()}
    losses = torch.func.functional_call(_Closure(net), {f"net.{key}": p for key, p in raw.items()}, (x,))
    make(name, ("a", "b")).backward(losses)
    assert_close({key: p.grad for key, p in raw.items()}, net.gradients(), rtol=0, atol=0)


class _Closure(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net.losses(x)


@pytest.mark.parametrize("how", ["shared", "parameters"])
def test_plain_tensors_that_are_given_are_trained(how):
    net, x, scale = Net(("a", "b")), inputs(), torch.ones(5, dtype=torch.float64, requires_grad=True)
    make("mgda", ("a", "b")).backward(net.losses(x * scale), **{how: [scale, *net.parameters()]})
    assert scale.grad is not None


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRADIENT)
def test_a_balancer_keeps_no_model_alive_and_copies_none(name):
    net, balancer = Net(), make(name)
    balancer.backward(merged_losses(net, inputs(), "concatenated"))
    copied = copy.deepcopy(balancer)
    target = io.BytesIO()
    torch.save(balancer, target)
    target.seek(0)
    loaded = torch.load(target, weights_only=False)
    holders = [weakref.ref(net.trunk[0].weight)]
    results = []
    for each in (balancer, copied, loaded):
        net.zero_grad()
        each.backward(merged_losses(net, inputs(seed=5), "concatenated"))
        results.append(net.gradients())
    if name != "conflict_free_momentum":
        assert_close(results[1], results[0])
    assert_close(results[1], results[2], rtol=0, atol=0)
    del net
    gc.collect()
    assert holders[0]() is None
    assert not [key for key in balancer.state_dict() if "sharing" in key]


class Skipping(nn.Module):
    """A residual layer that a step skips, or multiplies by zero."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.extra = nn.Linear(5, 5).double(), nn.Linear(5, 5).double()
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in "ab").double()

    def losses(self, x, skip, gate):
        z = torch.tanh(self.stem(x))
        if gate:
            z = z + (0.0 if skip else 1.0) * torch.tanh(self.extra(z))
        elif not skip:
            z = z + torch.tanh(self.extra(z))
        return {
            name: (head(z) - k).square().mean() for k, (name, head) in enumerate(zip("ab", self.heads, strict=True))
        }

    def shared(self):
        return [*self.extra.parameters(), *self.stem.parameters()]


def skipping_steps(balancer, net, pattern, gate, given, start=0):
    found = []
    for seed, skip in enumerate(pattern):
        net.zero_grad()
        shared = net.shared() if given else None
        balancer.backward(net.losses(inputs(seed=start + seed), skip, gate), shared=shared)
        found.append({key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in net.named_parameters()})
    return found


@pytest.mark.parametrize("pattern", [(0, 1, 0, 1, 0), (1, 1, 0, 1, 0)], ids=["full first", "skipped first"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", REMEMBERS)
def test_layers_that_a_step_skips_count_as_zero(name, given, pattern):
    wanted = skipping_steps(make(name, tuple("ab")), Skipping(), pattern, True, True)
    found = skipping_steps(make(name, tuple("ab")), Skipping(), pattern, False, given)
    assert_equal_steps(found, wanted)


@pytest.mark.parametrize("name", REMEMBERS)
def test_a_skipped_layer_outside_the_given_parameters_gets_no_gradient(name):
    net, balancer = Skipping(), make(name, "ab")
    for skip in (False, True, True):
        losses = net.losses(inputs(), skip, gate=False)
        balancer.backward(losses, shared=net.shared(), parameters=[*net.stem.parameters(), *net.heads.parameters()])
    assert net.extra.weight.grad is None
    assert net.stem.weight.grad is not None


@pytest.mark.parametrize("name", REMEMBERS)
def test_a_run_that_skips_layers_resumes_with_given_parameters(name):
    net, balancer = Skipping(), make(name, tuple("ab"))
    skipping_steps(balancer, net, (1, 0, 1), False, True)
    fresh = make(name, tuple("ab"))
    fresh.load_state_dict(balancer.state_dict())
    wanted = skipping_steps(balancer, net, (1, 0, 0), False, True, start=7)
    assert_equal_steps(skipping_steps(fresh, net, (1, 0, 0), False, True, start=7), wanted)


@pytest.mark.parametrize("name", REMEMBERS)
def test_an_order_that_cannot_be_restored_is_an_error(name):
    net, balancer = Skipping(), make(name, tuple("ab"))
    skipping_steps(balancer, net, (1, 0), False, False)
    fresh = make(name, tuple("ab"))
    fresh.load_state_dict(balancer.state_dict())
    for each in (fresh, copy.deepcopy(balancer)):
        with pytest.raises(BalancingError, match="whose order is lost; give shared="):
            skipping_steps(each, net, (0,), False, False)
    other = Skipping()
    with pytest.raises(BalancingError, match="remembers gradients of other parameters"):
        skipping_steps(balancer, other, (0,), False, False)
    del net
    gc.collect()
    with pytest.raises(BalancingError, match="no longer exists"):
        skipping_steps(balancer, other, (0,), False, False)


# ---- the graph -------------------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.net, self.reentrant = Net(("a", "b")), reentrant

    def losses(self, x):
        z = torch.utils.checkpoint.checkpoint(self.net.trunk, x.requires_grad_(), use_reentrant=self.reentrant)
        return self.net.losses(x, z)


@pytest.mark.parametrize("name", [n for n in ALL if n not in MANY])
def test_reentrant_checkpoints_are_refused_where_they_would_lose_gradients(name):
    model = Checkpointed(True)
    with pytest.raises(BalancingError, match="use_reentrant=False"):
        make(name, ("a", "b")).backward(model.losses(inputs()), parameters=list(model.parameters()))
    assert not model.net.gradients()
    if balancer_class(name).needs in ("gramian", "jacobian"):
        with pytest.raises(BalancingError, match="use_reentrant=False"):
            make(name, ("a", "b")).backward(model.losses(inputs()))
    other = Checkpointed(False)
    make(name, ("a", "b")).backward(other.losses(inputs()), parameters=list(other.parameters()))
    assert other.net.trunk[0].weight.grad is not None


def test_reentrant_checkpoints_work_where_torch_is_right():
    model, net = Checkpointed(True), Net(("a", "b"))
    create_balancer("sum", ("a", "b")).backward(model.losses(inputs()))
    sum(net.losses(inputs()).values()).backward()
    assert_close(model.net.gradients(), net.gradients())


@pytest.mark.parametrize("name", ALL)
def test_parameters_frozen_after_the_forward_pass_are_left_alone(name):
    results = []
    for late in (False, True):
        net, x = Net(), inputs()
        frozen = [net.trunk[0].weight, net.head["a"].bias]
        losses = net.losses(x) if late else None
        for p in frozen:
            p.requires_grad_(False)
        make(name).backward(losses or net.losses(x))
        assert all(p.grad is None for p in frozen)
        results.append(net.gradients())
    assert_close(*results, rtol=1e-9, atol=1e-12)


class Doubled(torch.autograd.Function):
    """A function of a user's that keeps something called ``variable``."""

    @staticmethod
    def forward(ctx, x):
        ctx.variable = x
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_a_function_with_an_attribute_variable_is_no_leaf():
    net, x = Net(("a", "b")), inputs()
    losses = net.losses(x, Doubled.apply(net.features(x)))
    assert set(find_leaves(list(losses.values()))) == set(net.parameters())
    make("pcgrad", ("a", "b")).backward(losses)
    found = net.gradients()
    net.zero_grad()
    make("pcgrad", ("a", "b")).backward(net.losses(x, 2 * net.features(x)))
    assert_close(found, net.gradients())


# ---- kinds of tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sum", "uncertainty", "pcgrad", "moco"])
def test_a_complex_loss_is_named(name):
    losses = {key: torch.complex(loss, loss) for key, loss in Net(("a", "b")).losses(inputs()).items()}
    with pytest.raises(ValueError, match="the loss of objective 'a' must be real"):
        make(name, ("a", "b")).backward(losses)


@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in MANY])
def test_complex_and_sparse_shared_parameters_are_named(name):
    p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(BalancingError, match="complex"):
        make(name, ("a", "b")).backward({"a": p.abs().sum(), "b": (p - 1j).abs().sum()})
    table = nn.Embedding(5, 2, sparse=True)
    for _ in range(2):
        row = table(torch.tensor([1]))
        with pytest.raises(BalancingError, match="sparse=False"):
            make(name, ("a", "b")).backward({"a": row.square().sum() + 1, "b": (row - 1).square().sum() + 1})


@pytest.mark.parametrize("name", [n for n in ALL if n not in MANY])
@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_heads_may_be_sparse_or_complex(name, kind):
    results = []
    for special in (True, False):
        torch.manual_seed(0)
        stem = nn.Linear(3, 3).double()
        x = torch.ones(4, 3).double()
        index = torch.tensor([0, 2, 2, 1])
        if kind == "sparse":
            own = [nn.Embedding(5, 3, sparse=special, dtype=torch.float64) for _ in "ab"]
            factors = [table(index) for table in own]
            leaves = [table.weight for table in own]
        else:
            values = [torch.randn(3, 2, dtype=torch.float64) for _ in "ab"]
            leaves = [nn.Parameter(torch.view_as_complex(v) if special else v) for v in values]
            pairs = [torch.view_as_real(p) if special else p for p in leaves]
            factors = [pair[:, 0] * (1 + pair[:, 1]) for pair in pairs]
        losses = {k: (stem(x) * f - i).square().mean() + 1 for i, (k, f) in enumerate(zip("ab", factors, strict=True))}
        balancer = make(name, ("a", "b"))
        balancer.backward(losses)
        found = {str(i): leaf.grad for i, leaf in enumerate(leaves) if leaf.grad is not None}
        if special:
            found = {i: g.to_dense() if kind == "sparse" else torch.view_as_real(g) for i, g in found.items()}
        results.append(found | {"stem": stem.weight.grad} if stem.weight.grad is not None else found)
    assert_close(*results)


# ---- hooks -----------------------------------------------------------------------------------------------------------


MEASURED = [{"at": "features"}, {"at": "subset"}, {"at": "subset", "heads": "unit"}]


@pytest.mark.parametrize(
    ("name", "options"), [*((n, {}) for n in ALL), *(("pcgrad", o) for o in MEASURED), *(("mgda", o) for o in MEASURED)]
)
def test_an_optimizer_in_the_backward_pass_steps_each_parameter_once(name, options):
    results = []
    for hooked in (True, False):
        net, balancer, calls = Net(), make(name, **options), []

        def step(p, calls=calls):
            calls.append(p)
            with torch.no_grad():
                p.sub_(0.01 * p.grad)
            p.grad = None

        if hooked:
            for p in net.parameters():
                p.register_post_accumulate_grad_hook(step)
        for seed in range(2):
            x = inputs(seed=seed)
            z = net.features(x)
            balancer.backward(net.losses(x, z), features=z, subset=[net.trunk[2].weight])
            if not hooked:
                for p in net.parameters():
                    if p.grad is not None:
                        step(p)
        results.append(({key: p.detach() for key, p in net.named_parameters()}, len(calls)))
    assert results[0][1] == results[1][1]
    assert_close(results[0][0], results[1][0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "count"), [("sum", 1), ("uncertainty", 1), ("mgda", 3), ("moco", 3), ("trimmed_mean", 3)]
)
def test_other_hooks_run_once_per_backward_through_the_trunk(name, count):
    net, x, calls = Net(), inputs(), []
    net.trunk[0].weight.register_hook(lambda g: calls.append("tensor"))
    net.trunk[2].register_full_backward_hook(lambda *_: calls.append("module"))
    net.head["a"].weight.register_hook(lambda g: calls.append("head"))
    make(name).backward(net.losses(x))
    assert calls.count("tensor") == calls.count("module") == count
    assert calls.count("head") == 1


def test_features_in_a_mapping_are_named_by_the_caller():
    """A raw tensor among them is balanced, and no warning is due, at the second call too."""
    for features in (lambda z: z, lambda z: [z], lambda z: {"trunk": z}):
        z = torch.ones(4, 3, requires_grad=True)
        heads = torch.nn.ModuleList(torch.nn.Linear(3, 1) for _ in "ab")
        balancer = create_balancer("mgda", ("a", "b"), at="features")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                losses = {name: head(z).square().mean() for name, head in zip("ab", heads, strict=True)}
                balancer.backward(losses, features=features(z))
        assert z.grad is not None
