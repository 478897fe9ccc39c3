"""``memory="lean"``: the same gradients and Gramians, with about one gradient in memory at a time."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from balancing import BalancingError, create_balancer, group_parameters
from balancing.measuring import cuts, lean
from lab.timing import peak_bytes
from tests.balancing import test_set_ups  # noqa: F401, it enters the set-ups into the table
from tests.balancing.problems import GRAMIAN, make
from tests.balancing.set_ups.processes import PAIRS
from tests.balancing.set_ups.table import CHECKS, METHODS, SLOW

#: Set-ups in which segments are most likely to go wrong.
FEW = (
    *("tied_weights", "lstm", "transformer", "checkpoint_batch_norm", "function_with_variable", "spectral_norm"),
    *("concatenated_outputs", "layer_of_two_concatenated", "outputs_written_in_place", "experts", "shared_tail"),
    *("absent_from_the_start", "probe_head", "superfluous_shared", "grad_scaler", "full_backward_hook", "loss_matrix"),
)
#: Half precision rounds a weighted sum in another way than its parts.
ROUNDED = ("autocast_bfloat16", "autocast_float16")


@pytest.fixture
def fine(monkeypatch):
    """Cuts wherever the graph has some."""
    monkeypatch.setattr(cuts, "_GAIN", 1e9)
    monkeypatch.setattr(cuts, "_AGAIN", 1e9)
    find = cuts.find_segments
    monkeypatch.setattr(lean, "find_segments", lambda roots, leaves, rows: find(roots, leaves, 10**9))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FEW else pytest.mark.slow)
        for name, methods in METHODS.items()
        if "mgda" in methods and name not in {*PAIRS, *SLOW, *ROUNDED}
    ],
)
def test_set_up_is_right_or_refused_by_name(name, fine, monkeypatch):
    make_lean = lean.Lean.__init__
    monkeypatch.setattr(lean.Lean, "__init__", lambda self, owner, asked: make_lean(self, owner, True))
    monkeypatch.setattr(lean.Lean, "_tell", lambda self, reason: None)
    CHECKS[name]("mgda")


class Block(nn.Module):
    """A residual block, inside of which there is no cut."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x):
        return (x + self.body(x)).tanh()


class Deep(nn.Module):
    """A trunk of residual blocks, and a head per objective."""

    def __init__(self, objectives=("a", "b", "c"), blocks=3, width=6, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, width), *(Block(width) for _ in range(blocks)))
        self.head = nn.ModuleDict({name: nn.Linear(width, 2) for name in objectives})
        self.to(dtype)

    def losses(self, x):
        z = self.trunk(x)
        pairs = enumerate(self.head.items())
        return {name: 3.0**i * (head(z) - (-1.0) ** i * (1 + x[:, :2])).square().mean() for i, (name, head) in pairs}

    def gradients(self):
        return {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}


def batch(seed=1, dtype=torch.float64):
    return torch.randn(8, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def both(make_losses, net, method="mgda", steps=1, options=None, **arguments):
    """Reports and gradients of some steps with whole gradients, and with segments."""
    found = []
    for memory in ("full", "lean"):
        balancer, reports = make(method, memory=memory, **(options or {})), []
        for step in range(steps):
            net.zero_grad()
            torch.manual_seed(step)
            reports.append(balancer.backward(make_losses(step), **arguments))
        found.append((reports, net.gradients()))
    return found


def assert_equal(found, tolerance=1e-9):
    (full, wanted), (reports, actual) = found
    assert actual.keys() == wanted.keys()
    size = max(float(g.norm()) for g in wanted.values())
    for name, gradient in actual.items():
        assert float((gradient - wanted[name]).norm()) <= tolerance * size, name
    for mine, right in zip(reports, full, strict=True):
        torch.testing.assert_close(mine.gramian, right.gramian, rtol=tolerance, atol=0)
        torch.testing.assert_close(mine.weights, right.weights, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", GRAMIAN)
def test_every_gramian_method_gets_the_same_gradients(method, fine):
    net = Deep()
    assert_equal(both(lambda step: net.losses(batch(step)), net, method, steps=2))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"max_norm": 0.01}, {}),
        ({"heads": "weighted", "normalize": "l2"}, {}),
        ({"update_every": 2}, {}),
        ({}, {"retain_graph": True}),
        ({}, {"scaler": torch.amp.GradScaler("cpu", init_scale=2.0**10)}),
    ],
)
def test_options_and_arguments_mean_the_same(options, arguments, fine):
    net = Deep()
    assert_equal(both(lambda step: net.losses(batch(step)), net, options=options, **arguments))


def test_groups_get_weights_of_their_own(fine):
    net = Deep()
    found = both(lambda step: net.losses(batch()), net, groups=group_parameters(net.trunk, "layer"))
    assert_equal(found)
    for name, report in found[0][0][0].groups.items():
        torch.testing.assert_close(found[1][0][0].groups[name].weights, report.weights)


def test_an_absent_objective_rests(fine):
    net = Deep()
    (_, wanted), (_, actual) = both(lambda step: net.losses(batch()) | {"b": None}, net)
    assert actual.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(actual[name], gradient)


def test_one_loss_may_be_computed_from_another(fine):
    net = Deep()

    def losses(step):
        found = net.losses(batch())
        return found | {"c": found["a"] * found["b"].square() + net.trunk[0].weight.square().sum()}

    assert_equal(both(losses, net))


@pytest.mark.parametrize("hook", [lambda g: 2 * g, lambda g: g.clamp(-0.01, 0.01)])
def test_a_tied_parameter_is_measured_with_all_its_uses(hook, fine):
    net = Deep()
    net.trunk[3].body[2].weight = net.trunk[1].body[0].weight
    net.trunk[1].body[0].weight.register_hook(hook)
    (full, wanted), (reports, actual) = both(lambda step: net.losses(batch()), net)
    torch.testing.assert_close(reports[0].gramian, full[0].gramian, rtol=1e-9, atol=0)
    if hook(torch.ones(())) == 2:  # one that is not linear sees the gradient of the weighted sum
        assert_equal(((full, wanted), (reports, actual)))


@pytest.mark.parametrize(
    "hook", [lambda g: 2 * g, lambda g: g.clamp(-0.01, 0.01), lambda g: g / g.norm() if g.norm() > 0.1 else None]
)
def test_a_hook_in_the_trunk_is_applied_once(hook, fine):
    net = Deep()

    def losses(step):
        handles = [
            block.register_forward_hook(lambda *call: call[2].register_hook(hook) and None) for block in net.trunk
        ]
        found = net.losses(batch())
        for handle in handles:
            handle.remove()
        return found

    # a hook that is not linear makes another sum of the rows than of the losses
    (full, _), (reports, _) = both(losses, net)
    torch.testing.assert_close(reports[0].gramian, full[0].gramian, rtol=1e-9, atol=0)


def test_a_module_with_a_full_backward_hook_keeps_the_gradients(fine):
    net = Deep()
    net.trunk[2].register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))
    with pytest.warns(UserWarning, match="full backward hooks"):
        assert_equal(both(lambda step: net.losses(batch()), net))


def test_a_hook_that_steps_a_parameter_runs_when_the_graph_is_done_with(fine):
    net, stepped = Deep(), {}

    def step(p):
        stepped[id(p)] = stepped.get(id(p), 0) + 1
        with torch.no_grad():
            p.sub_(0.1 * p.grad)
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    make("mgda", memory="lean").backward(net.losses(batch()))
    assert stepped == {id(p): 1 for p in net.parameters()}


def test_segments_hold_every_leaf_once_and_borders_are_not_nested():
    net = Deep()
    net.trunk[3].body[2].weight = net.trunk[1].body[0].weight
    leaves = list(net.trunk.parameters())
    segments = cuts.find_segments(list(net.losses(batch()).values()), leaves, rows=8)
    chunks = [chunk for segment in segments for chunk in segment.chunks]
    assert len(segments) > 1
    assert sorted(id(leaf) for chunk in chunks for leaf in chunk) == sorted(map(id, leaves))
    for segment in segments[:-1]:
        nodes = {node for node, _ in segment.border}
        assert nodes
        for node in nodes:
            assert not nodes & {below for child, _ in node.next_functions for below in all_below(child)}


def all_below(node):
    found, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += [child for child, _ in node.next_functions]
    return found


def test_about_one_gradient_is_in_memory_at_a_time():
    names = tuple("abcdef")
    net = Deep(names, blocks=7, width=160, dtype=torch.float32)
    gradient, x = sum(4 * p.numel() for p in net.trunk.parameters()), batch(dtype=torch.float32)
    peaks = {}
    for memory in ("full", "lean"):
        balancer = create_balancer("mgda", names, memory=memory)
        balancer.backward(net.losses(x))  # what is known of the leaves afterwards takes part
        net.zero_grad()
        peaks[memory] = peak_bytes(lambda balancer=balancer: balancer.backward(net.losses(x)))
    assert peaks["full"] > 5 * gradient
    assert peaks["lean"] < 2.2 * gradient


class Whole(torch.autograd.Function):
    """All layers of a trunk as one node of the graph, as ``torch.compile`` makes it."""

    @staticmethod
    def forward(ctx, x, first, second):
        ctx.save_for_backward(x, first, second)
        return x @ first @ second

    @staticmethod
    def backward(ctx, gradient):
        x, first, second = ctx.saved_tensors
        return None, x.T @ gradient @ second.T, (x @ first).T @ gradient


def test_a_graph_of_one_node_keeps_the_gradients_and_warns_once():
    net = Deep()
    net.trunk = nn.ParameterList([torch.ones(5, 7, dtype=torch.float64), torch.ones(7, 6, dtype=torch.float64)])

    def losses(step):
        z = Whole.apply(batch(step), *net.trunk)
        return {name: (head(z) - i).square().mean() for i, (name, head) in enumerate(net.head.items())}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_equal(both(losses, net, steps=2))
    assert sum("cannot be cut" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mgda", {"at": "features"}, "at='shared'"),
        ("mgda", {"at": "subset"}, "at='shared'"),
        ("graddrop", {}, "whole gradients"),
        ("moco", {}, "whole gradients"),
        ("uncertainty", {}, "measures no gradients"),
    ],
)
def test_where_lean_has_no_meaning_it_is_refused(method, options, message):
    with pytest.raises(ValueError, match=f"{method}: .*{message}"):
        make(method, memory="lean", **options)


def test_micro_batches_are_refused_or_keep_the_gradients(monkeypatch, fine):
    net = Deep()
    with pytest.raises(ValueError, match=r"micro-batches.*memory='full'"):
        make("mgda", memory="lean").backward(net.losses(batch()), last=False)
    assert not net.gradients()
    monkeypatch.setattr(lean, "free_bytes", lambda device: 0)
    gradients = []
    for memory in ("full", None):
        net.zero_grad()
        balancer = make("mgda", memory=memory)
        balancer.backward(net.losses(batch(1)), last=False)
        balancer.backward(net.losses(batch(2)))
        gradients.append(net.gradients())
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient)


def test_it_is_lean_where_the_gradients_do_not_fit_and_says_so_once(monkeypatch, fine):
    net, used = Deep(), []
    find = lean.find_segments
    monkeypatch.setattr(lean, "find_segments", lambda *given: used.append(1) or find(*given))
    size = 3 * 8 * sum(p.numel() for p in net.trunk.parameters())
    for free, is_lean in ((2 * size, False), (2 * size - 1, True), (None, False)):
        monkeypatch.setattr(lean, "free_bytes", lambda device, free=free: free)
        used.clear()
        balancer = make("mgda")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(2):
                net.zero_grad()
                balancer.backward(net.losses(batch(step)))
        assert len(used) == 2 * is_lean
        assert sum("more than half" in str(warning.message) for warning in caught) == is_lean
    assert lean.free_bytes(torch.device("cpu")) is None or lean.free_bytes(torch.device("cpu")) > 0


def test_state_is_the_same_and_goes_on_bit_for_bit(fine):
    net, first = Deep(), make("nash_mtl", memory="lean")
    for step in range(2):
        first.backward(net.losses(batch(step)))
    second, other = make("nash_mtl", memory="lean"), make("nash_mtl", memory="full")
    second.load_state_dict(first.state_dict())
    other.load_state_dict(first.state_dict())
    found = []
    for balancer in (first, second, pickle.loads(pickle.dumps(second)), copy.deepcopy(second)):
        net.zero_grad()
        balancer.backward(net.losses(batch(3)), advance=False)
        found.append(net.gradients())
    for name, gradient in found[0].items():
        assert all(torch.equal(other[name], gradient) for other in found[1:])


def test_parameters_in_shards_are_refused_by_name(monkeypatch):
    net = Deep()
    monkeypatch.setattr("balancing.measuring.graph.LossGraph.shards", object())
    with pytest.raises(BalancingError, match=r"shards.*memory='full'"):
        lean.Lean("mgda", asked=True).segments(graph_of(net), list(net.trunk.parameters()))


def graph_of(net):
    from balancing.measuring.call import Call
    from balancing.measuring.graph import LossGraph
    from balancing.measuring.sharing import Sharing
    from balancing.measuring.step_losses import StepLosses

    losses = list(net.losses(batch()).values())
    return LossGraph("mgda", "abc", StepLosses.of(losses), Call(), None, Sharing("mgda"), False)
