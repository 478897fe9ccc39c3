"""State: a fresh balancer that loads it takes the same next steps, bit for bit."""

import copy
import io
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from balancing import balancer_class, create_balancer
from balancing.state import decode
from tests.balancing.formulas import names, next_update, next_weights, rows
from tests.balancing.problems import ALL, BILEVEL, JACOBIAN, SYMMETRIC, Net, inputs, make, train

CASES = [(name, {}) for name in ALL] + [
    ("mgda", {"update_every": 4}),
    ("realtime", {"weight_ema": 0.9}),
    ("pcgrad", {"weight_ema": 0.5, "update_every": 3}),
    ("initial_loss", {"batches": 5}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_resumed_steps_are_bit_equal(name, options):
    net, balancer = Net(), make(name, **options)
    train(net, balancer, steps=7)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = make(name, seed=99, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    twin = copy.deepcopy(net)
    train(net, balancer, steps=5, start=7)
    train(twin, fresh, steps=5, start=7)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    mine, theirs = balancer.state_dict(), fresh.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine:
        if isinstance(mine[key], torch.Tensor):
            assert torch.equal(mine[key], theirs[key]), key


def test_counters_survive():
    balancer = make("mgda")
    train(Net(), balancer, steps=3)
    fresh = make("mgda")
    fresh.load_state_dict(balancer.state_dict())
    assert fresh.step == 3


@pytest.mark.parametrize(("name", "options"), [*SYMMETRIC, ("rlw", {}), ("cosmos", {"alpha": 0.7})])
def test_a_fresh_balancer_goes_on_where_another_stopped(name, options):
    history = torch.rand(9, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    balancer = create_balancer(name, ("a", "b", "c"), **options)
    for t, losses in enumerate(history[:5]):
        next_weights(balancer, losses)
        if t % 2:
            balancer.next_epoch()
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = create_balancer(name, ("a", "b", "c"), seed=99, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for t, losses in enumerate(history[5:]):
        assert torch.equal(next_weights(fresh, losses), next_weights(balancer, losses))
        if t % 2:
            fresh.next_epoch()
            balancer.next_epoch()


@pytest.mark.parametrize("name", ["gradvac", "modo", "sdmgrad", "grad_normalize"])
def test_state_makes_the_next_weights_equal(name):
    options = {"gradvac": {"beta": 0.5}, "sdmgrad": {"solver": "sgd"}, "grad_normalize": {"alpha": 1.0}}.get(name, {})
    balancer = create_balancer(name, names(4), **options)
    for seed in range(3):
        j, losses = rows("random", 4, seed), torch.rand(4, dtype=torch.float64) + 0.1
        balancer.compute_weights(losses, j @ j.T)
    fresh = create_balancer(name, names(4), **options)
    fresh.load_state_dict(balancer.state_dict())
    j = rows("random", 4, 9)
    assert torch.equal(fresh.compute_weights(losses, j @ j.T), balancer.compute_weights(losses, j @ j.T))


@pytest.mark.parametrize("name", JACOBIAN)
def test_state_makes_the_next_update_equal(name):
    balancer, losses = create_balancer(name, names(3)), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    for seed in range(4):
        next_update(balancer, losses, rows("random", 3, seed))
    fresh = create_balancer(name, names(3))
    fresh.load_state_dict(balancer.state_dict())
    for seed in (4, 5):
        j = rows("random", 3, seed)
        assert torch.equal(next_update(fresh, losses, j), next_update(balancer, losses, j))


class Tensors(pickle.Pickler):
    """Collects the tensors that an object holds."""

    def __init__(self):
        super().__init__(io.BytesIO())
        self.found = []

    def reducer_override(self, value):
        if isinstance(value, torch.Tensor):
            self.found.append(value)
        return NotImplemented


@pytest.mark.parametrize("way", [copy.deepcopy, lambda balancer: pickle.loads(pickle.dumps(balancer))])
@pytest.mark.parametrize("name", [*ALL, ["uncertainty", "moco"]])
def test_a_copy_has_the_state_and_nothing_of_the_model(name, way):
    net, balancer = Net(), make(name)
    train(net, balancer, steps=4)
    fresh = make(name)
    fresh.load_state_dict(balancer.state_dict())
    balancer.backward(net.losses(inputs()), last=False)
    twin = way(balancer)
    tensors = Tensors()
    tensors.dump(twin)
    state = {t.untyped_storage().data_ptr() for t in (*twin.parameters(), *twin.buffers())}
    assert state <= {t.untyped_storage().data_ptr() for t in tensors.found}
    model = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert not model & {t.untyped_storage().data_ptr() for t in tensors.found}
    assert all(t.grad_fn is None for t in tensors.found)
    results = []
    for each in (twin, fresh):
        net.zero_grad()
        report = each.backward(net.losses(inputs(seed=5)))
        results.append({**net.gradients(), "losses": report.losses})
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


class Trained(nn.Module):
    """A user's module that holds model and balancer."""

    def __init__(self, name, objectives=("a", "b", "c")):
        super().__init__()
        self.net, self.balancer = Net(objectives), make(name, objectives)


@pytest.mark.parametrize("name", [*ALL, *BILEVEL, ["uncertainty", "moco"]])
def test_safetensors_saves_a_module_with_a_balancer(name, tmp_path):
    module, fresh = Trained(name), Trained(name)
    if name not in BILEVEL:
        train(module.net, module.balancer, steps=4)
    safetensors.torch.save_model(module, str(tmp_path / "module.safetensors"))
    safetensors.torch.load_model(fresh, str(tmp_path / "module.safetensors"))
    for key, value in module.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key]), key


@pytest.mark.parametrize(
    "options", [{}, {"use_buffers": True}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9), "use_buffers": True}]
)
@pytest.mark.parametrize("name", [*ALL, *BILEVEL])
def test_a_module_with_a_balancer_can_be_averaged(name, options):
    module = Trained(name)
    averaged = AveragedModel(module, **options)
    for start in range(2):
        if name not in BILEVEL:
            train(module.net, module.balancer, steps=1, start=start)
        averaged.update_parameters(module)
    assert averaged.module.net.trunk[0].weight.isfinite().all()
    assert not any(buffer.dtype == torch.bool for buffer in module.buffers())  # bool cannot be averaged


def test_a_state_of_something_else_is_one_message():
    state = create_balancer("uncertainty", ("depth", "seg")).state_dict()
    cases = [
        (
            create_balancer("uncertainty", ("seg", "depth")),
            "uncertainty: .*in another order: depth, seg there, seg, depth",
        ),
        (
            create_balancer("uncertainty", ("depth", "edge")),
            "is of other objectives: depth, seg there, depth, edge here",
        ),
        (create_balancer("mgda", ("depth", "seg")), "mgda: the state is of the method 'uncertainty', not of 'mgda'"),
        (create_balancer("uncertainty", ("depth", "seg"), form="log1p"), "form='gaussian'.* has form='log1p'"),
        (create_balancer("uncertainty", ("depth", "seg"), log_losses=False, before="dwa"), "'uncertainty' after 'dwa'"),
    ]
    for balancer, message in cases:
        before = copy.deepcopy(balancer.state_dict())
        with pytest.raises(ValueError, match=message):
            balancer.load_state_dict(state)
        assert all(torch.equal(value, before[key]) for key, value in balancer.state_dict().items())
    with pytest.raises(ValueError, match="normalize='l2', but this balancer has normalize='none'"):
        make("mgda").load_state_dict(make("mgda", normalize="l2").state_dict())
    module = Trained("pcgrad", ("a", "b"))
    with pytest.raises(ValueError, match="pcgrad: the state is of other objectives"):
        module.load_state_dict(Trained("pcgrad", ("a", "c")).state_dict())


BY_NAME = [name for name in ALL if not balancer_class(name).positional]
#: Methods whose steps depend on the order of the objectives or on chance.
ORDERED = ("alternating", "single", "rlw", "preference_sampling", "pcgrad", "gradvac", "graddrop")
PRIMARY = ("pcd", "cosine_gate", "metabalance", "lra")


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ORDERED])
def test_a_state_is_loaded_into_another_order_by_name(name):
    """The next step is that of the balancer whose state it is."""
    given = {"prior_losses": {"a": 1.0, "b": 2.0, "c": 3.0}} if name == "prior_loss" else {}
    given |= {"primary": "a"} if name in PRIMARY else {}
    net, balancer = Net(), make(name, **given)
    train(net, balancer, steps=5)
    turned = make(name, ("c", "a", "b"), **given)
    assert turned.load_objectives(balancer.state_dict()) == ()
    found = []
    for each in (balancer, turned):
        net.zero_grad()
        report = each.backward(net.losses(inputs(seed=5)))
        found.append(net.gradients())
        if report.weights is not None:
            by_name = dict(zip(report.objectives, report.weights.tolist(), strict=True))
            found[-1]["weights"] = torch.tensor([by_name[key] for key in "abc"])
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", BY_NAME)
def test_states_by_name_are_those_of_the_same_objectives(name):
    """Tensors by objective move with it; those of a new one are as in a fresh balancer; one that left is forgotten."""
    given = {"primary": "a"} if name in PRIMARY else {}
    balancer, fresh = make(name, **given), make(name, ("n", "c", "a"), **given)
    train(Net(), balancer, steps=5)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    assert fresh.load_objectives(balancer.state_dict()) == ("n",)
    vectors = 0
    for key, value in balancer.state_dict().items():
        if key.endswith("_extra_state"):
            saved, now = decode(value), decode(fresh.state_dict()[key])
            assert now["objectives"] == ("n", "c", "a")
            assert {k: now[k] for k in ("step", "epoch", "skips")} == {k: saved[k] for k in ("step", "epoch", "skips")}
        elif value.shape == (3,):
            assert fresh.state_dict()[key].tolist() == [before[key][0].item(), value[2].item(), value[0].item()]
            vectors += 1
        elif value.dim() == 0:
            assert torch.equal(fresh.state_dict()[key], value)
    assert vectors > 0


@pytest.mark.parametrize("name", PRIMARY)
def test_a_state_of_another_primary_objective_is_refused(name):
    state, message = make(name).state_dict(), f"{name}: the state is of primary='a', but this balancer has primary="
    with pytest.raises(ValueError, match=f"{message}'b'"):
        make(name, primary="b").load_state_dict(state)
    with pytest.raises(ValueError, match=f"{message}'c'"):
        make(name, ("c", "a", "b")).load_objectives(state)  # whose first objective is another
    make(name, ("c", "a", "b"), primary="a").load_objectives(state)


def test_neighbors_are_not_loaded_by_name():
    with pytest.raises(ValueError, match="ldc_mtl: its state depends on the order of the objectives"):
        make("ldc_mtl", ("c", "a", "b")).load_objectives(make("ldc_mtl").state_dict())
