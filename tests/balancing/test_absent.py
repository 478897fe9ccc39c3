"""Objectives without a loss in a step: the others' update is what it were without them, and their state rests."""

import copy
import io

import pytest
import torch

from balancing import BalancingError, Composed, create_balancer
from balancing.method import Method
from tests.balancing.problems import ALL, GRADIENT, LOSS, MANY, TURNS, Net, assert_close, inputs, make

OPTIONS = [
    ("dwa", {"window": 1}),
    ("dwa", {"window": 2}),
    ("igb", {"window": 2}),
    ("stch", {"form": "log", "warmup": 1, "unit": "step"}),
    ("cosmos", {"alpha": 0.7}),
    ("sdmgrad", {"solver": "sgd"}),
    ("initial_loss", {"batches": 2}),
    ("grad_normalize", {"alpha": 1.0}),
    ("gradvac", {"beta": 0.5}),
    ("uncertainty", {"form": "log1p"}),
    ("relobralo", {"alpha": 0.5, "keep": 0.5}),
    ("mgda", {"update_every": 2}),
    ("mgda", {"update_every": 2, "preference": {"a": 3.0}, "scale": "sum"}),
    ("pcgrad", {"update_every": 2, "heads": "weighted", "max_norm": 0.0}),
    ("pcgrad", {"weight_ema": 0.5}),
    ("mgda", {"normalize": "loss+"}),
    ("cagrad", {"max_norm": 0.01, "preference": {"c": 2.0}}),
    ("realtime", {"weight_ema": 0.9, "preference": {"c": 2.0}}),
    ("pbi", {"preference": {"a": 0.2, "b": 3.0}}),
    ("pcd", {"primary": "c"}),
    ("alternating", {"order": ["c", "b", "a", "a"]}),
    ("pareto_mtl", {"rays": [[1.0, 0.5, 0.1], [0.2, 0.1, 1.0], [1.0, 1.0, 1.0]], "index": 1}),
    (["uncertainty", "pcgrad"], {}),
    (["dwa", "mgda"], {"update_every": 2}),
    (["famo", "nash_mtl"], {}),
    (["initial_loss", "uncertainty"], {}),
    (["realtime", "moco"], {}),
]
CASES = [*((name, {}) for name in ALL), *OPTIONS]
OTHERS = ("a", "c")


def made(name, objectives, options):
    """The method for these objectives, with what the options say of them."""
    options = copy.deepcopy(options)
    if "preference" in options:
        options["preference"] = {key: value for key, value in options["preference"].items() if key in objectives}
    if "order" in options:
        options["order"] = [key for key in options["order"] if key in objectives]
    if "rays" in options:
        options["rays"] = [[ray["abc".index(key)] for key in objectives] for ray in options["rays"]]
    if name == "prior_loss":
        options["prior_losses"] = {key: 1.0 + "abc".index(key) for key in objectives}
    return create_balancer(name, objectives, **options)


def step(net, balancer, number, own, without=(), epochs=True):
    """A step of SGD; the objectives ``without`` are absent if the balancer has them."""
    net.zero_grad()
    balancer.zero_grad()
    x = inputs(seed=100 + number)

    def losses():
        return {k: None if k in without else v for k, v in net.losses(x).items() if k in balancer.objectives}

    report = balancer.backward(losses())
    gradients = net.gradients()
    with torch.no_grad():
        for p in net.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad
        if balancer.observes:
            balancer.observe(losses())
    if own is not None:
        own.step()
    if epochs and number % 3 == 2:
        balancer.next_epoch()
    return report, gradients


def own_optimizer(balancer):
    parameters = list(balancer.parameters())
    return torch.optim.SGD(parameters, lr=0.02) if parameters else None


@pytest.mark.parametrize(("name", "options"), [c for c in CASES if c[0] not in MANY])
def test_the_others_take_the_steps_of_a_method_of_their_own(name, options):
    net, whole, alone = Net(), made(name, ("a", "b", "c"), options), made(name, OTHERS, options)
    twin = copy.deepcopy(net)
    optimizers = own_optimizer(whole), own_optimizer(alone)
    for number in range(5):
        report, gradients = step(net, whole, number, optimizers[0], without="b")
        wanted, reference = step(twin, alone, number, optimizers[1])
        assert report.present == (True, False, True)
        assert not any("head.b" in key for key in gradients)
        largest = max(float(g.abs().max()) for g in reference.values())
        assert_close(gradients, reference, rtol=1e-6, atol=1e-6 * largest)
        torch.testing.assert_close(report.losses[[0, 2]], wanted.losses)
        assert report.losses[1].isnan()
        assert (report.weights is None) == (wanted.weights is None)
        if wanted.weights is not None:
            torch.testing.assert_close(report.weights[[0, 2]], wanted.weights, rtol=1e-6, atol=1e-9)
            assert report.weights[1].isnan()
    assert whole.step == alone.step == 5


@pytest.mark.parametrize("name", MANY)
def test_the_mean_stands_in_where_too_few_objectives_are_present(name):
    net, balancer, x = Net(), make(name), inputs()
    losses = net.losses(x)
    balancer.backward(losses | {"b": None})
    balanced = net.gradients()
    net.zero_grad()
    sum(net.losses(x)[key] for key in OTHERS).backward()
    for key, gradient in net.gradients().items():
        scale = 1.0 if key.startswith("head") else 0.5
        torch.testing.assert_close(balanced[key], scale * gradient)


def slices(balancer, k):
    """All numbers of the state that belong to objective k."""
    found = {}
    for path, module in balancer.named_modules():
        state = dict(module.named_buffers(recurse=False)) | dict(module.named_parameters(recurse=False))
        state |= module.memory if isinstance(module, Method) else {}
        for key, tensor in state.items():
            default = (0,) if tensor.shape == (3,) else ()
            axes = getattr(module, "per_objective", {}).get(key, default)
            for axis in axes:
                found[f"{path}.{key}.{axis}"] = tensor.detach().select(axis, k).clone()
    return found


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_state_of_an_absent_objective_rests(name, options):
    net, balancer = Net(), made(name, ("a", "b", "c"), options)
    own = own_optimizer(balancer)
    for number in range(4):
        step(net, balancer, number, own)
    before = slices(balancer, 1)
    step(net, balancer, 4, None, without="b", epochs=False)
    assert net.head["b"].weight.grad is None
    after = slices(balancer, 1)
    assert before.keys() <= after.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    for parameter in balancer.parameters():
        if parameter.grad is not None:
            assert parameter.grad[1] == 0


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("late", ["b", "bc"])
def test_objectives_may_appear_late_and_come_and_go(name, options, late):
    net, balancer = Net(), made(name, ("a", "b", "c"), options)
    own = own_optimizer(balancer)
    for number in range(12):
        without = late if number < 4 else ("", "a", "b", "c", "ab")[number % 5]
        report, gradients = step(net, balancer, number, own, without=without)
        assert report.present == tuple(key not in without for key in "abc")
        assert all(g.isfinite().all() for g in gradients.values())
        assert not any(f"head.{key}" in g for key in without for g in gradients)
        if report.weights is not None:
            assert report.weights[list(report.present)].isfinite().all()
    assert balancer.step == 12
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in ("gradnorm",)])
def test_one_present_objective_is_a_plain_backward(name, monkeypatch):
    net, balancer = Net(dtype=torch.float32), make(name)
    own = own_optimizer(balancer)
    for number in range(2):
        step(net.double(), balancer, number, own)
    state = {key: value.clone() for key, value in balancer.state_dict().items() if not key.endswith("_extra_state")}
    memory = {key: value.clone() for key, value in balancer.memory.items()}
    counted = []
    find = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (counted.append(1), find(*a, **k))[1])
    net.zero_grad()
    balancer.zero_grad()
    report = balancer.backward({"a": None, "b": net.losses(inputs())["b"], "c": None})
    monkeypatch.undo()
    balanced = net.gradients()
    net.zero_grad()
    net.losses(inputs())["b"].backward()
    weight = 1.0
    if isinstance(balancer, Composed):
        weight = float(balancer._loss_weights_now[1])
    assert_close(balanced, {key: weight * g for key, g in net.gradients().items()})
    assert len(counted) <= 2  # the second is that of a loss method with parameters
    assert report.weights[1] == weight
    first = "loss_balancer" if isinstance(balancer, Composed) else "-"
    for key, value in balancer.state_dict().items():
        if not key.endswith("_extra_state") and not key.startswith(first):
            assert torch.equal(value, state[key]), key
    assert all(torch.equal(value, memory[key]) for key, value in balancer.memory.items())


@pytest.mark.parametrize("name", [n for n in LOSS if n not in MANY])
def test_one_present_objective_has_the_weight_of_the_formula(name):
    net = Net()
    report, gradients = step(net, made(name, ("a", "b", "c"), {}), 0, None, without="bc")
    wanted, reference = step(Net(), made(name, ("a",), {}), 0, None)
    assert_close(gradients, reference)
    torch.testing.assert_close(report.weights[:1], wanted.weights)


def test_the_first_of_two_methods_weighs_one_present_objective():
    net, balancer = Net(), Composed(make("fixed", values={"b": 3.0}), make("pcgrad"))
    report = balancer.backward({"a": None, "b": net.losses(inputs())["b"], "c": None})
    assert report.weights[1] == 3.0
    balanced = net.gradients()
    net.zero_grad()
    (3.0 * net.losses(inputs())["b"]).backward()
    assert_close(balanced, net.gradients())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pieces", [("a", "ab"), ("a", "b"), ("a", "abc"), ("ab", "")])
def test_an_objective_is_present_if_a_micro_batch_has_it(name, pieces):
    batches, union = inputs(12).chunk(2), {key for piece in pieces for key in piece}
    net, whole, parts = Net(), make(name), make(name)
    totals = {}
    for x, piece in zip(batches, pieces, strict=True):
        for key in piece:
            totals[key] = totals.get(key, 0) + net.losses(x)[key] / 2
    wanted = whole.backward({key: totals.get(key) for key in "abc"})
    reference = net.gradients()
    net.zero_grad()
    for x, piece in zip(batches, pieces, strict=True):
        losses = {key: loss / 2 if key in piece else None for key, loss in net.losses(x).items()}
        report = parts.backward(losses, last=x is batches[-1])
    assert report.present == tuple(key in union for key in "abc")
    if not (make(name).unbiased and union == {"a", "b", "c"}):
        assert_close(net.gradients(), reference)
        torch.testing.assert_close(report.losses, wanted.losses, equal_nan=True)
        if wanted.weights is not None:
            torch.testing.assert_close(report.weights, wanted.weights, equal_nan=True)


#: Methods that reuse weights at every second step, with heads of either kind, and ones with constant weights.
BETWEEN = [
    ("mgda", {"update_every": 2, "heads": "unit"}),
    ("pcgrad", {"update_every": 2}),
    ("pcgrad", {"update_every": 2, "heads": "weighted"}),
    ("realtime", {"update_every": 2, "weight_ema": 0.5}),
    (["uncertainty", "aligned_mtl"], {"update_every": 2, "preference": {"b": 3.0}}),
    ("sum", {"preference": {"a": 2.0, "b": 5.0}}),
    ("single", {"objective": "b", "preference": {"a": 2.0, "b": 5.0}}),
]


@pytest.mark.parametrize(("name", "options"), BETWEEN)
@pytest.mark.parametrize("pieces", [("ab", "b"), ("abc", "b"), ("b", "abc"), ("a", "b", "a"), ("abc", "b", "ac")])
@pytest.mark.parametrize("first", ["abc", "ab"])
def test_weights_of_an_earlier_step_are_those_of_all_micro_batches(name, options, pieces, first):
    net, whole = Net(), create_balancer(name, ("a", "b", "c"), **options)
    parts = copy.deepcopy(whole)
    for balancer in (whole, parts):
        balancer.backward({key: loss if key in first else None for key, loss in net.losses(inputs()).items()})
    net.zero_grad()
    batches, totals = inputs(12, seed=2).chunk(len(pieces)), {}
    for x, piece in zip(batches, pieces, strict=True):
        for key in piece:
            totals[key] = totals.get(key, 0) + net.losses(x)[key]
    wanted = whole.backward({key: totals.get(key) for key in "abc"})
    reference = net.gradients()
    net.zero_grad()
    for x, piece in zip(batches, pieces, strict=True):
        losses = {key: loss if key in piece else None for key, loss in net.losses(x).items()}
        report = parts.backward(losses, last=x is batches[-1])
    assert_close(net.gradients(), reference)
    torch.testing.assert_close(report.weights, wanted.weights, equal_nan=True, check_dtype=False)


def test_a_copy_that_has_not_met_an_objective_yet_takes_no_trunk_for_the_head_of_another():
    net, balancer = Net(), make("pcgrad", update_every=2)
    balancer.backward(net.losses(inputs()))
    balancer.backward(net.losses(inputs(seed=2)))
    copied = copy.deepcopy(balancer)
    found = []
    for each in (balancer, copied):
        each.backward(net.losses(inputs(seed=3)) | {"b": None})
        net.zero_grad()
        report = each.backward(net.losses(inputs(seed=4)) | {"a": None})
        found.append(net.gradients() | {"weights": report.weights})
        net.zero_grad()
    assert_close(found[1], found[0], equal_nan=True)


def test_a_parameter_that_changes_hands_between_micro_batches_with_known_weights_is_an_error():
    net, balancer = Net(), make("pcgrad", update_every=2)
    balancer.backward(net.losses(inputs()))
    balancer.backward(net.losses(inputs()), last=False)
    losses = net.losses(inputs()) | {"c": None}
    losses["a"] = losses["a"] + net.head["c"].weight.square().sum()
    with pytest.raises(BalancingError, match="one objective alone reached in an earlier micro-batch"):
        balancer.backward(losses)


@pytest.mark.parametrize("log_losses", [False, True])
def test_who_waits_for_its_turn_leaves_no_zeros_in_micro_batches(log_losses):
    objectives = ("a", "b", "c")
    net, balancer = Net(), create_balancer("single", objectives, objective="b", log_losses=log_losses)
    extra = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    losses = net.losses(inputs())
    balancer.backward({"a": losses["a"] * extra, "b": None, "c": losses["c"] * extra}, last=False)
    balancer.backward(net.losses(inputs()) | {"a": None})
    assert extra.grad is None
    assert {name.split(".")[1] for name in net.gradients() if name[0] == "h"} == {"b"}


@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in MANY and n not in TURNS])
def test_an_objective_that_reaches_nothing_shared_keeps_its_own_gradient(name):
    net, whole, others, x = Net(), make(name), make(name, OTHERS), inputs()
    twin = copy.deepcopy(net)

    def losses(model):
        return model.losses(x) | {"b": model.losses(x, model.features(x).detach())["b"]}

    for _ in range(2):
        net.zero_grad()
        twin.zero_grad()
        report = whole.backward(losses(net))
        wanted = others.backward({key: twin.losses(x)[key] for key in OTHERS})
        balanced, reference = net.gradients(), twin.gradients()
        twin.zero_grad()
        losses(twin)["b"].backward()
        weight = float(whole._loss_weights_now[1]) if isinstance(whole, Composed) else 1.0
        reference |= {key: weight * g for key, g in twin.gradients().items()}
        assert_close(balanced, reference, rtol=1e-6, atol=1e-9)
        assert report.present == (True, True, True)
        assert report.norms[1] == 0
        if wanted.weights is not None:
            torch.testing.assert_close(report.weights[[0, 2]], wanted.weights)
            assert report.weights[1] == weight


@pytest.mark.parametrize("shared", [True, False])
def test_shared_parameters_that_no_objective_reaches_stay_an_error(shared):
    net, x = Net(), inputs()
    losses = net.losses(x, net.features(x).detach())
    if shared:
        with pytest.raises(BalancingError, match="none of the given shared parameters"):
            make("mgda").backward(losses, shared=net.shared())
    else:
        assert make("mgda").backward(losses).weights.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("at", ["features", "subset"])
@pytest.mark.parametrize("present", ["ac", "b"])
def test_absent_objectives_with_gradients_measured_elsewhere(at, present):
    net, x = Net(), inputs()
    balancers = make("mgda", at=at), make("mgda", tuple(present), at=at)
    results = []
    for balancer in balancers:
        net.zero_grad()
        z = net.features(x)
        losses = {key: net.losses(x, z)[key] if key in present else None for key in balancer.objectives}
        balancer.backward(losses, **{at: [z] if at == "features" else list(net.trunk[2].parameters())})
        results.append(net.gradients())
    assert_close(*results)


def test_a_step_without_any_objective_changes_nothing():
    net, balancer = Net(), make("moco")
    balancer.backward(net.losses(inputs()))
    net.zero_grad()
    before = copy.deepcopy(balancer.state_dict())
    report = balancer.backward({"a": None, "b": None, "c": None})
    assert report.skipped
    assert report.present == (False, False, False)
    assert report.losses.isnan().all()
    assert report.as_dict() == {}
    assert not net.gradients()
    after = balancer.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items() if isinstance(v, torch.Tensor))
    assert balancer.step == 1


def test_the_report_leaves_out_what_is_absent():
    net = Net()
    report = make("pcgrad").backward(net.losses(inputs()) | {"b": None})
    row = report.as_dict()
    assert sorted(row) == sorted(
        ["loss/a", "loss/c", "weight/a", "weight/c", "norm/a", "norm/c", "cosine/a/c", "conflicts"]
    )
    assert report.gramian[1].isnan().all()
    assert report.gramian[:, 1].isnan().all()
    assert report.conflicts == float(row["cosine/a/c"] < 0)


def test_only_none_means_absent():
    net, x = Net(), inputs()
    losses = net.losses(x)
    del losses["b"]
    with pytest.raises(ValueError, match="'b' is missing; give None if it is absent"):
        make("sum").backward(losses)


def test_a_loss_of_zero_where_it_must_be_positive_names_the_remedy():
    net, x = Net(), inputs()
    losses = net.losses(x)
    with pytest.raises(BalancingError, match="give None for an objective without data"):
        make("geometric").backward(losses | {"b": 0 * losses["b"]})


def test_non_finite_losses_of_present_objectives_are_skipped():
    net, balancer = Net(), make("mgda", on_nonfinite="skip")
    losses = net.losses(inputs())
    report = balancer.backward({"a": losses["a"], "b": None, "c": losses["c"] * torch.nan})
    assert report.skipped
    assert balancer.skips == 1
    assert balancer.step == 0


def test_a_scaler_scales_what_is_present():
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        net, balancer = Net(dtype=torch.float32), make("mgda")
        balancer.backward(net.losses(inputs(dtype=torch.float32)) | {"b": None}, scaler=scaler)
        factor = 1.0 if scaler is None else 1024.0
        results.append({key: g / factor for key, g in net.gradients().items()})
    assert_close(*results)


def test_alternating_passes_over_an_absent_objective():
    net, balancer = Net(), make("alternating")
    trained = []
    for without in ("", "b", "a"):
        net.zero_grad()
        balancer.backward({key: None if key in without else loss for key, loss in net.losses(inputs()).items()})
        trained.append([key for key in "abc" if net.head[key].weight.grad is not None])
    assert trained == [["a"], ["c"], ["b"]]


def test_single_does_nothing_without_its_objective():
    net, balancer = Net(), make("single", objective="b")
    report = balancer.backward(net.losses(inputs()) | {"b": None})
    assert not net.gradients()
    assert report.weights[[0, 2]].tolist() == [0.0, 0.0]


def test_resumed_steps_with_absent_objectives_are_bit_equal():
    net, balancer = Net(), create_balancer(["famo", "pcgrad"], tuple("abc"), update_every=2, weight_ema=0.5)
    own = own_optimizer(balancer)
    for number in range(4):
        step(net, balancer, number, own, without="b" if number < 3 else "")
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = create_balancer(["famo", "pcgrad"], tuple("abc"), update_every=2, weight_ema=0.5, seed=9)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(net)
    for number, without in enumerate(("c", "", "b", "ab")):
        step(net, balancer, 10 + number, own, without=without)
        step(twin, fresh, 10 + number, own_optimizer(fresh), without=without)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(("name", "key"), [("uncertainty", "started"), ("cov_weighting", "count"), ("dwa", "filled")])
def test_a_state_with_one_flag_for_all_objectives_loads(name, key):
    net, balancer = Net(), make(name)
    step(net, balancer, 0, None)
    state = balancer.state_dict()
    state[key] = state[key][0]
    fresh = make(name)
    fresh.load_state_dict(state)
    assert torch.equal(getattr(fresh, key), getattr(balancer, key))


def test_an_axis_of_unknown_meaning_is_an_error():
    balancer = make("mgda")
    balancer.register_buffer("table", torch.zeros(2, 3))
    with pytest.raises(
        BalancingError, match="mgda: an objective is absent, but the class does not declare which axes of table"
    ):
        balancer.backward(Net().losses(inputs()) | {"b": None})
