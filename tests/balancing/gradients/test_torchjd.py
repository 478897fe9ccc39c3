"""Aggregators of torchjd behind our engine: what torchjd itself returns, with options, state and clear errors."""

import ast
import copy
import importlib.util
import io
import sys
from pathlib import Path

import pytest
import torch

from balancing import BalancingError, create_balancer
from balancing.gradients.torchjd import CoordinateAggregator, GramianAggregator, RowAggregator
from balancing.measuring.leaves import find_leaves
from tests.balancing.problems import Net, inputs, reference_rows, train

K = 3
ARGUMENTS = {
    "AlignedMTL": {"pref_vector": [0.3, 0.1, 0.6], "scale_mode": "rmse"},
    "CAGrad": {"c": 0.4},
    "ConFIG": {"pref_vector": [1.0, 2.0, 0.5]},
    "Constant": {"weights": [0.5, 2.0, 1.0]},
    "FairGrad": {"alpha": 1.0},
    "GradDrop": {"leak": [0.0, 0.5, 1.0]},
    "Krum": {"n_byzantine": 0},
    "TrimmedMean": {"trim_number": 1},
}
EXTRAS = {"CAGrad": "clarabel", "DualProj": "qpsolvers", "FairGrad": "scipy", "NashMTL": "ecos", "UPGrad": "qpsolvers"}


def names():
    """What torchjd exports, read from its source: an aggregator of a newer version is tested by existing."""
    spec = importlib.util.find_spec("torchjd")
    if spec is None:
        return [pytest.param("UPGrad", marks=pytest.mark.skip(reason="needs torchjd"))]
    tree = ast.parse(Path(spec.origin).with_name("aggregation").joinpath("__init__.py").read_text())
    (exported,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    abstract = {"Aggregator", "WeightedAggregator", "GramianWeightedAggregator"}
    return [name for name in exported if not name.endswith("Weighting") and name not in abstract]


def make(name, objectives=("a", "b", "c"), **options):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    return create_balancer("torchjd", objectives, aggregator=name, arguments=ARGUMENTS.get(name), **options)


def theirs(name):
    from torchjd import aggregation

    arguments = {k: torch.tensor(v).double() if isinstance(v, list) else v for k, v in ARGUMENTS.get(name, {}).items()}
    return getattr(aggregation, name)(**arguments, **({"n_tasks": K} if name == "NashMTL" else {}))


@pytest.mark.parametrize("name", names())
def test_update_is_that_of_torchjd(name):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    key_of = {p: key for key, p in net.named_parameters() if key.startswith("trunk")}
    order = [p for p in find_leaves(list(net.losses(x).values())) if p in key_of]  # GradDrop draws by coordinate
    shared = [key_of[p] for p in order]
    jacobian = torch.stack([torch.cat([row[key].flatten() for key in shared]) for row in rows.values()])
    balancer = make(name)
    assert isinstance(balancer, GramianAggregator | RowAggregator | CoordinateAggregator)
    own, reference = copy.deepcopy(balancer), theirs(name)
    before = torch.get_rng_state()
    balancer.backward(net.losses(x))
    assert torch.equal(torch.get_rng_state(), before)
    with own.aggregator.drawing(torch.device("cpu")):
        wanted = reference(jacobian)
    update = torch.cat([p.grad.flatten() for p in order])
    torch.testing.assert_close(update, wanted, rtol=1e-5, atol=1e-6 * float(wanted.norm()))
    for k, key in enumerate("abc"):
        torch.testing.assert_close(net.head[key].bias.grad, list(rows.values())[k][f"head.{key}.bias"])


@pytest.mark.parametrize("name", names())
def test_resumed_steps_are_bit_equal(name):
    net, balancer = Net(), make(name)
    train(net, balancer, steps=4, lr=1e-4)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = make(name, seed=99)
    train(Net(seed=5), fresh, steps=2, lr=1e-4)  # what it remembers must be forgotten
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    twin = copy.deepcopy(net)
    train(net, balancer, steps=3, start=4, lr=1e-4)
    train(twin, fresh, steps=3, start=4, lr=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", names())
def test_runs_in_single_precision_with_any_number_of_objectives(name, size):
    objectives = tuple("abcde"[:size])
    net, x = Net(objectives, dtype=torch.float32), inputs(dtype=torch.float32)
    least = {"Krum": 3, "NashMTL": 2, "TrimmedMean": 3}.get(name, 1)
    three = any(isinstance(value, list) for value in ARGUMENTS.get(name, {}).values())
    if size < least or three:
        with pytest.raises(ValueError, match=f"torchjd: {name} with arguments"):
            make(name, objectives)
        return
    report = make(name, objectives).backward(net.losses(x))
    assert report.weights is None or report.weights.shape == (size,)
    assert all(gradient.isfinite().all() for gradient in net.gradients().values())


def test_random_aggregators_draw_from_the_balancer():
    pytest.importorskip("torchjd")
    gramian = torch.eye(3, dtype=torch.float64)
    balancer, twin = make("Random", seed=4), make("Random", seed=4)
    first, second = (balancer.compute_weights(torch.ones(3), gramian) for _ in range(2))
    torch.manual_seed(123)
    assert not torch.equal(first, second)
    assert torch.equal(twin.compute_weights(torch.ones(3), gramian), first)
    assert not torch.equal(make("Random", seed=5).compute_weights(torch.ones(3), gramian), first)


def test_loading_forgets_what_the_saved_aggregator_did_not_know():
    pytest.importorskip("torchjd")
    losses, rows = torch.ones(3), torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    arguments = {"n_warmup_steps": 2}
    balancer, other = (
        create_balancer("torchjd", ("a", "b", "c"), aggregator="ExcessMTL", arguments=arguments) for _ in range(2)
    )
    unused = copy.deepcopy(balancer.state_dict())
    balancer.compute_weights(losses, rows)
    warming = copy.deepcopy(balancer.state_dict())
    weights = [balancer.compute_weights(losses, rows * (i + 1)) for i in range(4)]
    for _ in range(4):
        other.compute_weights(losses, rows.square())
    other.load_state_dict(warming, strict=True)
    assert all(torch.equal(other.compute_weights(losses, rows * (i + 1)), w) for i, w in enumerate(weights))
    other.load_state_dict(unused, strict=True)
    assert other.compute_weights(losses, rows).tolist() == pytest.approx([1 / 3] * 3)


def test_needs_follow_from_the_aggregator():
    pytest.importorskip("torchjd")
    needs = {name: make(name).needs for name in ("MGDA", "PCD", "ExcessMTL", "Mean", "GradDrop", "ConFIG")}
    assert needs == {
        "MGDA": "gramian",
        "PCD": "gramian",
        "ExcessMTL": "jacobian",
        "Mean": "jacobian",
        "GradDrop": "jacobian",
        "ConFIG": "jacobian",
    }


def test_options_apply():
    pytest.importorskip("torchjd")
    net, x = Net(), inputs()
    plain = make("Sum").backward(net.losses(x)).weights
    report = make("Sum", preference={"a": 4.0}).backward(net.losses(x))
    torch.testing.assert_close(report.weights, plain * torch.tensor([2.0, 0.5, 0.5]).double())
    z = net.features(x)
    report = make("MGDA", heads="weighted", update_every=2, at="features").backward(net.losses(x, z), features=z)
    assert report.weights.shape == (3,)
    with pytest.raises(ValueError, match="finds no weights, so heads='weighted'"):
        make("GradDrop", heads="weighted")
    with pytest.raises(ValueError, match="sets the length"):
        make("MGDA", scale="sum")
    with pytest.raises(ValueError, match="ExcessMTL keeps gradients from step to step"):
        make("ExcessMTL", at="features")


@pytest.mark.parametrize(
    ("aggregator", "arguments", "message"),
    [
        ("UPgrad", None, "unknown aggregator 'UPgrad'; did you mean UPGrad"),
        ("UPGradWeighting", None, "did you mean UPGrad"),
        ("WeightedAggregator", None, "unknown aggregator 'WeightedAggregator'"),
        ("MoDoWeighting", None, "known: AlignedMTL, CAGrad"),
        ("Krum", {"n_byzantine": 1}, r"Krum with arguments \{'n_byzantine': 1\}: .*4"),
        ("Krum", None, "Krum with arguments .*n_byzantine"),
        ("MGDA", {"gamma": 1}, "gamma"),
        ("AlignedMTL", {"pref_vector": [1.0, 2.0]}, "AlignedMTL with arguments"),
        ("AlignedMTL", {"scale_mode": "mean"}, "scale_mode"),
    ],
)
def test_what_does_not_fit_is_said_at_once(aggregator, arguments, message):
    pytest.importorskip("torchjd")
    with pytest.raises(ValueError, match=message):
        create_balancer("torchjd", ("a", "b", "c"), aggregator=aggregator, arguments=arguments)


def test_a_failing_aggregator_is_named(monkeypatch):
    pytest.importorskip("torchjd")
    balancer = make("MGDA")
    monkeypatch.setattr(balancer.aggregator.module.gramian_weighting, "forward", lambda gramian: gramian[0] * torch.nan)
    with pytest.raises(BalancingError, match="torchjd: MGDA returned values that are not finite"):
        balancer.backward(Net().losses(inputs()))


def test_without_torchjd_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ValueError, match=r'not installed; pip install "mozoo\[torchjd\]"'):
        create_balancer("torchjd", tuple("ab"))


@pytest.mark.parametrize("aggregator", ["Constant", "AlignedMTL", "PCGrad", "TrimmedMean"])
def test_absent_objectives_leave_an_aggregator_of_the_others(aggregator):
    pytest.importorskip("torchjd")
    arguments = ARGUMENTS.get(aggregator, {})
    fewer = {key: [value[0], value[2]] if isinstance(value, list) else value for key, value in arguments.items()}
    if aggregator == "TrimmedMean":
        arguments = fewer = {"trim_number": 0}
    net, x = Net(), inputs()
    whole = create_balancer("torchjd", tuple("abc"), aggregator=aggregator, arguments=arguments)
    others = create_balancer("torchjd", tuple("ac"), aggregator=aggregator, arguments=fewer)
    for _ in range(2):
        results = []
        for balancer in (whole, others):
            net.zero_grad()
            losses = net.losses(x)
            balancer.backward(
                {"b": None} | {key: losses[key] for key in "ac"}
                if balancer is whole
                else {key: losses[key] for key in "ac"}
            )
            results.append(net.gradients())
        assert results[0].keys() == results[1].keys()
        for key, gradient in results[0].items():
            torch.testing.assert_close(gradient, results[1][key])


def test_an_aggregator_with_a_memory_refuses_absent_objectives():
    pytest.importorskip("torchjd")
    net, balancer = Net(), create_balancer("torchjd", tuple("abc"), aggregator="GradVac")
    balancer.backward(net.losses(inputs()))
    with pytest.raises(BalancingError, match="torchjd: GradVac remembers its objectives"):
        balancer.backward(net.losses(inputs()) | {"b": None})
